"""Tokens and images against the official MaskBit: the same weights and draws, equal results first, then times in turn.

    python benchmarks/speed/against_maskbit.py PATH [--threads 2] [--rounds 5] [--case NAME ...] [--output FILE.parquet]

PATH: a checkout of github.com/markweberdev/maskbit. It needs einops; what else it imports beyond torch and torchvision
is not used here.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from checkouts import checkout, recorded  # noqa: E402
from interleaved import Case, compare, near, show, write  # noqa: E402

from mixar import released  # noqa: E402
from mixar.study.sections import GeneratorSampler  # noqa: E402
from mixar.tokens.generator import sample_tokens  # noqa: E402

ABSENT = ("omegaconf", "tensorboard", "accelerate", "webdataset")
SIDE, CLASSES, SPLITS = 16, 1000, 2
SAME_PIXELS = 1e-5
SAMPLER = GeneratorSampler(
    num_steps=16, guidance_scale=7.1, guidance_annealing="cosine", scale_pow=3.0, randomize_temperature=8.2
)
GENERATORS = {  # the second has the released width
    "tokens, width 384": {"bits": 12, "width": 384, "depth": 6, "heads": 6, "mlp_width": 1536, "batch": 8},
    "tokens, width 1024": {"bits": 12, "width": 1024, "depth": 2, "heads": 16, "mlp_width": 4096, "batch": 2},
}
TOKENIZERS = {  # the second has the released size
    "decoding, 32 channels": {"bits": 12, "channels": 32, "batch": 4},
    "decoding, 128 channels": {"bits": 14, "channels": 128, "batch": 1},
}
MULTIPLIERS, BLOCKS = (1, 1, 2, 2, 4), 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*GENERATORS, *TOKENIZERS]
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs="+", choices=names, default=names)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    with checkout(args.path, "modeling/bert.py", ABSENT, args.device):
        for name in args.case:
            case = generating(name, args.device) if name in GENERATORS else decoding(name, args.device)
            rows.append(compare(case, args.rounds, args.device))
            print(show(rows[-1]), flush=True)
            if args.output:
                write(args.output, rows, args.device)


# Tokens


def generating(name: str, device: torch.device) -> Case:
    """All tokens of a batch; that the same draws give the same tokens is checked first. Raises ValueError if not."""
    size = dict(GENERATORS[name])
    bits, batch = size.pop("bits"), size.pop("batch")
    theirs, ours = generators(bits, size, device)
    c = torch.randint(CLASSES, (batch,), generator=torch.Generator().manual_seed(0)).to(device)
    sample = importlib.import_module("modeling.modules.sampling").sample
    no_decoder = SimpleNamespace(eval=lambda: None, decode_tokens=lambda tokens: tokens)
    options = {
        "num_samples": batch, "labels": c, "softmax_temperature": SAMPLER.softmax_temperature,
        "randomize_temperature": SAMPLER.randomize_temperature, "mask_schedule_strategy": SAMPLER.mask_schedule,
        "num_steps": SAMPLER.num_steps, "guidance_scale": SAMPLER.guidance_scale, "mask_token": theirs.mask_token,
        "patch_size": SIDE, "guidance_annealing": SAMPLER.guidance_annealing, "scale_pow": SAMPLER.scale_pow,
        "codebook_size": 2**bits, "codebook_splits": SPLITS,
    }  # fmt: skip

    @torch.no_grad()
    def draw_theirs() -> Tensor:
        return sample(theirs, no_decoder, **options)[0]

    def draw_ours(draws: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        return sample_tokens(ours, c, SAMPLER, torch.Generator(device).manual_seed(0), draws)

    with exponentials() as drawn, recorded(torch.distributions.Gumbel, "sample") as gumbel:
        expected = draw_theirs()
    found = draw_ours(list(zip(drawn, gumbel, strict=True)))
    same = (found == expected.view_as(found)).double().mean().item()
    if same < 1:
        raise ValueError(f"{name}: only {same:.2%} of the tokens are equal")
    print(f"{name}: all {found.numel()} tokens equal", flush=True)
    return Case(name, draw_theirs, draw_ours, batch)


def generators(bits: int, size: dict[str, Any], device: torch.device) -> tuple[Any, Any]:
    """The official transformer and ours with its weights."""
    torch.manual_seed(0)
    theirs = importlib.import_module("modeling.bert").LFQBert(
        img_size=SIDE, input_stride=1, hidden_dim=size["width"], codebook_size=2**bits, codebook_splits=SPLITS,
        depth=size["depth"], heads=size["heads"], mlp_dim=size["mlp_width"], dropout=0.0, nclass=CLASSES,
    )  # fmt: skip
    ours = released.load(
        "maskbit-generator", theirs.state_dict(), bits=bits, splits=SPLITS, num_tokens=SIDE**2, num_classes=CLASSES,
        dropout=0.0, **size,
    )  # fmt: skip
    return theirs.to(device).eval(), ours.to(device).eval()


@contextmanager
def exponentials() -> Iterator[list[Tensor]]:
    """The exponential noise behind each draw of a token: torch draws from p as argmax(p / noise)."""
    multinomial, found = torch.multinomial, []

    def record(p: Tensor, *arguments: Any, **options: Any) -> Tensor:
        state = torch.get_rng_state()
        found.append(torch.empty_like(p).exponential_())
        torch.set_rng_state(state)
        return multinomial(p, *arguments, **options)

    with patch.object(torch, "multinomial", record):
        yield found


# Images


def decoding(name: str, device: torch.device) -> Case:
    """Images from tokens; that they are the same is checked first. Raises ValueError if not."""
    size = TOKENIZERS[name]
    torch.manual_seed(0)
    theirs = importlib.import_module("modeling.conv_vqgan").ConvVQModel(Settings(size))
    ours = released.load(
        "maskbit-tokenizer", theirs.state_dict(), bits=size["bits"], channels=size["channels"],
        multipliers=MULTIPLIERS, num_res_blocks=BLOCKS,
    )  # fmt: skip
    theirs, ours = theirs.to(device).eval(), ours.to(device).eval()
    q = torch.randint(2 ** size["bits"], (size["batch"], SIDE**2), generator=torch.Generator().manual_seed(0)).to(
        device
    )

    @torch.inference_mode()
    def decode_theirs() -> Tensor:
        return theirs.decode_tokens(q).clamp(0, 1)

    @torch.inference_mode()
    def decode_ours() -> Tensor:
        return ours.decode_tokens(q)

    error = near(decode_ours(), decode_theirs(), SAME_PIXELS, name)
    print(f"{name}: equal to {error:.1g} of the largest pixel", flush=True)
    return Case(name, decode_theirs, decode_ours, size["batch"])


class Settings(SimpleNamespace):
    """A tokenizer's settings under the official names."""

    def __init__(self, size: dict[str, Any]):
        super().__init__(
            quantizer_type="lookup-free", codebook_size=2 ** size["bits"], token_size=size["bits"],
            commitment_cost=0.25, entropy_loss_weight=0.02, entropy_loss_temperature=0.01, entropy_gamma=1.0,
            num_channels=3, hidden_channels=size["channels"], channel_mult=list(MULTIPLIERS),
            num_resolutions=len(MULTIPLIERS), num_res_blocks=BLOCKS, sample_with_conv=True,
            resolution=SIDE * 2 ** (len(MULTIPLIERS) - 1),
        )  # fmt: skip

    def get(self, name: str, default: object) -> object:
        return getattr(self, name, default)


if __name__ == "__main__":
    main()
