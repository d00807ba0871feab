"""What a checkpoint holds, and that only what this version wrote is taken for one."""

import pytest
import torch
from torch import nn

from mixar.training import checkpoints
from mixar.training.state import State

CPU = torch.device("cpu")


def networks(width):
    torch.manual_seed(width)
    model, average = nn.Linear(width, 2), nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return model, average, optimizer


def state_of(model, average, optimizer):
    rows = [{"step": 2.0, "loss": 0.5}]
    return State(model.state_dict(), average.state_dict(), optimizer.state_dict(), rows, [{"step": 3.0}], 3, 1.5, 2)


def test_a_saved_state_gives_back_networks_optimizer_and_curve(tmp_path):
    saved, other = networks(3), networks(3)
    with torch.no_grad():
        other[0].weight.zero_()

    checkpoints.save_state(tmp_path, state_of(*saved))
    found = checkpoints.read_state(checkpoints.states(tmp_path)[3], CPU)
    found.restore(*other, "here")

    assert (found.done, found.seconds, found.rollbacks) == (3, 1.5, 2)
    assert (found.curve, found.pending) == ([{"step": 2.0, "loss": 0.5}], [{"step": 3.0}])
    for before, after in zip(saved[:2], other[:2], strict=True):
        assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    moments = [optimizer.state_dict()["state"][0]["exp_avg"] for optimizer in (saved[2], other[2])]
    assert torch.equal(*moments)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content | {"format": "mixar checkpoint, version 0"}, "found 'mixar checkpoint, version 0'"),
        (lambda content: {"model": content["model"]}, "found 'something else'"),
        (lambda content: [content], "found 'something else'"),
        (lambda content: {k: v for k, v in content.items() if k != "average"}, "missing or surplus .*: average"),
        (lambda content: content | {"scaler": {}}, "missing or surplus .*: scaler"),
    ],
)
def test_what_is_no_checkpoint_of_this_version_is_refused(tmp_path, change, said):
    checkpoints.save_state(tmp_path, state_of(*networks(3)))
    path = checkpoints.states(tmp_path)[3]
    torch.save(change(torch.load(path, weights_only=True)), path)

    with pytest.raises(ValueError, match=rf"state-00000003\.pt: .*{said}.*delete it to start this training again"):
        checkpoints.read_state(path, CPU)


def test_moments_are_restored_and_the_settings_of_the_optimizer_stay():
    state, (model, average, optimizer) = state_of(*networks(3)), networks(3)
    optimizer.param_groups[0]["weight_decay"] = 0.5

    state.restore(model, average, optimizer, "here")

    assert optimizer.param_groups[0]["weight_decay"] == 0.5 and optimizer.state_dict()["state"][0]["step"] == 1


def test_a_copy_keeps_its_values_and_its_form():
    model, average, optimizer = networks(3)
    state = state_of(model, average, optimizer)
    copied = state.copied()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    nn.init.zeros_(model.weight)

    assert all(torch.equal(copied.model[name], value) for name, value in before.items())
    assert copied.optimizer.keys() == state.optimizer.keys() and copied.curve == state.curve


def test_a_checkpoint_of_another_network_is_refused():
    state = state_of(*networks(3))

    with pytest.raises(ValueError, match=r"here: a checkpoint of another network \(size mismatch .*delete it"):
        state.restore(*networks(4), "here")
