"""Two processes train as one: shares, averaged gradients, and the errors of a wrong launch."""

from __future__ import annotations

import signal
import threading

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from two_processes import (
    after_a_long_wait,
    after_an_orphan,
    exit_codes_of_two,
    linear_gradients,
    told_to_end,
    told_to_end_in_a_training,
    worker,
)

from mixar.training.checkpoints import states
from mixar.training.distributed import LAUNCHERS, MEETING_POINT, VARIABLES, Context, joined

CPU = torch.device("cpu")
PAIR = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


@pytest.fixture
def launched(monkeypatch):
    """A function that sets torchrun's variables to what it is given and removes the others."""

    def launch(**variables):
        for name in (*VARIABLES, *MEETING_POINT, *LAUNCHERS):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return launch


def test_two_processes_with_half_a_batch_each_equal_one_with_the_whole(tmp_path):
    alone = linear_gradients(Context(0, 1, CPU))
    assert exit_codes_of_two(worker, tmp_path) == [0, 0]
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for name, expected in alone.items():
        torch.testing.assert_close(first[name], expected)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert any(name.startswith("generator.") for name in first)


def test_processes_asked_to_end_leave_the_group_and_keep_their_exit_code(tmp_path):
    assert exit_codes_of_two(told_to_end, tmp_path) == [143, 143]
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["False", "False"]


def test_no_process_ends_before_the_state_is_saved(tmp_path):
    assert exit_codes_of_two(told_to_end_in_a_training, tmp_path) == [143, 143]
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["True", "True"]
    assert states(tmp_path / "run")


def test_all_processes_wait_for_an_orphan_and_one_of_them_reports_it(tmp_path):
    assert exit_codes_of_two(after_an_orphan, tmp_path) == [0, 0]

    found = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert found == ["True, said 3 times, met 4 times", "True, said 0 times, met 4 times"]


def test_a_wait_for_the_lease_may_be_longer_than_the_processes_wait_for_each_other(tmp_path):
    assert exit_codes_of_two(after_a_long_wait, tmp_path) == [0, 0]


def test_a_plain_launch_is_one_process_that_does_nothing_special(launched):
    launched()
    model, value = nn.Linear(1, 1), torch.tensor(3.0)
    with joined(CPU) as context:
        assert context == Context(0, 1, CPU) and context.is_main
        assert context.wrap(model) is model
        assert context.mean(value) == value
        assert context.told(2) == 2
        context.barrier()
        assert not torch.distributed.is_initialized()


def test_torchrun_with_one_process_opens_no_group(launched):
    launched(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    with joined(CPU) as context:
        assert context.world_size == 1
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_shares_are_equal_and_together_the_whole_batch(world_size):
    batch = torch.arange(8)
    shares = [batch[Context(rank, world_size, CPU).split(8)] for rank in range(world_size)]
    assert {len(share) for share in shares} == {8 // world_size}
    assert torch.equal(torch.cat(shares), batch)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size: 10 images do not divide over 4 processes.*multiple of 4"):
        Context(0, 4, CPU).split(10)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "0"}, "RANK, WORLD_SIZE, LOCAL_RANK: expected a number each"),
        ({"RANK": "0", "WORLD_SIZE": "two", "LOCAL_RANK": "0"}, "found .*two"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK: 2 must be below WORLD_SIZE 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}, "for a training of one process: unset RANK"),
        ({**PAIR, "MASTER_ADDR": "127.0.0.1"}, r"MASTER_ADDR, MASTER_PORT: expected .* found {'MASTER_ADDR'.* unset"),
        ({**PAIR, "MASTER_ADDR": "a", "MASTER_PORT": "b"}, "MASTER_ADDR, MASTER_PORT: expected the address and port"),
    ],
)
def test_contradicting_variables_are_refused(launched, variables, message):
    launched(**variables)
    with pytest.raises(ValueError, match=message), joined(CPU):
        pass


def test_processes_that_wait_say_for_whom(launched, monkeypatch, capsys):
    printed = threading.Event()
    for rank, whom in (("0", "processes 1 to 3 at here:7"), ("2", "process 0 at here:7")):
        launched(RANK=rank, WORLD_SIZE="4", LOCAL_RANK="0", MASTER_ADDR="here", MASTER_PORT="7")
        said = []

        def note(text, said=said, **_):
            said.append(text)
            if len(said) == 3:
                printed.set()

        def meet(*_, **__):
            assert printed.wait(30)
            raise torch.distributed.DistNetworkError("the connection was refused\nframe #0")

        monkeypatch.setattr("builtins.print", note)
        monkeypatch.setattr(torch.distributed, "init_process_group", meet)
        printed.clear()

        message = f"process {rank} of 4 cannot meet {whom}: the connection was refused; .*; for"
        with pytest.raises(OSError, match=message), joined(CPU, notices=(0.01, 0.01)):
            pass

        assert said[0] == said[2]
        assert said[0].startswith(f"process {rank} of 4 waits for {whom}; neither torchrun nor srun")
        assert "for a training of one process: unset RANK" in said[0]


@pytest.mark.parametrize(
    ("mark", "said"), [({}, "variables may be left over; for a"), ({"TORCHELASTIC_RUN_ID": "1"}, "no one; for a")]
)
def test_variables_without_a_launcher_are_reported_as_left_over(launched, monkeypatch, mark, said):
    def meet(*_, **__):
        raise torch.distributed.DistNetworkError("no one")

    launched(**PAIR, MASTER_ADDR="here", MASTER_PORT="7", **mark)
    monkeypatch.setattr(torch.distributed, "init_process_group", meet)

    with pytest.raises(OSError, match=f"{said} training of one process: unset RANK"), joined(CPU):
        pass


def test_ctrl_c_ends_a_process_that_waits_for_others(launched, monkeypatch):
    found = []
    launched(**PAIR, MASTER_ADDR="127.0.0.1", MASTER_PORT="7")
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, **__: found.append(signal.getsignal(signal.SIGINT))
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    before = signal.getsignal(signal.SIGINT)

    with joined(CPU):
        found.append(signal.getsignal(signal.SIGINT))

    assert found == [signal.SIG_DFL, before]


def test_more_processes_than_gpus_are_refused(launched, monkeypatch):
    launched(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="here", MASTER_PORT="7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "LOCAL_RANK: 1 needs 2 GPUs on this node, found 1"
    with pytest.raises(ValueError, match=message), joined(torch.device("cuda")):
        pass
