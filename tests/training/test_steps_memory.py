"""Memory of the paper's training steps at full size, on CUDA tensors without values."""

import pytest
from measured_memory import measured

from mixar.study.load import load_study

MICRO_BATCH = 64
MOST = dict.fromkeys(("dc_mix_l", "control_l"), 50)  # GiB; others 72 of the 78 that an 80 GB card has


def runs(root):
    """The ImageNet study, MAR's own sizes included."""
    return load_study(root / "config" / "imagenet256.yaml", root / "config" / "imagenet256-mar.yaml")


RUNS = ("control_l", "dc_mix_l", "dc_sa_l", "dc_ca_l", "mixar_l", "dc_mix_b", "mixar_b", "mar_b", "mar_l", "mar_h")


@pytest.mark.parametrize("run", RUNS)
def test_a_micro_batch_of_64_fits_an_80_gb_card_where_every_token_is_masked(run, root):
    activations, state, waits = measured(runs(root), run, MICRO_BATCH)

    print(f"{run}: {activations:.1f} + {state:.1f} GiB")
    assert activations + state <= MOST.get(run, 72)
    assert not [place for place in waits if place.startswith("model/")]


def test_every_trained_run_of_the_study_is_measured(root):
    study = runs(root)

    assert set(RUNS) == {name for name, run in study.runs.items() if run.weights is None}
