"""An overflow stops the stage that meets it, naming run, stage, shard and batch; nothing black is written."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from toy_runs import toy_study, write_inputs

from mixar.data.images import unit_to_uint8
from mixar.model.mar import MAR
from mixar.model.ti_mix import draw_tokens
from mixar.process.failures import finite, naming
from mixar.scoring.extractors import Extractor, extract, load_further
from mixar.scoring.networks.subgroup_cnn import PixelSubgroupCNN
from mixar.stages.generate import generate
from mixar.stages.ingest import ingest
from mixar.stages.reconstruct import reconstruct
from mixar.stages.sample import sample
from mixar.stages.tokenize import tokenize
from mixar.stages.tokenizer import tokenizer
from mixar.study.layout import Layout
from mixar.tokens import maskbit, vavae
from mixar.tokens.generator import BitTransformer
from mixar.training.distributed import Context
from mixar.training.loop import fit
from mixar.weights import read_weights, save_weights

EMOJI = {"source": "emoji", "path": "resources/noto-emoji-32.parquet", "num_classes": 9, "limit": 40}
HUGE = {"final_layer.linear": 1e22, "conv_out": 1e38, "quant_conv": 1e38, "prediction_layer": 1e38}


@pytest.fixture
def house(tmp_path):
    """Networks that draw and tokenize, and 40 ingested images."""
    study = toy_study(tmp_path, data=EMOJI)
    layout = write_inputs(study)
    torch.manual_seed(5)
    model = MAR.from_study(study, "mix")
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    save_weights(layout.weights("mix", 0), model.state_dict(), {})
    ingest(study, layout)
    return study, layout


def enlarge(path, part):
    """Multiply one layer's weights and biases until its output overflows."""
    tensors = read_weights(path)
    chosen = [key for key in tensors if f"{part}.weight" in key or f"{part}.bias" in key]
    assert chosen
    for key in chosen:
        tensors[key] = (tensors[key] + 0.5).sign() * HUGE[next(name for name in HUGE if name in part)]
    save_weights(path, tensors, {})


def refused(where, what, call):
    """The call says where and of how many images what is not finite."""
    with pytest.raises(FloatingPointError) as caught:
        call()
    message = rf"{where}: {what} of (?P<bad>\d+) of (?P<all>\d+) images are not finite \(.*\); .*"
    counted = re.fullmatch(message, str(caught.value))
    assert counted, caught.value
    assert 1 <= int(counted["bad"]) <= int(counted["all"])


# Stages


@pytest.mark.parametrize("clip", [None, 3.0])
def test_sample_refuses_latents_that_are_not_finite(house, clip, tmp_path):
    study, layout = house
    enlarge(layout.weights("mix", 0), "diffloss.net.final_layer.linear")
    sampler = study.samplers["default"].model_copy(update={"clip": clip})
    study = study.model_copy(update={"samplers": {"default": sampler}})

    task = "sample mix seed 0 default shard 0 batch 0"
    refused(task, "latents", lambda: sample(study, layout, "mix", 0, "default", 0))

    assert not layout.samples("mix", 0, "default", 0).exists()


@pytest.mark.parametrize(("run", "kind"), [("mix", "continuous"), ("maskbit", "discrete")])
def test_sample_refuses_pixels_that_are_not_finite(house, run, kind):
    study, layout = house
    enlarge(layout.tokenizer(kind), "decoder.conv_out")

    task = f"sample {run} seed 0 default shard 1 batch 0"
    refused(task, "pixels", lambda: sample(study, layout, run, 0, "default", 1))


ENCODERS = {
    "mean": ("continuous", "quant_conv", "log variances of latents|latents"),
    "bits": ("discrete", "encoder.conv_out", "bits"),
}


@pytest.mark.parametrize("case", ENCODERS)
def test_tokenize_and_reconstruct_refuse_codes_that_are_not_finite(house, case):
    study, layout = house
    kind, part, what = ENCODERS[case]
    enlarge(layout.tokenizer(kind), part)

    refused("tokenize shard 0 batch 0", f"({what})", lambda: tokenize(study, layout, 0))
    refused(f"reconstruct {kind} shard 0 batch 0", f"({what})", lambda: reconstruct(study, layout, kind, 0))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_reconstruct_refuses_pixels_that_are_not_finite(house, kind):
    study, layout = house
    enlarge(layout.tokenizer(kind), "decoder.conv_out")

    refused(f"reconstruct {kind} shard 0 batch 0", "pixels", lambda: reconstruct(study, layout, kind, 0))


def test_generate_refuses_logits_that_are_not_finite(house):
    study, layout = house
    enlarge(layout.generator, "prediction_layer")

    refused("generate shard 1 batch 0", "logits", lambda: generate(study, layout, 1))


def test_statistics_of_latents_that_are_not_finite_are_refused(house, tmp_path):
    study, layout = house
    enlarge(layout.tokenizer("continuous"), "quant_conv")
    path = tmp_path / "own.safetensors"
    save_file(read_weights(layout.tokenizer("continuous")), path)
    study = toy_study(tmp_path / "more", data=EMOJI, continuous={"weights": str(path), "train": None})
    ingest(study, Layout(study))

    refused("statistics of the latents, batch 0", "(log variances of )?latents",
            lambda: tokenizer(study, Layout(study), "continuous"))  # fmt: skip


@pytest.mark.parametrize("std", [float("nan"), 0.0, -1.0])
def test_statistics_that_no_latent_can_be_normalised_with_are_refused(house, std):
    study, layout = house
    layout.statistics.unlink()
    save_file({"mean": torch.zeros(8), "std": torch.full((8,), std)}, layout.statistics)

    for call in (lambda: tokenize(study, layout, 0), lambda: sample(study, layout, "mix", 0, "default", 0)):
        with pytest.raises(ValueError, match="the std finite and above zero in every channel"):
            call()


# Parts


def test_a_few_bad_images_of_a_batch_are_counted():
    images = torch.rand(8, 3, 4, 4)
    images[3, 1, 2, 2], images[6, 0, 0, 0] = float("nan"), float("-inf")

    with pytest.raises(FloatingPointError, match=r"^here: pixels of 2 of 8 .*the first is number 3"), naming("here"):
        unit_to_uint8(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_values_whose_sum_overflows_are_finite(dtype):
    values = torch.full((4, 3), torch.finfo(dtype).max)

    assert finite(values, "latents") is values


@pytest.mark.parametrize("extreme", [float("nan"), float("inf"), float("-inf")])
def test_no_bound_hides_what_is_not_finite(extreme):
    diffusion = MAR.from_study(toy_study("unused"), "mar").diffloss.diffusion
    for channel in range(4):  # two of predicted noise, two of variance
        output = torch.zeros(2, 4)
        output[1, channel] = extreme

        drawn = diffusion.step(output, torch.randn(2, 2), 500, torch.randn(2, 2), clip=1.0)

        assert drawn.isfinite().all(dim=1).tolist() == [True, False]


def test_the_tokenizers_own_clamps_hide_nothing():
    study = toy_study("unused")
    continuous, discrete = vavae.VaVae(study.continuous), maskbit.MaskBit(study.discrete)
    continuous.quant_conv.bias.data[-1] = float("inf")
    discrete.decoder.conv_out.bias.data[0] = float("-inf")

    with torch.no_grad():
        assert not continuous.encode(torch.zeros(1, 3, 8, 8))[1].isfinite().all()
        with pytest.raises(FloatingPointError, match="pixels of 2 of 2"):
            discrete.decode_tokens(torch.zeros(2, 16, dtype=torch.int64))


def test_tokens_that_guide_a_training_are_refused_where_the_logits_are_not_finite():
    study = toy_study("unused")
    generator = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, 3).eval()
    generator.prediction_layer.weight.data[:] = 3e38
    q, m = torch.zeros(2, 16, dtype=torch.int64), torch.ones(2, 16, dtype=torch.bool)

    with torch.no_grad(), pytest.raises(FloatingPointError, match="the generator's logits of 2 of 2 images"):
        draw_tokens(generator, q, m, torch.zeros(2, dtype=torch.int64), 1.0, torch.Generator())


def test_what_is_not_finite_in_a_training_names_the_run_and_the_step(tmp_path):
    settings = toy_study("unused").training.model_copy(update={"epochs": 1, "batch_size": 2})
    context = Context(rank=0, world_size=1, device=torch.device("cpu"))

    def step(model, rows, rng, progress):
        finite(torch.tensor([[1.0], [float("nan")]]), "logits")

    with pytest.raises(FloatingPointError, match="^ti seed 3 step 1: logits of 1 of 2 images"):
        fit(torch.nn.Linear(1, 1), step, settings, name="ti seed 3", num_items=4, seed=0, folder=tmp_path,
            context=context, checkpoint_minutes=1, announce=lambda *_: None)  # fmt: skip


def test_features_that_are_not_finite_name_the_network_and_the_batch():
    settings = toy_study("unused").scoring.extractor
    network = PixelSubgroupCNN(settings.channels, num_classes=3, image_size=8).eval()
    network.stages[2].enter.weight.data[:] = 3e38
    extractor = Extractor("toy", "", network)
    dark, light = torch.zeros(3, 8, 8, 3, dtype=torch.uint8), torch.full((3, 8, 8, 3), 255, dtype=torch.uint8)

    with pytest.raises(FloatingPointError, match=r"^batch [01]: toy: features of \d of 3 images"):
        extract(extractor, [dark, light])


# Files of weights


def test_weights_that_do_not_fit_a_smaller_type_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"a.safetensors: bias \(torch.float16\) holds values that are not finite"):
        save_weights(tmp_path / "a.safetensors", {"bias": torch.tensor([1e5])}, {}, torch.float16)

    assert not (tmp_path / "a.safetensors").exists()


def test_a_file_of_a_feature_network_with_values_that_are_not_finite_is_refused(tmp_path):
    save_file({"features.0.bias": torch.tensor([np.inf])}, tmp_path / "vgg16.safetensors")

    with pytest.raises(ValueError, match="vgg16.safetensors: features.0.bias .* not finite"):
        load_further("vgg16", tmp_path / "vgg16.safetensors")
