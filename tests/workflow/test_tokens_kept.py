"""Snakemake deletes a shard before it repeats its job: afterwards it is the same file, and nothing was encoded."""

import shutil

import pytest
from dry_runs import snakemake
from toy_tokens import prepared

pytestmark = pytest.mark.workflow


@pytest.fixture
def house(root, tmp_path):
    """A toy study ready to be tokenized, and a function that makes its second shard and returns the stage's log."""
    images = {"path": str(root / "resources" / "noto-emoji-32.parquet")}
    study, layout = prepared(tmp_path / "results", images, scoring={"jackknife_groups": 2})
    file = tmp_path / "study.yaml"
    file.write_text(study.model_dump_json(exclude_unset=True))

    def make(*options):
        where = ["--snakefile", root / "workflow" / "Snakefile", "--directory", tmp_path, "--configfile", file]
        rule = ["--allowed-rules", "tokenize", "--cores", "1", *options, "--", layout.token_shard(1)]
        done = snakemake(root, *where, *rule)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "1/1 jobs" in done.stderr, done.stderr  # the job ran
        return layout.log("tokenize", "00001").read_text()

    return layout, make, tmp_path / ".snakemake"


def test_a_shard_that_verifies_is_not_made_again_whatever_starts_its_job(house):
    layout, make, memory = house
    assert "nothing to do" not in make()
    path = layout.token_shard(1)
    content, inode = path.read_bytes(), path.stat().st_ino

    assert "nothing to do" in make("--forcerun", "tokenize")
    assert path.stat().st_ino == inode

    shutil.rmtree(memory)  # what Snakemake remembers of every file
    layout.manifest.touch()
    assert "nothing to do" in make()
    assert path.stat().st_ino == inode

    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "hash mismatch" in make("--forcerun", "tokenize")
    assert path.read_bytes() == content
