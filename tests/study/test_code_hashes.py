"""The source of a study's own code is a part of its digests: what is read, what is left alone; nothing is run."""

import json
import subprocess
import sys

import pytest

from mixar.reporting.results import make_rows
from mixar.study.code_hashes import ABSENT, BUILT_IN, source_hash
from mixar.study.digests import Digests
from mixar.study.load import parse_study


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder, **files):
    """Files by name, `__` for the slash between folders."""
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


STOP = "raise RuntimeError('a module was run')\n"


def test_a_changed_module_has_another_hash_and_is_not_run(folder):
    write(folder, own_a=STOP + "x = 1\n")
    before = source_hash("own_a:x")

    assert source_hash("own_a:x") == before and len(before) == 64
    write(folder, own_a=STOP + "x = 2\n")
    assert source_hash("own_a:x") != before


@pytest.mark.parametrize(
    "line",
    ["import own_help", "import own_help as h", "from own_help import y", "def f():\n    import own_help\n"],
)
def test_modules_beside_it_that_it_imports_belong_to_it(folder, line):
    write(folder, own_b=STOP + line, own_help="import own_deep\n", own_deep="y = 1\n", own_other="z = 1\n")
    before = source_hash("own_b:f")

    write(folder, own_other="z = 2\n")
    assert source_hash("own_b:f") == before
    write(folder, own_deep="y = 2\n")
    assert source_hash("own_b:f") != before


def test_a_package_is_read_with_what_is_around_the_module(folder):
    files = {"own_pack__init": "", "own_pack__sub__mine": "from ..parts import part\nfrom . import near\n"}
    write(folder, own_pack__sub__mine=STOP + files["own_pack__sub__mine"], own_pack__parts__part="a = 1\n",
          own_pack__sub__near="b = 1\n", own_pack__far="c = 1\n")  # fmt: skip
    for package in ("own_pack", "own_pack/sub", "own_pack/parts"):
        (folder / package / "__init__.py").write_text(STOP)
    seen = {source_hash("own_pack.sub.mine:f")}

    write(folder, own_pack__far="c = 2\n")
    assert source_hash("own_pack.sub.mine:f") in seen
    write(folder, own_pack__sub__near="b = 2\n")
    seen.add(source_hash("own_pack.sub.mine:f"))
    write(folder, own_pack__parts__part="a = 2\n")
    seen.add(source_hash("own_pack.sub.mine:f"))
    (folder / "own_pack" / "__init__.py").write_text(STOP + "# changed\n")
    seen.add(source_hash("own_pack.sub.mine:f"))
    assert len(seen) == 4


def test_what_is_installed_below_the_same_folder_is_left_alone(folder, monkeypatch):
    write(folder, own_c="import installed_there\n", installed="")
    site = folder / ".venv" / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed_there.py").write_text("a = 1\n")
    monkeypatch.syspath_prepend(site)
    before = source_hash("own_c:f")

    (site / "installed_there.py").write_text("a = 2\n")
    assert source_hash("own_c:f") == before
    own = source_hash("installed_there:f")
    (site / "installed_there.py").write_text("a = 3\n")
    assert source_hash("installed_there:f") != own


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("no_such_module_at_all:f", ABSENT),
        ("no_such.module.at_all:f", ABSENT),
        ("own_d.inside:f", ABSENT),
        ("", ABSENT),
        ("..:f", ABSENT),
        ("sys:exit", BUILT_IN),
    ],
)
def test_what_has_no_source_is_marked_as_such(folder, where, expected):
    write(folder, own_d="")

    assert source_hash(where) == expected


def test_a_module_that_is_no_python_is_still_hashed(folder):
    write(folder, own_e="def (")

    assert len(source_hash("own_e:f")) == 64


def test_modules_that_import_each_other_end(folder):
    write(folder, own_f="import own_g", own_g="import own_f")

    before = source_hash("own_f:f")
    write(folder, own_g="import own_f\n")
    assert source_hash("own_f:f") != before


def test_the_working_directory_is_searched_as_jobs_search_it(tmp_path, monkeypatch):
    write(tmp_path, own_here="x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])

    assert len(source_hash("own_here:x")) == 64


def with_own_code(content):
    content["runs"]["dc_sa"]["guidance"] = {"strategy": "own_guidance:Mine"}
    content["scoring"]["metrics"] = ["fd", "own_metric:shift"]
    content["discrete"] |= {"network": "own_tokens:Tokens"}
    content["discrete"]["train"]["optimizer"] = "own_optimizer:steps"
    content["data"]["source"] = "own_source:images"
    content["runs"]["dc_mix_timix"]["ti_mix"] = {"schedule": "own_schedule:rate"}
    content["scoring"]["extractor"] = {"network": "own_features:Network", "weights": "features.safetensors"}
    content["scoring"]["further"] = {"own_further:Network": "further.safetensors"}
    return parse_study(content)


def digests(study):
    d = Digests(study)
    return {
        "continuous": d.tokenizer("continuous"),
        "discrete": d.tokenizer("discrete"),
        "mar": d.train("mar", 0),
        "mine": d.train("dc_sa", 0),
        "timix": d.train("dc_mix_timix", 0),
        "measure timix": d.measure("dc_mix_timix"),
        "sample mar": d.sample("mar", 0, "default"),
        "sample mine": d.sample("dc_sa", 0, "default"),
        "measure mar": d.measure("mar"),
        "measure mine": d.measure("dc_sa"),
        "features": d.features(),
        "score": d.score(),
        "reconstruct": d.reconstruct("discrete"),
    }


OWN = ("own_guidance", "own_metric", "own_tokens", "own_optimizer", "own_source", "own_schedule", "own_features",
       "own_further")  # fmt: skip
MADE_OF_TOKENS = {"discrete", "mar", "mine", "timix", "sample mar", "sample mine", "reconstruct"}


@pytest.mark.parametrize(
    ("module", "concerned"),
    [
        ("own_guidance", {"mine", "sample mine", "measure mine"}),
        ("own_metric", {"score"}),
        ("own_tokens", {*MADE_OF_TOKENS, "measure mar", "measure mine", "measure timix"}),
        ("own_optimizer", MADE_OF_TOKENS),
        ("own_source", {*MADE_OF_TOKENS, "continuous", "features", "score"}),
        ("own_schedule", {"timix", "measure timix"}),
        ("own_features", {"features", "score"}),
        ("own_further", {"features", "score"}),
    ],
)  # fmt: skip
def test_changed_own_code_concerns_exactly_what_depends_on_it(folder, smoke, module, concerned):
    write(folder, **dict.fromkeys(OWN, STOP))
    study = with_own_code(smoke)
    before = digests(study)

    write(folder, **{module: STOP + "# changed\n"})
    after = digests(study)

    assert {name for name in before if before[name] != after[name]} == concerned


def test_finished_weights_of_an_own_strategy_depend_on_it_too(folder, smoke):
    write(folder, own_guidance=STOP)
    smoke["runs"]["dc_sa"]["weights"] = "sa.safetensors"
    study = with_own_code(smoke)
    before = Digests(study).train("dc_sa", 0)

    write(folder, own_guidance=STOP + "# changed\n")

    assert Digests(study).train("dc_sa", 0) != before


def hashes_of_row(study, run, **hashes):
    rows = make_rows(study, run, source="sample", values=[{"metric": "fd", "value": 1.0}], hashes=hashes)
    return json.loads(rows[0]["hashes"])


def test_rows_say_which_code_was_behind_them(folder, smoke):
    write(folder, own_guidance=STOP, own_metric=STOP, own_tokens=STOP)
    study = with_own_code(smoke)

    hashes = {run: hashes_of_row(study, run, weights="ab") for run in ("mar", "dc_sa")}

    assert hashes["dc_sa"]["code_own_guidance:Mine"] == source_hash("own_guidance:Mine")
    assert {key.partition(":")[0] for key in hashes["mar"]} == {
        "weights", "code_own_metric", "code_own_tokens", "code_own_optimizer", "code_own_source", "code_own_features",
        "code_own_further",
    }  # fmt: skip


def test_code_of_the_project_itself_is_left_to_its_commit(smoke):
    study = parse_study(smoke)

    assert Digests(study).own_code("dc_sa") == {}
    assert hashes_of_row(study, "dc_sa") == {}


def test_snakemake_makes_again_what_depends_on_changed_code(folder, smoke, root):
    code = (
        "import sys, json; from mixar.study.load import parse_study; from mixar.study.digests import Digests;"
        "study = parse_study(json.loads(sys.argv[1]));"
        "print(Digests(study).train('dc_sa', 0), 'torch' in sys.modules, 'own_guidance' in sys.modules)"
    )
    write(folder, own_guidance="import torch\n", own_metric="", own_tokens="")
    study = with_own_code(smoke).model_dump_json()

    found = subprocess.run([sys.executable, "-c", code, study], cwd=folder, capture_output=True, text=True, check=True)

    assert found.stdout.split() == [Digests(parse_study(json.loads(study))).train("dc_sa", 0), "False", "False"]
