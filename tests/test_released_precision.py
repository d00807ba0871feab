"""bfloat16 beside float32, on the stored networks: what stays in float32, and how far the results move.

LIMITS is the table of docs/explanation/numbers.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
import replay_mar
import replay_maskbit
import replay_vavae
import torch
from narrow_operations import Watch
from replay import COMMITTED, Stored
from torch import Tensor, nn

from mixar.model.head import ResBlock as HeadBlock
from mixar.model.layers import Block
from mixar.tokens import generator, maskbit, vavae

# Largest difference over the largest float32 value: under autocast, and with every weight cast.
LIMITS = {
    "mar condition": (0.02, 0.02),
    "mar loss": (0.15, 0.15),
    "head output": (0.01, 0.01),
    "head latents": (0.1, 0.15),
    "head latents unclipped": (0.3, 0.3),
    "generator logits": (0.02, 0.03),
    "maskbit z": (0.05, 0.05),
    "maskbit image": (0.025, 0.025),
    "vavae latents": (0.015, 0.025),
    "vavae image": (0.025, 0.03),
}
STREAMS = (Block, HeadBlock, generator.Attention, generator.FeedForward, maskbit.ResBlock, vavae.ResBlock)


@cache
def stored(name: str) -> Stored:
    return Stored(COMMITTED / f"{name}.safetensors")


def mar_condition(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    batch = replay_mar.batch_of(s, torch.zeros(len(s["in/labels"]), dtype=torch.bool))
    return replay_mar.build(s), lambda model: model.condition(**batch)


def mar_loss(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    batch = replay_mar.batch_of(s, torch.zeros(len(s["in/labels"]), dtype=torch.bool))
    kept = batch["m"].flatten().repeat(2)
    draws = {"t": s["loss/draw/t"][kept], "noise": s["loss/draw/noise"][kept]}
    return replay_mar.build(s), lambda model: model(**batch, head_batch_multiplier=2, **draws)


def head_output(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x_t, t, z = s["train/out/x_t"], s["train/in/t"], s["train/in/z"]
    return replay_mar.build_head(s, "sd_train"), lambda head: head.net(x_t, t, z.to(head.net.cond_embed.weight.dtype))


def head_latents(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Loops of many steps: few ones magnify any rounding by thousands."""
    z = torch.cat([s["sample/in/z_cond"], s["sample/in/z_uncond"]])
    return replay_mar.build_head(s, "sd_sample"), lambda head: drawn(head, z, 200, cfg=1.5, clip=3.0)


def head_latents_unclipped(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """As MAR's released sampler draws without guidance."""
    z = s["sample/in/z_cond"]
    return replay_mar.build_head(s, "sd_sample"), lambda head: drawn(head, z, 100, cfg=1.0)


def drawn(head: nn.Module, z: Tensor, steps: int, **options: float) -> Tensor:
    return head.sample(z.to(head.net.cond_embed.weight.dtype), steps, torch.Generator().manual_seed(0), **options)


def generator_logits(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    inputs = s["mask/out/masked_tokens"], s["in/labels"], s["in/drop"]
    return replay_maskbit.build_generator(s), lambda model: model(*inputs)


def maskbit_z(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    return replay_maskbit.build_tokenizer(s), lambda model: model.encoder(s["in/image"])


def maskbit_image(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    tokens = s["out/indices"].flatten(1).long()
    return replay_maskbit.build_tokenizer(s), lambda model: model.decode_tokens(tokens)


def vavae_latents(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    images, noise = s["encode/in/image"], s["encode/draw/noise"]
    return replay_vavae.build(s), lambda model: vavae.sample_posterior(*model.encode(images), noise)


def vavae_image(s: Stored) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    return replay_vavae.build(s), lambda model: model.decode(s["decode/in/z"])


RESULTS = {
    "mar condition": (mar_condition, "mar"),
    "mar loss": (mar_loss, "mar"),
    "head output": (head_output, "mar_diffloss"),
    "head latents": (head_latents, "mar_diffloss"),
    "head latents unclipped": (head_latents_unclipped, "mar_diffloss"),
    "generator logits": (generator_logits, "maskbit_generator"),
    "maskbit z": (maskbit_z, "maskbit_tokenizer"),
    "maskbit image": (maskbit_image, "maskbit_tokenizer"),
    "vavae latents": (vavae_latents, "vavae"),
    "vavae image": (vavae_image, "vavae"),
}


def make(name: str) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    function, file = RESULTS[name]
    return function(stored(file))


def distance(found: Tensor, expected: Tensor) -> float:
    return ((found.float() - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", RESULTS)
@torch.no_grad()
def test_autocast_stays_near_float32(name):
    model, result = make(name)
    expected = result(model)

    with torch.autocast("cpu", torch.bfloat16):
        found = result(model)

    assert 0 < distance(found, expected) <= LIMITS[name][0]


@pytest.mark.parametrize("name", RESULTS)
@torch.no_grad()
def test_a_network_cast_to_bfloat16_stays_near_float32(name):
    model, result = make(name)
    expected = result(model)

    found = result(model.to(torch.bfloat16))

    assert 0 < distance(found, expected) <= LIMITS[name][1]


@pytest.mark.parametrize("name", RESULTS)
@torch.no_grad()
def test_under_autocast_only_products_and_activations_are_bfloat16(name):
    model, result = make(name)
    streams = []
    for module in model.modules():
        if isinstance(module, STREAMS):
            module.register_forward_hook(lambda _, __, h: streams.append(h.dtype))

    with Watch() as watch, torch.autocast("cpu", torch.bfloat16):
        result(model)

    assert not watch.too_narrow
    assert set(streams) == {torch.float32}
    assert watch.seen & {"addmm", "mm", "convolution"} and watch.seen & {"native_layer_norm", "native_group_norm"}


def test_the_page_on_numbers_states_the_limits(root):
    text = (root / "docs" / "explanation" / "numbers.md").read_text()

    rows = dict(re.findall(r"^\| ([a-z ]+) \| ([\d.]+ \| [\d.]+) \|$", text, re.MULTILINE))

    assert rows == {name: f"{autocast:g} | {cast:g}" for name, (autocast, cast) in LIMITS.items()}
