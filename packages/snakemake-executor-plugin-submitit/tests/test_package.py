"""The plugin as a package: found by Snakemake however it is installed, and light to import."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

ROOT = Path(__file__).parent.parent


def test_importing_the_plugin_starts_no_process_and_imports_no_submitit():
    code = (
        "import sys, subprocess, os\n"
        "def refuse(*a, **k): raise SystemExit('a process was started')\n"
        "subprocess.Popen.__init__ = os.fork = os.posix_spawn = os.system = refuse\n"
        "import snakemake_executor_plugin_submitit\n"
        "heavy = {'submitit', 'torch', 'snakemake'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert (result.returncode, result.stderr) == (0, "")


LISTED = (
    "from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry as R\n"
    "plugin = R().get_plugin('submitit'); print(plugin._executor_settings_cls.__name__, plugin.executor.__module__)\n"
    "import snakemake_executor_plugin_submitit as p; print(p.__file__)"
)


def test_snakemake_finds_the_plugin_in_the_editable_install(tmp_path):
    result = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True, cwd=tmp_path)

    assert "ExecutorSettings snakemake_executor_plugin_submitit.executor" in result.stdout, result.stderr
    assert str(ROOT / "src") in result.stdout


def test_the_plugin_catalog_can_list_the_settings():
    settings = json.loads(json.dumps(ExecutorPluginRegistry().get_plugin("submitit").get_settings_info()))

    assert {"cluster", "site", "folder", "detach"} <= {setting["name"] for setting in settings}
    assert all(setting["help"].endswith((".", ")")) for setting in settings)


def test_the_plugin_catalog_finds_its_pages_and_no_invented_address():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = project.get("urls", {})

    assert (ROOT / "docs" / "intro.md").is_file() and (ROOT / "docs" / "further.md").is_file()
    assert not urls or urls["Repository"].endswith(f"/{project['name']}")  # where the catalog reads docs/
    assert all(re.fullmatch(r"https://[a-z0-9./_-]+", url) for url in urls.values())  # OWNER is a placeholder


def test_snakemake_finds_the_plugin_in_the_wheel(tmp_path):
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    words = [sys.executable, "-c", build]
    name = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[-1]
    with zipfile.ZipFile(tmp_path / name) as wheel:
        wheel.extractall(tmp_path / "site")

    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", LISTED], capture_output=True, text=True, cwd=tmp_path, env=environment
    )

    assert "ExecutorSettings snakemake_executor_plugin_submitit.executor" in result.stdout, result.stderr
    assert str(tmp_path / "site") in result.stdout


def test_the_tests_that_the_readme_names_exist():
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/further.md"))
    named = set(re.findall(r"\btest_\w+\.py\b", text))

    functions = set(re.findall(r"\b(test_\w+\.py)::(test_\w+)", text))

    assert len(named) > 10 and len(functions) > 5
    assert named <= {path.name for path in Path(__file__).parent.glob("test_*.py")}
    for file, function in functions:
        assert f"def {function}(" in (Path(__file__).parent / file).read_text(encoding="utf-8"), f"{file}::{function}"
