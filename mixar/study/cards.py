"""GPUs by name: memory and peak rates, for plans and for refusing a run that does not fit. No torch.

Rates are dense (without sparsity), from the vendor's data sheets: NVIDIA A100, A30, A40, A6000, L4, L40S, H100, H200
and B200 data sheets, and the Ada and Ampere architecture white papers for GeForce cards (bfloat16 with float32
accumulation). `float32` is the rate of the ordinary cores, which torch uses unless TF32 is allowed.
Memory is what tensors and NCCL can use: the card's capacity as its driver reports it, less about 1 GiB for the CUDA
context.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic_core import PydanticCustomError

from mixar.study.choices import unknown


@dataclass(frozen=True)
class Card:
    """memory_gib: usable by one process. bf16_tflops, float32_tflops: peak, 1e12 floating-point operations a second."""

    memory_gib: float
    bf16_tflops: float
    float32_tflops: float

    def peak_flops(self, precision: str) -> float:
        """Operations a second at most in a precision of the settings, `bfloat16` or `float32`."""
        return 1e12 * (self.bf16_tflops if precision == "bfloat16" else self.float32_tflops)


CARDS = {
    "a30": Card(22.5, 165, 10.3),
    "a40": Card(43.5, 149.7, 37.4),
    "a6000": Card(46.5, 154.8, 38.7),
    "a100-40gb": Card(38.5, 312, 19.5),
    "a100-80gb": Card(78, 312, 19.5),
    "h100-pcie": Card(78, 756, 51),
    "h100-80gb": Card(78, 989, 67),
    "h200": Card(138.5, 989, 67),
    "b200": Card(177, 2250, 75),
    "l4": Card(21.5, 121, 30.3),
    "l40s": Card(43.5, 362, 91.6),
    "rtx3090": Card(22.5, 71, 35.6),
    "rtx4090": Card(22.5, 165, 82.6),
}


def check_card(name: str) -> str:
    """`name` if it is a card of the table. Raises PydanticCustomError that lists them."""
    if name not in CARDS:
        raise PydanticCustomError("choice", unknown(name, CARDS))
    return name


def card_of(name: str, memory_gib: float) -> str | None:
    """The key of CARDS for a device's own name, by its words and its memory; None if unknown."""
    words = name.lower().replace("-", " ").split()
    fitting = []
    for card, sizes in CARDS.items():
        family, *rest = card.split("-")
        is_named = family in words or family.removeprefix("rtx") in words
        is_same = abs(sizes.memory_gib + 1 - memory_gib) < 0.06 * memory_gib + 1
        if is_named and is_same and ("pcie" in rest) == ("pcie" in words and family == "h100"):
            fitting.append(card)
    return fitting[0] if len(fitting) == 1 else None
