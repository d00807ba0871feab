"""Small networks of every kind, and files in the layouts that MAR, MaskBit and LightningDiT release them in."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from mixar.released import KINDS

SMALL_VAE = {"channels": 32, "multipliers": (1, 1), "num_res_blocks": 1, "latent_channels": 4, "attention_levels": (1,)}
SMALL = {
    "mar": {
        **{"width": 16, "encoder_depth": 1, "decoder_depth": 2, "heads": 2, "buffer_size": 2, "head_depth": 1},
        **{"head_width": 24, "num_tokens": 4, "channels": 4, "num_classes": 3},
    },
    "maskbit-tokenizer": {"channels": 32, "multipliers": (1, 1), "num_res_blocks": 1, "bits": 6},
    "maskbit-generator": {
        **{"width": 16, "depth": 1, "heads": 2, "mlp_width": 32, "splits": 2},
        **{"bits": 6, "num_tokens": 4, "num_classes": 3},
    },
    "vavae": SMALL_VAE,
    "kl16": {**SMALL_VAE, "decoder_attention": False},
}


def released_state(kind: str, seed: int = 0, dims: dict | None = None) -> dict[str, Tensor]:
    """Random weights of a kind under their released names."""
    torch.manual_seed(seed)
    k = KINDS[kind]
    state = k.build(**{**next(iter(k.presets.values())), **(SMALL[kind] if dims is None else dims)}).state_dict()
    for released, ours in k.renamed:
        state = {released + n.removeprefix(ours) if n.startswith(ours) else n: v for n, v in state.items()}
    return {name: value + 0.01 if value.is_floating_point() and "codebook" not in name else value
            for name, value in state.items()}  # fmt: skip


def released_content(kind: str, state: dict[str, Tensor]) -> dict:
    """What torch.save gets in the released files of a kind: the weights, and what is stored beside them."""
    if kind == "mar":
        args = argparse.Namespace(model="mar_base", lr=None, world_size=8)
        other = {name: value + 1 for name, value in state.items()}
        return {
            "model": other,
            "model_ema": state,
            "optimizer": {"state": {}},
            "epoch": 799,
            "scaler": {},
            "args": args,
        }
    if kind == "vavae":
        extra = {"loss.discriminator.main.0.weight": torch.ones(2), "linear_proj.weight": torch.ones(2, 4, 1, 1),
                 "foundation_model.model.pos_embed": torch.ones(1, 3)}  # fmt: skip
        return {"state_dict": {**state, **extra}, "epoch": 49, "global_step": 10, "optimizer_states": []}
    return {"model": state} if kind == "kl16" else dict(state)


def write_released(path: Path, kind: str, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Write a file of a kind; the weights in it, under their released names."""
    state = released_state(kind) if state is None else state
    torch.save(released_content(kind, state), path)
    return state


def ours(kind, state):
    """Released weights under our names."""
    for theirs, name in KINDS[kind].renamed:
        state = {name + k.removeprefix(theirs) if k.startswith(theirs) else k: v for k, v in state.items()}
    return state


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
