"""Parameters of the paper's models, and analytic FLOPs against torch's own counter."""

import pytest
import torch
from toy_models import SIZED_VARIANTS, counted, toy_batch, toy_study, variant_study

from mixar.model.cost import count_parameters, flops_sample, flops_train, token_counts
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.study.sections import Sampler

SIZES = {"b": (768, 12, 12), "l": (1024, 16, 16), "h": (1280, 20, 16)}  # width, depth of each half, heads
MASK_TOKEN, BITS_LINEAR = 1024, 14 * 1024 + 1024


def paper_study(size, head, channels, strategy="none", **options):
    """A model of the paper at ImageNet-256's sizes: 256 tokens, 1000 classes, 14 bits."""
    width, depth, heads = SIZES[size]
    model = {"width": width, "encoder_depth": depth, "decoder_depth": depth, "heads": heads}
    autoencoder = {"weights": "none.safetensors"}
    run = {"label": "run", "model": "paper", "guidance": {"strategy": strategy, "options": options}}
    return toy_study(
        data={"source": "folder", "path": "images", "image_size": 256, "num_classes": 1000},
        models={"paper": {**model, "head_depth": head[0], "head_width": head[1]}},
        continuous={**autoencoder, "latent_channels": channels},
        discrete={**autoencoder, "bits": 14},
        runs={"run": run},
    )


@pytest.mark.parametrize(
    ("size", "head", "channels", "strategy", "options", "expected"),
    [
        ("b", (6, 1024), 16, "none", {}, 207_924_768),  # MAR-B, released
        ("l", (8, 1280), 16, "none", {}, 478_326_304),  # MAR-L, released
        ("h", (12, 1536), 16, "none", {}, 942_403_104),  # MAR-H, released
        ("b", (6, 1024), 32, "dc_mix", {}, 207_986_240 - 768 + 14 * 768 + 768),  # paper: 208 M
        ("l", (12, 1536), 32, "dc_mix", {}, 556_999_744 - MASK_TOKEN + BITS_LINEAR),  # paper: 557 M
        ("l", (12, 1536), 32, "dc_sa", {}, 574_039_104),  # paper: 574 M
        ("l", (12, 1536), 32, "dc_sa", {"stage": "both"}, 574_301_248),
        ("l", (12, 1536), 32, "dc_ca", {}, 707_994_688),  # paper: 707 M
    ],
)
def test_parameters_are_those_of_the_paper(size, head, channels, strategy, options, expected):
    assert count_parameters(paper_study(size, head, channels, strategy, **options), "run") == expected


def test_tokens_are_counted_alike_for_every_strategy():
    counts = {name: token_counts(paper_study("l", (12, 1536), 32, name), "run") for name in ("none", "dc_sa", "dc_ca")}
    assert counts["none"] == {
        "class_tokens": 64, "tokens_self_attention": 320, "tokens_memory": 0, "tokens_total": 320
    }  # fmt: skip
    assert counts["dc_sa"]["tokens_self_attention"] == counts["dc_sa"]["tokens_total"] == 576
    assert counts["dc_ca"]["tokens_self_attention"] == 320 and counts["dc_ca"]["tokens_memory"] == 256
    assert counts["dc_ca"]["tokens_total"] == 576


@pytest.mark.parametrize(("strategy", "options", "model"), SIZED_VARIANTS)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_sampling_flops_agree_with_the_counter(strategy, options, model, cfg):
    study, sampler = variant_study(strategy, options, model), Sampler(num_iterations=5, head_steps=4, cfg=cfg)
    model, q = MAR.from_study(study, "run").eval(), torch.zeros(2, 16, dtype=torch.long)
    found = counted(lambda: sample_latents(model, q, q[:, 0], sampler, torch.Generator().manual_seed(0)))
    assert found / 2 == pytest.approx(flops_sample(study, "run", sampler), rel=0.01)


@pytest.mark.parametrize(("strategy", "options", "model"), SIZED_VARIANTS)
@pytest.mark.parametrize(
    "settings",
    [
        {"head_schedule": "linear", "head_steps": 9, "head_steps_last": 2},
        {"cfg_interval": (0.3, 0.8)},
        {"head_steps": 8, "modulation_every": 3},
        {"num_iterations": 3, "skeleton_iterations": 2},
    ],
)
def test_sampling_flops_follow_a_samplers_options(strategy, options, model, settings):
    given = {"num_iterations": 5, "head_steps": 4, **settings}
    study, sampler = variant_study(strategy, options, model), Sampler(**given)
    model, q = MAR.from_study(study, "run").eval(), torch.zeros(2, 16, dtype=torch.long)
    found = counted(lambda: sample_latents(model, q, q[:, 0], sampler, torch.Generator().manual_seed(0)))
    plain = Sampler(num_iterations=5, head_steps=sampler.head_steps)

    assert found / 2 == pytest.approx(flops_sample(study, "run", sampler), rel=0.01)
    assert flops_sample(study, "run", sampler) < 0.95 * flops_sample(study, "run", plain)


@pytest.mark.parametrize(("strategy", "options", "model"), SIZED_VARIANTS)
@pytest.mark.parametrize("multiplier", [1, 4])
def test_training_flops_agree_with_three_counted_forward_passes(strategy, options, model, multiplier):
    study = variant_study(strategy, options, model, head_batch_multiplier=multiplier)
    model, batch = MAR.from_study(study, "run"), {k: v for k, v in toy_batch(4, 16).items() if k != "q"}
    q, rng = torch.zeros(4, 16, dtype=torch.long), torch.Generator().manual_seed(0)
    found = counted(lambda: model(**batch, q=q, rng=rng, head_batch_multiplier=multiplier))
    assert 3 * found / 4 == pytest.approx(flops_train(study, "run"), rel=0.01)


def test_a_counted_training_step_costs_about_three_forward_passes():
    study = variant_study("dc_mix", {})
    model, batch = MAR.from_study(study, "run").train(), {**toy_batch(4, 16), "q": torch.zeros(4, 16, dtype=torch.long)}
    rng = torch.Generator().manual_seed(0)
    found = counted(lambda: model(**batch, rng=rng, head_batch_multiplier=4).backward())
    assert found / 4 == pytest.approx(flops_train(study, "run"), rel=0.1)  # inputs need no gradient


@pytest.mark.parametrize(
    ("strategy", "backbone_gflop"),
    [("dc_mix", 527), ("dc_sa", None), ("dc_ca", 735)],
)
def test_the_papers_training_cost_is_of_the_expected_size(strategy, backbone_gflop):
    """Head alone: 222.5 masked positions, 4 draws, 301.5 MFLOP a row less the hoisted embeddings."""
    study = paper_study("l", (12, 1536), 32, strategy)
    recipe = study.training.model_copy(update={"head_batch_multiplier": 4, "batch_size": 2048})
    total = flops_train(study.model_copy(update={"training": recipe}), "run") / 1e9
    if backbone_gflop:
        head = 3 * 222.5 * 4 * 0.293
        assert total - head == pytest.approx(backbone_gflop, rel=0.01)
    else:
        assert total > 1.2 * flops_train(paper_study("l", (12, 1536), 32, "dc_mix"), "run") / 1e9
