"""Files are whole or absent, and a full disk is said in words."""

import resource
import signal

import numpy as np
import pyarrow as pa
import pytest
import torch

from mixar.data.shards import write_shard
from mixar.storage.files import replaced, safetensors_metadata, write_table, write_text
from mixar.training.checkpoints import save_state
from mixar.training.state import State
from mixar.weights import save_weights

NUMBERS = np.random.default_rng(0).standard_normal(50_000)
LARGE = {"numbers": torch.from_numpy(NUMBERS)}
WRITERS = {
    "t.txt": lambda path: write_text(path, "x" * 100_000),
    "t.parquet": lambda path: write_table(path, pa.table({"numbers": NUMBERS})),
    "w.safetensors": lambda path: save_weights(path, {"numbers": torch.from_numpy(NUMBERS)}, {}),
    "s.safetensors": lambda path: write_shard(path, {"numbers": NUMBERS}, {}),
    "state-00000001.pt": lambda path: save_state(path.parent, State(LARGE, {}, {}, [], [], 1, 0.0, 0)),
}


@pytest.fixture
def no_room():
    """Files of more than 50 kB meet the same kind of error as a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_without_room_is_named_and_the_one_before_stays(tmp_path, name, no_room):
    (tmp_path / name).write_bytes(b"before")

    with pytest.raises(OSError, match=f"{name}: File too large; free some space"):
        WRITERS[name](tmp_path / name)

    assert [file.name for file in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == b"before"


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="^os error 13$"), replaced(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError("os error 13")

    assert not list(tmp_path.iterdir())


def test_what_weights_record_is_read_without_torch_and_anything_else_records_nothing(tmp_path):
    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(3)}, {"digest": "abc"})
    whole = (tmp_path / "w.safetensors").read_bytes()
    for name, content in {"empty": b"", "cut": whole[:40], "text": b"trained for hours", "huge": b"\xff" * 50}.items():
        (tmp_path / name).write_bytes(content)

    assert safetensors_metadata(tmp_path / "w.safetensors") == {"digest": "abc"}
    assert all(safetensors_metadata(tmp_path / name) == {} for name in ("empty", "cut", "text", "huge", "absent"))
