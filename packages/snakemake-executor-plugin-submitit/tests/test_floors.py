"""Who may import whom: each floor knows those below it, and there are no circles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

NAME = "snakemake_executor_plugin_submitit"
SOURCE = Path(__file__).parent.parent / "src" / NAME
MODULES = {
    ".".join([NAME, *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
# Room or module at the top -> what it may import besides itself.
MAY_IMPORT = {
    "slurm": set(),
    "records": set(),
    "parameters": set(),
    "settings": {"parameters"},
    "node": {"records", "slurm"},
    "driver": {"node", "parameters", "records", "settings", "slurm"},
    "executor": {"driver", "parameters", "records", "settings", "slurm"},
    "__init__": {"executor", "settings"},
}


def imports(path):
    """Modules of this package that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names if name.startswith(NAME))
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith(NAME) for alias in node.names), f"{path}: import names from the module"


def room(module):
    return module.removeprefix(NAME).lstrip(".").split(".")[0] or "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module):
    above = {room(found) for found in imports(MODULES[module])} - MAY_IMPORT[room(module)] - {room(module)}

    assert not above, f"{module} may not import {above}"


def test_no_module_imports_itself_through_others():
    graph = {module: set(imports(path)) for module, path in MODULES.items()}

    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)  # raises CycleError


def test_the_node_and_the_records_know_no_snakemake():
    for module, path in MODULES.items():
        if room(module) in ("node", "records", "slurm", "parameters"):
            assert "import snakemake_interface" not in path.read_text() and "from snakemake_i" not in path.read_text()
