"""Sizes and settings of the released models, and of the paper's, by name.

`{preset: mar-l}` in a section of a study expands to the keys below it; keys written beside it win. Keys left out have
the section's defaults. No other file spells these numbers out. Sources: the READMEs and configuration files of MAR,
MaskBit and LightningDiT; mixar-b and mixar-l are the sizes that fit the paper's Table 2.
"""

from __future__ import annotations

from typing import Any

_AUTOENCODER = {"channels": 128, "multipliers": (1, 1, 2, 2, 4), "num_res_blocks": 2}
_VAVAE = {**_AUTOENCODER, "attention_levels": (4,)}
_MAR = {"mlp_ratio": 4.0, "buffer_size": 64, "dropout": 0.1}
_B = {**_MAR, "width": 768, "encoder_depth": 12, "decoder_depth": 12, "heads": 12}
_L = {**_MAR, "width": 1024, "encoder_depth": 16, "decoder_depth": 16, "heads": 16}
_H = {**_MAR, "width": 1280, "encoder_depth": 20, "decoder_depth": 20, "heads": 16}
_GENERATOR = {"width": 1024, "depth": 24, "heads": 16, "mlp_width": 4096, "splits": 2, "dropout": 0.1}

# MaskBit's README: bits and steps -> guidance_scale, randomize_temperature, scale_pow
_MASKBIT_SAMPLERS = {
    (10, 64): (6.4, 10.5, 2.5),
    (12, 64): (7.1, 8.2, 3.0),
    (14, 64): (7.1, 7.8, 3.0),
    (14, 128): (7.1, 9.0, 3.0),
    (14, 256): (5.8, 10.3, 3.0),
    (16, 64): (6.5, 7.5, 2.5),
    (18, 64): (5.7, 8.5, 2.5),
}
MASKBIT_BITS = (10, 12, 14, 16, 18)


def _sampler(bits: int, steps: int) -> dict[str, Any]:
    scale, randomize, power = _MASKBIT_SAMPLERS[bits, steps]
    return {
        "num_steps": steps,
        "guidance_scale": scale,
        "guidance_annealing": "cosine",
        "scale_pow": power,
        "randomize_temperature": randomize,
        "softmax_temperature": 1.0,
        "mask_schedule": "arccos",
    }


# Class of the section -> preset -> keys
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "VaVae": {
        "vavae-f16d32": {
            **_VAVAE,
            "weights": "asset:vavae-f16d32",
            "statistics": "asset:vavae-f16d32-statistics",
            "latent_channels": 32,
            "decoder_attention": True,
        },
        "kl16": {
            **_VAVAE,
            "weights": "asset:kl16",
            "scale": 0.2325,
            "latent_channels": 16,
            "decoder_attention": False,
        },
    },
    "MaskBit": {
        f"maskbit-{bits}bit": {**_AUTOENCODER, "weights": f"asset:maskbit-tokenizer-{bits}bit", "bits": bits}
        for bits in MASKBIT_BITS
    },
    "Generator": {
        f"maskbit-{bits}bit": {
            **_GENERATOR,
            "weights": f"asset:maskbit-generator-{bits}bit",
            "sampler": {"preset": f"maskbit-{bits}bit-64"},
        }
        for bits in MASKBIT_BITS
    },
    "GeneratorSampler": {f"maskbit-{bits}bit-{n}": _sampler(bits, n) for bits, n in _MASKBIT_SAMPLERS},
    "Model": {
        "mar-b": {**_B, "head_depth": 6, "head_width": 1024},
        "mar-l": {**_L, "head_depth": 8, "head_width": 1280},
        "mar-h": {**_H, "head_depth": 12, "head_width": 1536},
        "mixar-b": {**_B, "head_depth": 6, "head_width": 1024},
        "mixar-l": {**_L, "head_depth": 12, "head_width": 1536},  # MAR-L's trunk, MAR-H's head: Table 2's 557 M
    },
}


def fill(section: str, content: Any) -> Any:
    """`content` of a section with its `preset` replaced by the keys behind it. Raises ValueError for unknown names."""
    if not (isinstance(content, dict) and "preset" in content):
        return content
    name, table = content["preset"], PRESETS.get(section, {})
    if not isinstance(name, str) or name not in table:
        choices = f"choose from {', '.join(table)}" if table else "this section has no presets"
        raise ValueError(f"preset: {name!r} is unknown; {choices}")
    return {**table[name], **{key: value for key, value in content.items() if key != "preset"}}
