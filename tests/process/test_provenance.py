"""Where a result came from: its columns, and no claim where there is no repository."""

import json
import subprocess
from datetime import UTC, datetime

from mixar.process.provenance import provenance


def test_the_commit_is_that_of_this_source_tree(root):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()

    found = provenance()

    assert found["commit"] == (commit or "unknown")
    assert found["dirty"] in ((True, False) if commit else (None,))


def test_versions_are_those_that_are_imported_and_the_time_has_its_zone():
    import numpy
    import torch

    found = provenance()
    versions = json.loads(found["versions"])

    assert versions["numpy"] == numpy.__version__ and torch.__version__.startswith(versions["torch"])
    age = datetime.now(UTC) - datetime.fromisoformat(found["created"])
    assert 0 <= age.total_seconds() < 60


def test_without_git_the_commit_is_unknown(monkeypatch, tmp_path):
    from mixar.process import provenance as module

    monkeypatch.setenv("PATH", str(tmp_path))

    assert module._source_state.__wrapped__() == ("unknown", None)
