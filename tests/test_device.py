"""The device of a stage: what `hardware.device` asks for, and the memory that a process took."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mixar.device import device_of, peak_memory_gib, reset_peak_memory, slow_precision
from mixar.study.errors import SpecError
from mixar.study.load import parse_study


@pytest.mark.parametrize(
    ("wanted", "is_there", "found"),
    [("cpu", True, "cpu"), ("auto", True, "cuda"), ("auto", False, "cpu"), ("cuda", True, "cuda")],
)
def test_auto_takes_a_gpu_where_one_is_visible(smoke, monkeypatch, wanted, is_there, found):
    smoke["hardware"] = {"device": wanted}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)

    assert device_of(parse_study(smoke)).type == found


def test_a_gpu_that_is_not_there_is_refused_with_what_would_do(smoke, monkeypatch):
    smoke["hardware"] = {"device": "cuda"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(SpecError, match="hardware.device: 'cuda' .* no GPU is visible; use 'auto' or 'cpu'"):
        device_of(parse_study(smoke))


@pytest.mark.parametrize("capabilities", [{"avx2": True}, {"avx2": True, "avx512_bf16": False}])
def test_bfloat16_is_called_slow_on_a_processor_without_it_alone(monkeypatch, capabilities):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert "bfloat16 is many times slower" in slow_precision(cpu, "bfloat16")
    assert slow_precision(cpu, "float32") is slow_precision(torch.device("cuda"), "bfloat16") is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**capabilities, "amx_bf16": True})
    assert slow_precision(cpu, "bfloat16") is None


def test_the_peak_of_this_process_rises_by_what_it_touches():
    before = peak_memory_gib(torch.device("cpu"))

    held = np.ones(int(before * 2**27) + 2**25)  # as much again, and 256 MiB

    assert peak_memory_gib(torch.device("cpu")) > before + 0.2 and held[-1] == 1


def test_a_new_peak_forgets_what_was_freed_before_it():
    device, held = torch.device("cpu"), np.ones(2**26)  # 512 MiB
    before = peak_memory_gib(device)
    del held

    start = reset_peak_memory(device)

    assert start < before - 0.4 and peak_memory_gib(device) < start + 0.1
    held = np.ones(2**25)
    assert 0.2 < peak_memory_gib(device) - start < 0.4 and held[-1] == 1


def test_where_the_peak_cannot_be_reset_it_starts_from_the_one_so_far(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(Path, "write_bytes", refuse)

    assert reset_peak_memory(torch.device("cpu")) == pytest.approx(peak_memory_gib(torch.device("cpu")), abs=0.01)
