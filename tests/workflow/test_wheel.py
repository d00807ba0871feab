"""An installed wheel: its commands run without the repository, and it holds nothing else."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from toy_rows import all_rows, on_disk, reported_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys, hatchling.build; hatchling.build.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, folder], cwd=root, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def mixar(wheel, tmp_path_factory):
    """The `mixar` of an environment that holds the wheel, and the libraries of this one behind it."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True, capture_output=True)
    python = folder / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    site = next((folder / "env" / "lib").glob("python*")) / "site-packages"
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"MIXAR_ASSETS": str(folder / "assets")}

    def run(*arguments) -> str:
        command = [folder / "env" / "bin" / "mixar", *map(str, arguments)]
        found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")
        assert found.returncode == 0, found.stdout + found.stderr
        return found.stdout

    where = [python, "-c", "import mixar; print(mixar.__file__)"]
    assert str(site) in subprocess.run(where, cwd=folder, check=True, capture_output=True, encoding="utf-8").stdout
    return run


def test_the_wheel_holds_what_the_commands_read_and_no_other_distribution(wheel, root):
    names = zipfile.ZipFile(wheel).namelist()

    assert {name.split("/")[0].partition("-")[0] for name in names} == {"mixar"}
    for part in ("config", "resources"):
        shipped = {
            p.relative_to(root).as_posix() for p in (root / part).rglob("*") if p.suffix in (".yaml", ".parquet")
        }
        assert {f"mixar/{name}" for name in shipped} <= set(names)
    assert {"mixar/py.typed", "mixar/resources/literature.yaml", "mixar/reporting/page.html"} <= set(names)


def test_assets_and_parameters_are_listed(mixar):
    assert "vavae-f16d32" in mixar("assets")
    assert "MixAR-L" in mixar("measure", "--params")


def test_a_committed_study_is_checked_by_its_name(mixar):
    assert "smoke: valid." in mixar("check", "--study", "smoke")


def test_a_committed_study_is_priced_by_its_name(mixar):
    assert "GPU-hours" in mixar("plan", "--study", "imagenet256", "--totals")


def test_a_report_is_written_of_a_study_that_ran_in_the_repository(mixar, root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    drawings = {"limit": 60, "path": "resources/noto-emoji-32.parquet"}
    made = reported_study(tmp_path, data=drawings, report={"grid": [2, 4]})
    layout = on_disk(made, all_rows(made))
    study = tmp_path / "study.json"
    study.write_text(made.model_dump_json(), encoding="utf-8")

    mixar("report", "--study", study)

    assert all(path.is_file() for path in layout.report_files().values())
