"""FLOPs by torch's counter against the formulas, for every strategy at small size and every run at full size."""

import pytest
import torch
from toy_models import SIZED_VARIANTS, counted, variant_study

from mixar.model.cost import flops_sample, flops_train
from mixar.model.counting import counted_sample, counted_train
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.study.load import load_study
from mixar.study.sections import Sampler

ANNEALED = {"head_schedule": "linear", "head_steps": 9, "head_steps_last": 2}
SETTINGS = [
    {"cfg": 1.0},
    {"cfg": 3.0},
    ANNEALED,
    {"skeleton_iterations": 3},
    {"cfg_interval": (0.3, 0.8)},
    {"head_steps": 7, "modulation_every": 2},
    {"head_steps": 7, "modulation_every": 5},
]


@pytest.mark.parametrize(("strategy", "options", "model"), SIZED_VARIANTS)
@pytest.mark.parametrize("multiplier", [1, 4])
def test_counted_training_flops_are_within_a_percent_of_the_formula(strategy, options, model, multiplier):
    study = variant_study(strategy, options, model, head_batch_multiplier=multiplier, mask_rate_min=0.5)

    assert counted_train(study, "run") == pytest.approx(flops_train(study, "run"), rel=0.01)


# Every variant with one setting, and every setting with the variant that has most parts
DRAWN = [(*variant, ANNEALED) for variant in SIZED_VARIANTS]
DRAWN += [("dc_ca", {}, None, settings) for settings in SETTINGS if settings is not ANNEALED]


@pytest.mark.parametrize(("strategy", "options", "model", "settings"), DRAWN)
def test_counted_sampling_flops_are_within_a_percent_of_the_formula(strategy, options, model, settings):
    study, sampler = variant_study(strategy, options, model), Sampler(num_iterations=5, **{"head_steps": 4, **settings})

    assert counted_sample(study, "run", sampler) == pytest.approx(flops_sample(study, "run", sampler), rel=0.01)


def test_flops_counted_without_values_are_those_of_a_real_draw():
    study, sampler = variant_study("dc_ca", {}), Sampler(num_iterations=5, cfg=3.0, **ANNEALED)
    model, q = MAR.from_study(study, "run").eval(), torch.zeros(2, 16, dtype=torch.long)

    real = counted(lambda: sample_latents(model, q, q[:, 0], sampler, torch.Generator().manual_seed(0)))

    assert counted_sample(study, "run", sampler) == real / 2


@pytest.mark.full_size
@pytest.mark.parametrize("run", ["control_l", "dc_mix_l", "dc_sa_l", "dc_ca_l", "mixar_l", "dc_mix_b", "mixar_b"])
def test_flops_of_the_imagenet_runs_are_within_a_percent_of_the_counter(run):
    study = load_study("config/imagenet256.yaml")
    sampler = study.samplers["default"].model_copy(update={"num_iterations": 6})

    assert counted_train(study, run) == pytest.approx(flops_train(study, run), rel=0.01)
    assert counted_sample(study, run, sampler) == pytest.approx(flops_sample(study, run, sampler), rel=0.01)
