"""What every test shares: one thread each, the repository root, and the smoke study as a mapping to change."""

import copy
import os
import signal
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
# A shell that starts the tests in the background makes them ignore Ctrl-C; they begin as in a terminal.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
import yaml

ROOT = Path(__file__).parent.parent


LONGEST_FIRST = ("workflow", "slurm", "full_size", "slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files whose tests take minutes, so that no worker is left with one of them at the end."""
    marked = {name: Counter(item.path for item in items if item.get_closest_marker(name)) for name in LONGEST_FIRST}
    items.sort(key=lambda item: [-marked[name][item.path] for name in LONGEST_FIRST])


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root."""
    return ROOT


@pytest.fixture
def smoke() -> dict:
    """The content of config/smoke.yaml, free to change."""
    return copy.deepcopy(_SMOKE)


_SMOKE = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text())
