"""The plugin as a package: found by Snakemake, and free of anything it does not need."""

import ast
import json
import re
import tomllib
from pathlib import Path

from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

ROOT = Path(__file__).parent.parent


def test_snakemake_finds_the_plugin_and_the_catalog_can_list_its_settings():
    plugin = LoggerPluginRegistry().get_plugin("mixar")

    assert plugin.log_handler.__module__ == "snakemake_logger_plugin_mixar"
    assert json.loads(json.dumps(plugin.get_settings_info())) == []


def test_the_plugin_catalog_finds_its_pages_and_no_invented_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = project.get("urls", {})

    assert (ROOT / "docs" / "intro.md").is_file() and (ROOT / "docs" / "further.md").is_file()
    assert not urls or urls["Repository"].endswith(f"/{project['name']}")  # where the catalog reads docs/
    assert all(re.fullmatch(r"https://[a-z0-9./_-]+", url) for url in urls.values())  # OWNER is a placeholder


def test_it_needs_nothing_but_the_logger_interface():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "src").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    used |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    roots = {name.split(".")[0] for name in used} - set(__import__("sys").stdlib_module_names)

    assert roots == {"snakemake_interface_logger_plugins", "snakemake_logger_plugin_mixar"}
