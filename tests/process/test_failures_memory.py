"""Running out of memory: one message with the stage, what was asked for and what would do."""

from __future__ import annotations

import errno
import multiprocessing
import resource

import numpy as np
import pyarrow as pa
import pytest
import torch
from toy_runs import toy_study, write_inputs

from mixar import __main__ as command
from mixar import weights
from mixar.data.images import whole_numbers, write_images
from mixar.data.sources import open_parquet
from mixar.process import failures as memory
from mixar.process.failures import is_shortage, needs_memory
from mixar.scoring.files import read_features
from mixar.stages import measure, sample
from mixar.stages.extractor import extractor
from mixar.stages.features import reference_features
from mixar.stages.generate import generate
from mixar.stages.generator import generator
from mixar.stages.reconstruct import reconstruct
from mixar.stages.score import score_reconstructions, score_samples
from mixar.stages.tokenize import tokenize
from mixar.stages.tokenizer import tokenizer
from mixar.stages.train import train
from mixar.storage.files import iter_batches
from mixar.training import checkpoints
from mixar.training.state import State
from mixar.weights import save_weights

ON_CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "921600000 bytes. Error code 12 (Cannot allocate memory)"
)
ON_GPU = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1 GiB is free."
)


def numpys_own():
    with pytest.raises(MemoryError) as caught:
        np.empty((1 << 40, 1 << 16))
    return caught.value


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory on the host. Lower it;"),
        (pa.lib.ArrowMemoryError("malloc of size 64 failed"), "out of memory on the host. Lower it;"),
        (numpys_own(), "on the host, asking for 512. PiB at once, an array with shape (1099511627776, 65536)"),
        (RuntimeError(ON_CPU), "on the host, asking for 878.9 MiB at once. Lower it;"),
        (RuntimeError(ON_CPU.replace("921600000", "9216000000")), "on the host, asking for 8.6 GiB at once. Lower it;"),
        (torch.OutOfMemoryError(ON_GPU), "on the GPU, asking for 20.00 GiB at once. Lower it;"),
        (RuntimeError("CUDA error: out of memory"), "on the GPU. Lower it;"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "on the GPU. Lower it;"),
        (RuntimeError("std::bad_alloc"), "on the host. Lower it;"),
        (RuntimeError("Storage size calculation overflowed with sizes=[4, 9223372036854775807]"), "on the host. Lower"),
        (RuntimeError("can't start new thread"), "on the host. Lower it;"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "on the host. Lower it;"),
    ],
)
def test_every_way_of_saying_it_becomes_one_message(error, said):
    @needs_memory(lambda run: (f"train {run}", "Lower it"))
    def stage(run):
        raise error

    with pytest.raises(OSError, match="^train mar: out of memory on the ") as caught:
        stage("mar")

    assert said in str(caught.value) and str(caught.value).endswith("or " + memory.MORE)
    assert not is_shortage(caught.value), "what is said is not said again"


@pytest.mark.parametrize(
    "error",
    [ValueError("out of memory"), RuntimeError("shapes differ"), FileNotFoundError(errno.ENOENT, "x"), KeyError("x")],
)
def test_other_errors_pass(error):
    @needs_memory(lambda: ("", ""))
    def stage():
        raise error

    with pytest.raises(type(error)) as caught:
        stage()
    assert caught.value is error


class Full:
    """A layout in a process without memory."""

    def __getattr__(self, name):
        raise MemoryError


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        (train, ("mix", 0), r"train mix seed 0: .* Lower hardware.micro_batch, .* \(now null: 8\)"),
        (tokenizer, ("discrete",), "tokenizer discrete: .* Lower discrete.train.micro_batch"),
        (generator, (), "generator: .* Lower generator.train.micro_batch"),
        (extractor, (), "extractor: .* Lower scoring.extractor.train.micro_batch"),
        (tokenize, (0,), r"tokenize shard 0: .* Raise data.num_shards: .* \(now 1 parts\)"),
        (generate, (1,), r"generate shard 1: .* Lower evaluation.batch_size, .* \(now 3\)"),
        (reconstruct, ("continuous", 0), "reconstruct continuous shard 0: .* Raise data.num_shards"),
        (sample.sample, ("mar", 1, "default", 0), "sample mar seed 1 default shard 0: .* Lower evaluation.batch_size"),
        (reference_features, ("train",), "features of train images: .* Leave networks out of scoring.further"),
        (score_samples, ("mar", 0, "default"), "score sample mar seed 0 default: .* Leave out metrics"),
        (score_reconstructions, ("continuous",), "score reconstruct continuous: out of .* Leave out metrics"),
        (measure.measure, ("mar",), r"measure mar: .* Lower measure.batch_size, .* \(now 4\)"),
    ],
)
def test_every_stage_names_itself_and_the_setting_that_needs_less(tmp_path, stage, arguments, message):
    changes = {"data": {"path": str(tmp_path)}, "evaluation": {"labels": "training"}}

    with pytest.raises(OSError, match=message):
        stage(toy_study(tmp_path, **changes), Full(), *arguments)


def test_a_limit_of_the_host_is_named(tmp_path):
    study = toy_study(tmp_path, training={"head_batch_multiplier": 50_000})
    layout = write_inputs(study)

    def limited(found):
        torch.set_num_threads(1)  # threads do not survive a fork
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 2**27, resource.RLIM_INFINITY))
        try:
            train(study, layout, "mar", 0)
        except OSError as error:
            found.send(str(error))

    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=limited, args=(theirs,))
    process.start()
    theirs.close()
    said = ours.recv()
    process.join(60)

    assert "train mar seed 0: out of memory on the host, asking for " in said


def test_a_sound_file_is_not_called_damaged(tmp_path, monkeypatch):
    save_weights(tmp_path / "a.safetensors", {"w": torch.ones(2)}, {})
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pth")
    checkpoints.save_state(tmp_path, State({}, {}, {}, [], [], 1, 0.0, 0))

    def fail(*_, **__):
        raise RuntimeError(ON_CPU)

    monkeypatch.setattr(weights, "safe_open", fail)
    monkeypatch.setattr(torch, "load", fail)

    for read in (
        lambda: weights.read_file(tmp_path / "a.safetensors"),
        lambda: weights.read_file(tmp_path / "a.pth"),
        lambda: checkpoints.read_state(checkpoints.states(tmp_path)[1], torch.device("cpu")),
    ):
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            read()


@pytest.mark.parametrize("error", [ImportError("libtorch.so: failed to map segment from shared object"), MemoryError()])
def test_no_memory_for_the_libraries_is_an_error_in_words(capsys, error):
    def short_of_memory(_):
        raise error

    with pytest.raises(SystemExit, match="2"):
        command.main(verbs=short_of_memory)

    assert "mixar: out of memory (" in capsys.readouterr().err


def test_a_missing_library_keeps_its_traceback():
    def without_torch(_):
        raise ImportError("No module named 'torch'")

    with pytest.raises(ImportError):
        command.main(verbs=without_torch)


@pytest.mark.parametrize("error", [pa.lib.ArrowMemoryError("malloc failed"), OSError(errno.ENOMEM, "no memory")])
def test_a_sound_parquet_file_is_not_called_damaged_where_memory_is_short(tmp_path, monkeypatch, error):
    def short(*_, **__):
        raise error

    path = tmp_path / "images.parquet"
    write_images(path, [0], [0], np.zeros((1, 8, 8, 3), np.uint8))
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.iter_batches", short)
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.read", short)
    parquet = open_parquet(path, ["image"])

    for read in (lambda: [*iter_batches(parquet, path, ["image"])], lambda: whole_numbers(parquet, path, "index", int)):
        with pytest.raises(type(error)):
            read()
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.__init__", short)
    for read in (lambda: open_parquet(path, ["image"]), lambda: read_features([path])):
        with pytest.raises(type(error)):
            read()
