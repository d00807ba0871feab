"""Images that were added or replaced start `ingest` again; touched ones and other files do not."""

import os
import shutil

import pytest
import yaml
from dry_runs import jobs, snakemake
from toy_images import folder, pixels, png

from mixar.study.layout import Layout
from mixar.study.load import parse_study

pytestmark = pytest.mark.workflow


@pytest.fixture
def house(root, tmp_path, smoke):
    """A study of images that was ingested: the folder of class folders, and whether a dry run starts `ingest` again."""
    images = tmp_path / "images"
    for seed, label in enumerate(("cat", "dog")):
        folder(images / label, pixels(24, seed, 32))
    smoke["data"] = {"source": "folder", "path": str(images), "image_size": 32, "num_classes": 2}
    smoke["hardware"]["results"] = str(tmp_path / "results")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(smoke))
    manifest = Layout(parse_study(smoke)).manifest

    def run(*arguments):
        options = ["--nolock", "--configfile", tmp_path / "study.yaml", "--", manifest]
        done = snakemake(root, *arguments, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run("--cores", "1")
    return images, lambda: "ingest" in jobs(run("-n", "--quiet", "rules"))


def test_added_and_replaced_images_are_read_again_and_nothing_else_is(house):
    images, is_read_again = house
    image = images / "cat" / "00003.png"
    assert not is_read_again()

    (images / ".ipynb_checkpoints").mkdir()
    (images / "cat" / "notes.txt").write_text("a file that is no image")
    os.utime(image)
    assert not is_read_again()

    whole = image.read_bytes()
    image.write_bytes(png(pixels(1, 99, 32)[0]))
    assert is_read_again()
    image.write_bytes(whole)
    images.rename(images.with_name("deleted after use"))
    assert not is_read_again()
    images.with_name("deleted after use").rename(images)

    shutil.copy(image, images / "cat" / "new.png")
    assert is_read_again()
