"""Who may import whom, which tests there must be, and that the lists of packages agree."""

import ast
import graphlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "mixar").rglob("*.py"))

# Part of the package -> the parts it may import besides itself.
CELLAR = {"process", "storage"}  # every room may use them
GROUND = CELLAR | {"assets", "study", "weights", "device"}
MAY_IMPORT = {
    "process": set(),
    "storage": {"process"},
    "assets": CELLAR,
    "study": CELLAR | {"assets"},
    "weights": CELLAR | {"assets"},
    "device": {"study"},
    "released": GROUND | {"model", "tokens"},
    "model": GROUND,
    "data": GROUND,
    "tokens": GROUND | {"model"},
    "scoring": GROUND,
    "reporting": GROUND | {"data", "scoring"},
    "training": GROUND | {"model"},
    "trial": GROUND | {"model", "data", "tokens", "scoring", "training"},
    "preview": GROUND | {"model", "data", "tokens", "reporting"},
    "stages": GROUND | {"model", "data", "tokens", "scoring", "training", "reporting", "released", "trial", "preview"},
    "__main__": GROUND | {"stages"},
    "__init__": set(),
}
# The one module above `study` that it may import: records, which import nothing of mixar.
CATALOGUE = "mixar/scoring/catalogue.py"
# Nothing that the workflow parses may wait for these.
HEAVY = {"torch", "timm", "torch_fidelity", "safetensors", "huggingface_hub"}
TORCH = ("weights", "device", "fetch")  # the modules of the ground floor that import it, or what imports it
# Inside model/: later files may import earlier ones.
MODEL_ORDER = [
    ["masking", "diffusion", "layers", "patches", "ti_mix"],
    ["head", "guidance"],
    ["mar"],
    ["decode", "cost"],
]


def imports(path):
    """Dotted names that a file imports, those inside functions included, those for type hints alone left out."""
    tree = ast.parse(path.read_text())
    hints = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {inner for block in hints for inner in ast.walk(block)}
    for node in (n for n in ast.walk(tree) if n not in skipped):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(path):
    return path.relative_to(ROOT / "mixar").parts[0].removesuffix(".py")


def own_imports(path):
    """Pairs (part, module) of mixar that a file imports."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mixar" and len(parts) > 1:
            yield parts[1], parts[2] if len(parts) > 2 else ""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    part = part_of(path)

    found = set(own_imports(path))
    if part == "study":
        found.discard(("scoring", "catalogue"))
    itself = set() if part == "stages" else {part}  # a stage imports no stage
    surplus = {found for found, _ in found} - MAY_IMPORT[part] - itself

    assert not surplus, f"{part} may not import {surplus}"


def test_no_part_is_above_itself():
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()  # raises CycleError


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_two_modules_import_each_other_even_by_a_detour():
    names = {module_of(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        found = {name if name in names else name.rpartition(".")[0] for name in imports(path)}
        graph[module_of(path)] = found & names - {module_of(path)}

    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) in GROUND and p.stem not in TORCH], ids=str)
def test_what_the_workflow_parses_knows_no_torch(path):
    assert not {name.split(".")[0] for name in imports(path)} & HEAVY


def test_the_catalogue_imports_nothing_of_mixar_and_no_torch():
    assert not {name.split(".")[0] for name in imports(ROOT / CATALOGUE)} & {"mixar", *HEAVY}


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) == "model"], ids=lambda p: p.name)
def test_model_files_import_only_earlier_files(path):
    floor = {name: i for i, names in enumerate(MODEL_ORDER) for name in names}
    own = floor.get(path.stem, len(MODEL_ORDER))

    for part, module in own_imports(path):
        assert part != "model" or floor.get(module, 0) <= own, f"{path.name} may not import {module}"


@pytest.mark.parametrize("path", [p for p in MODULES if part_of(p) == "model"], ids=lambda p: p.name)
def test_the_model_knows_no_rank_no_device_and_no_global_randomness(path):
    text = path.read_text()

    for word in ("torch.distributed", ".cuda(", "manual_seed", "os.environ", "np.random", "open("):
        assert word not in text, f"{path.name} uses {word}"


def test_tokens_take_only_the_patches_of_the_model():
    for path in MODULES:
        if part_of(path) == "tokens":
            taken = {module for part, module in own_imports(path) if part == "model"}
            assert taken <= {"patches"}, f"{path.name} imports {taken}"


# Folders and files of tests about something else than a module.
OF_THE_REPOSITORY = {"benchmarks", "docs", "resources", "workflow", "test_architecture", "test_project"}


def test_a_file_of_tests_is_named_after_a_module_of_its_room():
    for path in (ROOT / "tests").rglob("test_*.py"):
        room = path.parent.relative_to(ROOT / "tests")
        if {path.stem, *room.parts} & OF_THE_REPOSITORY:
            continue
        modules = {module.stem.strip("_") for module in (ROOT / "mixar" / room).iterdir()}
        words = path.stem.split("_")[1:]
        beginnings = {"_".join(words[:count]) for count in range(1, len(words) + 1)}
        assert beginnings & modules, f"{path}: expected test_<module>.py or test_<module>_<aspect>.py"


# Modules that are tested through those that use them. A new module gets its own file of tests.
TESTED_ELSEWHERE = {
    "trial",  # by stages/test_check.py, which calls it with whole studies
}


def test_a_module_has_a_file_of_tests():
    elsewhere = set()
    for path in MODULES:
        name, tests = module_of(path).removeprefix("mixar."), ROOT / "tests" / path.parent.relative_to(ROOT / "mixar")
        stem = path.stem.strip("_")
        own = [*tests.glob(f"test_{stem}.py"), *tests.glob(f"test_{stem}_*.py")]
        elsewhere |= set() if path.stem == "__init__" or own else {name}
        assert elsewhere <= TESTED_ELSEWHERE, f"{path}: write {tests}/test_{stem}.py"

    assert elsewhere == TESTED_ELSEWHERE, "shorten the list"


# What tests set within mixar, and why no argument, own code of a study or fake at the edge does.
PROTOCOLS = "a protocol is a row with a name; no study can bring its own"
PATCHED = {
    "mixar.scoring.protocols.PROTOCOLS": PROTOCOLS,
    "mixar.scoring.protocols.DATA": PROTOCOLS,
    "mixar.assets.table.ASSETS": "the hash of ADM's 30 MB of statistics, which no test can download",
    "mixar.scoring.catalogue.METRICS": "shows that a record is all that a built-in metric needs",
    "mixar.scoring.catalogue.NETWORKS": "a further network of gigabytes under its name; a loader that notes its resize",
    "mixar.scoring.networks.inception": "Inception has 95 MB of weights with a known hash and takes a second per image",
    "mixar.scoring.networks.vgg16": "torch-fidelity's VGG16 takes half a gigabyte",
    "mixar.released.KINDS": "a preset of a few thousand parameters; released ones have 200 million",
    "mixar.weights": "safetensors' reader, out of memory",
}


def patched(path):
    """Objects of mixar that a file of tests changes: by a fixture, by `unittest.mock`, or by assignment."""
    tree, names = ast.parse(path.read_text(encoding="utf-8")), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def imported(node):
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        return names.get(node.id, "") if isinstance(node, ast.Name) else getattr(node, "value", "")

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args:
            method = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if method in ("setattr", "setitem", "delattr", "delitem", "patch", "object"):
                yield imported(node.args[0])
        elif isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Attribute | ast.Subscript):
                    yield imported(target)


def test_tests_change_nothing_within_mixar_but_what_is_listed_here():
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests").rglob("*.py")
        for name in patched(path)
        if str(name).startswith("mixar.")
    }

    assert not {(path, name) for path, name in found if name not in PATCHED}
    assert {name for _, name in found} == PATCHED.keys(), "shorten the list"


def test_only_one_module_speaks_to_other_processes():
    users = {
        str(path.relative_to(ROOT)) for path in MODULES if any(n.startswith("torch.distributed") for n in imports(path))
    }

    assert users <= {"mixar/training/distributed.py"}


def test_plugins_and_package_never_meet():
    for path in (ROOT / "packages").glob("*/src/**/*.py"):
        assert not any(name.split(".")[0] == "mixar" for name in imports(path)), path
    for path in MODULES:
        assert not any(name.split(".")[0].startswith("snakemake") for name in imports(path)), path


def test_no_weights_are_read_with_a_plain_pickle():
    for path in MODULES:
        text = path.read_text()
        assert not re.search(r"^\s*(import pickle|from pickle import (?!UnpicklingError$))", text, re.M), path
        for call in re.findall(r"torch\.load\([^)]*\)", text):
            assert "weights_only=True" in call, f"{path}: {call}"


def requirements():
    """What the project and its packages require, with the development extra: name -> version specifiers."""
    found = {}
    for file in (ROOT / "pyproject.toml", *(ROOT / "packages").glob("*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        for text in project["dependencies"] + project["optional-dependencies"]["dev"]:
            requirement = Requirement(text)
            found[requirement.name.lower()] = (
                found.get(requirement.name.lower(), SpecifierSet()) & requirement.specifier
            )
    return found


def test_environment_yml_lists_what_the_project_and_its_packages_require():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())

    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))

    assert {Requirement(text).name.lower(): Requirement(text).specifier for text in pip} == requirements()
    assert len(pip) == len(requirements())


def test_the_lock_pins_and_hashes_every_package_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text()

    entries = re.findall(r"^([A-Za-z0-9._-]+)==\S+(.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)*)", text, re.M)

    assert requirements().keys() <= {name.lower() for name, _ in entries}
    assert all("--hash=sha256:" in rest for _, rest in entries)
    assert "://" not in text
    assert "--index" not in text


def test_every_imported_package_is_required():
    stdlib = __import__("sys").stdlib_module_names
    distribution = {
        "PIL": "pillow",
        "yaml": "pyyaml",
        "pydantic_core": "pydantic",  # which needs exactly one version of it
        "torch_fidelity": "torch-fidelity",
        "huggingface_hub": "huggingface-hub",
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {Requirement(text).name.lower() for text in project["dependencies"]}

    used = {name.split(".")[0] for path in MODULES for name in imports(path)} - stdlib - {"mixar"}

    assert {distribution.get(name, name) for name in used} <= required


def reads_or_writes_text_as_the_locale_says(call):
    """Whether a call opens a file or a pipe for text and names no encoding."""
    name, named = getattr(call.func, "attr", getattr(call.func, "id", "")), {k.arg: k.value for k in call.keywords}
    if "encoding" in named:
        return False
    if name in ("read_text", "write_text"):  # of Path; `files.write_text` and `texts.read_text` are functions
        return isinstance(call.func, ast.Attribute)
    if name in ("open", "fdopen", "NamedTemporaryFile"):
        parts = [node for given in (*call.args, *named.values()) for node in ast.walk(given)]
        words = [node.value for node in parts if isinstance(node, ast.Constant)]
        modes = [word for word in words if isinstance(word, str) and word and set(word) <= set("rwaxbt+")]
        return not any("b" in mode for mode in modes) if modes else isinstance(call.func, ast.Name)
    return "text" in named or "universal_newlines" in named


def test_text_is_read_and_written_as_utf_8_by_name():
    folders = [ROOT / name for name in ("mixar", "benchmarks", "resources")]
    folders += (ROOT / "packages").glob("*/src")
    python = [path for folder in folders for path in folder.rglob("*.py")]
    rules = [ROOT / "workflow" / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]

    calls = [(path, node) for path in python for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    found = [f"{path}: {ast.unparse(node)}" for path, node in calls
             if isinstance(node, ast.Call) and reads_or_writes_text_as_the_locale_says(node)]  # fmt: skip
    for path in rules:  # which are no Python
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "encoding" not in line]
        opening = r"\.(read_text|write_text)\(|\bopen\(|text=True"
        found += [f"{path}: {line}" for line in lines if re.search(opening, line)]

    assert not found
