"""What every test shares: one thread each, the repository root, and the smoke study as a mapping to change."""

import copy
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest
import yaml

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture
def smoke() -> dict:
    """The content of config/smoke.yaml, free to change."""
    return copy.deepcopy(_SMOKE)


_SMOKE = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
