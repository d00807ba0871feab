"""Files that come with mixar, and study files by their short names."""

from pathlib import Path

from mixar.assets.shipped import CONFIG, LITERATURE, RESOURCES, study_file


def test_what_is_shipped_is_there():
    assert (CONFIG / "smoke.yaml").is_file() and LITERATURE.is_file()
    assert (RESOURCES / "noto-emoji-32.parquet").is_file()


def test_a_committed_study_goes_by_its_name_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert study_file(Path("smoke")) == CONFIG / "smoke.yaml"
    assert study_file(Path("here/smoke")) == Path("here/smoke") and study_file(Path("mine")) == Path("mine")
    (tmp_path / "smoke").write_text("study: mine")
    assert study_file(Path("smoke")) == Path("smoke")
