"""The estimate of a training step's memory against the networks themselves, at full size and without a GPU."""

import pytest
import torch
from measured_memory import ALL, FEWEST, measured, measured_backward

from mixar.model.cost import count_parameters
from mixar.model.guidance import STAGES, build_guidance
from mixar.study import memory
from mixar.study.errors import SpecError
from mixar.study.load import load_study, parse_study, read_layer
from mixar.study.memory import training_memory
from mixar.tokens.generator import BitTransformer

RUNS = ("control_l", "dc_mix_l", "dc_sa_l", "dc_ca_l", "mixar_l", "dc_mix_b", "mixar_b", "mar_b", "mar_l", "mar_h")
STRATEGIES = ("control_l", "dc_mix_l", "dc_sa_l", "dc_ca_l")


def paper(root, **hardware):
    """The ImageNet study with MAR's own sizes; every run on the same hardware."""
    study = load_study(root / "config" / "imagenet256.yaml", root / "config" / "imagenet256-mar.yaml")
    return study.model_copy(update={"hardware": study.hardware.model_copy(update={"runs": {}, **hardware})})


def trained(study, **changes):
    return study.model_copy(update={"training": study.training.model_copy(update=changes)})


def most(study, run, micro_batch):
    """Measured activations and state at the mask rate that needs most."""
    found = [measured(study, run, micro_batch, quantile) for quantile in (ALL, FEWEST)]
    return max(activations for activations, _, _ in found), found[0][1]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_the_estimate_is_within_5_percent_of_what_each_run_of_the_paper_keeps(run, checkpoint_blocks, root):
    study = paper(root, checkpoint_blocks=checkpoint_blocks)

    activations, state = most(study, run, 64)

    estimate = training_memory(study, run)
    assert estimate.activations == pytest.approx(activations, rel=0.05)
    assert estimate.state == pytest.approx(state, rel=0.001)


@pytest.mark.parametrize("run", STRATEGIES)
@pytest.mark.parametrize(
    ("micro_batch", "training"),
    [
        (16, {}),
        (64, {"head_batch_multiplier": 1}),
        (32, {"head_batch_multiplier": 2, "mask_rate_min": 0.3}),
        (16, {"precision": "float32"}),
    ],
    ids=str,
)
def test_so_it_is_for_other_batches_noise_draws_mask_rates_and_precisions(run, micro_batch, training, root):
    study = trained(paper(root, micro_batch=micro_batch), **training)

    activations, _ = most(study, run, micro_batch)

    assert training_memory(study, run).activations == pytest.approx(activations, rel=0.05)


@pytest.mark.parametrize(("run", "changes"), [("dc_mix_l", {}), ("mar_b", {}), ("mar_h", {"micro_batch": 16})], ids=str)
def test_the_backward_pass_adds_what_the_estimate_says(run, changes, root):
    study = paper(root, **changes)

    added = measured_backward(study, run, study.hardware.micro_batch)

    assert training_memory(study, run).backward == pytest.approx(added, rel=0.05)


@pytest.mark.parametrize("run", RUNS)
def test_parameters_and_added_tokens_are_those_of_the_network(run, root):
    study = paper(root)
    with torch.device("meta"):
        guidance = build_guidance(study, run)
        generator = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes)

    assert memory.parameters(study, run) == count_parameters(study, run)
    assert memory.generator_parameters(study) == sum(p.numel() for p in generator.parameters())
    for stage in STAGES:
        assert memory.prefix_tokens(study, run, stage) == guidance.prefix_tokens(stage)
        assert memory.memory_tokens(study, run) == guidance.memory_tokens(stage)


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        (
            {"micro_batch": 128},
            r"hardware: dc_sa_l: a training step of 128 images needs about 11\d\.\d GiB, and h100-80gb has 78; "
            r"use micro_batch 64 \(6\d\.\d GiB\) or checkpoint_blocks true \(6\d\.\d GiB\)",
        ),
        ({"card": "a100-40gb"}, r"hardware: dc_mix_l: .* and a100-40gb has 38.5; use micro_batch 32"),
        ({"card": "l4"}, r"hardware: dc_ca_l: .* use micro_batch 8"),
        ({"runs": {"dc_sa_l": {"micro_batch": 128}}}, r"hardware.runs.dc_sa_l: dc_sa_l: a training step of 128"),
    ],
    ids=str,
)
def test_a_training_that_exceeds_the_card_is_refused_with_what_would_fit(hardware, said, root):
    content = read_layer(root / "config" / "imagenet256.yaml")
    content["training"]["mask_group"] = 128
    content["hardware"] |= hardware

    with pytest.raises(SpecError, match=said):
        parse_study(content)


@pytest.mark.parametrize(
    "hardware",
    [{"card": None}, {"checkpoint_blocks": True, "micro_batch": 128}, {"device": "cpu", "gpus": 0}],
    ids=str,
)
def test_what_fits_or_has_no_known_card_is_not(hardware, root):
    content = read_layer(root / "config" / "imagenet256.yaml")
    content["training"]["mask_group"] = 128
    content["hardware"] |= {"micro_batch": 128} | hardware

    assert parse_study(content)


def test_a_strategy_of_the_studys_own_has_no_estimate(smoke):
    smoke["runs"]["dc_sa"]["guidance"] = {"strategy": "mine:Strategy"}

    assert training_memory(parse_study(smoke), "dc_sa") is None
