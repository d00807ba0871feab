"""The device of a stage: what `hardware.device` asks for, and the memory that a process took."""

import numpy as np
import pytest
import torch

from mixar.device import device_of, peak_memory_gib
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


def test_the_peak_of_this_process_rises_by_what_it_touches():
    before = peak_memory_gib(torch.device("cpu"))

    held = np.ones(int(before * 2**27) + 2**25)  # as much again, and 256 MiB

    assert peak_memory_gib(torch.device("cpu")) > before + 0.2 and held[-1] == 1
