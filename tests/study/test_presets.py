"""Presets: the keys they expand to, and the exact sizes of the models behind them."""

import pytest
import torch

from mixar.released import KINDS
from mixar.study.errors import SpecError
from mixar.study.load import load_study, parse_study
from mixar.study.presets import MASKBIT_BITS, PRESETS
from mixar.study.sections import Generator, GeneratorSampler, Model, VaVae


def count(kind, preset):
    with torch.device("meta"):
        return sum(p.numel() for p in KINDS[kind].build(**KINDS[kind].presets[preset]).parameters())


def test_a_preset_sets_its_keys(smoke):
    smoke["models"] = {name: {"preset": "mar-l"} for name in smoke["models"]}

    study = parse_study(smoke)

    model = next(iter(study.models.values()))
    assert (model.width, model.encoder_depth, model.heads, model.head_depth, model.head_width) == (
        1024,
        16,
        16,
        8,
        1280,
    )
    assert "preset" not in study.model_dump_json()


def test_keys_beside_a_preset_win():
    assert VaVae.model_validate({"preset": "kl16", "weights": "mine.pt"}).weights == "mine.pt"
    assert VaVae.model_validate({"preset": "kl16", "weights": "mine.pt"}).scale == 0.2325


def test_a_preset_may_name_another():
    assert Generator.model_validate({"preset": "maskbit-16bit"}).sampler.randomize_temperature == 7.5


def test_an_unknown_preset_is_named_with_its_place_and_the_choices(smoke):
    smoke["continuous"] = {"preset": "vavae-f8"}

    with pytest.raises(SpecError, match=r"continuous\.preset: 'vavae-f8' is unknown; choose from vavae-f16d32, kl16"):
        parse_study(smoke)


def test_a_section_without_presets_says_so(smoke):
    smoke["data"]["preset"] = "imagenet"

    with pytest.raises(SpecError, match=r"data\.preset: 'imagenet' is unknown; this section has no presets"):
        parse_study(smoke)


def test_the_tokenizers_defaults_are_the_released_ones():
    without_files = {"weights", "statistics"}
    assert VaVae.model_validate({"preset": "vavae-f16d32"}).model_dump(exclude=without_files) == VaVae().model_dump(
        exclude=without_files
    )


@pytest.mark.parametrize(
    ("bits", "steps", "scale", "randomize", "power"),
    [(14, 64, 7.1, 7.8, 3.0), (14, 128, 7.1, 9.0, 3.0), (14, 256, 5.8, 10.3, 3.0), (10, 64, 6.4, 10.5, 2.5),
     (12, 64, 7.1, 8.2, 3.0), (16, 64, 6.5, 7.5, 2.5), (18, 64, 5.7, 8.5, 2.5)],
)  # fmt: skip
def test_maskbits_samplers(bits, steps, scale, randomize, power):
    s = GeneratorSampler.model_validate({"preset": f"maskbit-{bits}bit-{steps}"})

    assert (s.num_steps, s.guidance_scale, s.randomize_temperature, s.scale_pow) == (steps, scale, randomize, power)
    assert (s.guidance_annealing, s.mask_schedule, s.softmax_temperature) == ("cosine", "arccos", 1.0)


@pytest.mark.parametrize(
    ("kind", "preset", "expected"),
    [
        ("mar", "mar-b", 207_924_768),
        ("mar", "mar-l", 478_326_304),
        ("mar", "mar-h", 942_403_104),
        ("maskbit-tokenizer", "maskbit-14bit", 54_489_489),
        ("maskbit-generator", "maskbit-10bit", 304_728_128),
        ("maskbit-generator", "maskbit-12bit", 304_795_776),
        ("maskbit-generator", "maskbit-14bit", 304_929_024),
        ("maskbit-generator", "maskbit-16bit", 305_193_472),
        ("maskbit-generator", "maskbit-18bit", 305_720_320),
        ("vavae", "vavae-f16d32", 69_836_067),
        ("kl16", "kl16", 66_456_019),
    ],
)
def test_released_models_have_their_exact_size(kind, preset, expected):
    assert count(kind, preset) == expected


def test_every_bit_width_has_tokenizer_generator_and_sampler():
    for bits in MASKBIT_BITS:
        assert f"maskbit-{bits}bit" in PRESETS["MaskBit"] and f"maskbit-{bits}bit" in PRESETS["Generator"]
        assert Generator.model_validate({"preset": f"maskbit-{bits}bit"}).sampler.num_steps == 64


def test_the_papers_study_uses_them(root):
    study = load_study(root / "config" / "imagenet256.yaml")

    assert study.models["mixar_l"] == Model.model_validate({"preset": "mixar-l"})
    assert study.continuous.statistics == "asset:vavae-f16d32-statistics"
    assert study.generator.sampler.num_steps == 128
