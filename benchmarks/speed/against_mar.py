"""Training and sampling against the official MAR: the same weights and draws, equal results first, then times in turn.

    python benchmarks/speed/against_mar.py PATH [--threads 2] [--rounds 5] [--case NAME ...] [--output FILE.parquet]

PATH: a checkout of github.com/LTH14/mar. Its own imports beyond torch, timm, numpy and scipy are replaced by empty
modules, and on a CPU its `.cuda()` by nothing. A training step is forward, backward, clipping, AdamW and average.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from checkouts import checkout, recorded  # noqa: E402
from interleaved import Case, compare, near, show, write  # noqa: E402

from mixar import released  # noqa: E402
from mixar.model.decode import Draws, sample_latents, steps_of  # noqa: E402
from mixar.model.layers import set_fast_dropout, take  # noqa: E402
from mixar.model.mar import MAR  # noqa: E402
from mixar.model.masking import Group, sample_mask_rate, split_positions  # noqa: E402
from mixar.study.sections import MarTraining, Sampler  # noqa: E402
from mixar.training.accumulate import optimizer_step, parts_of  # noqa: E402
from mixar.training.draws import Draws as TrainingDraws  # noqa: E402
from mixar.training.optim import build_optimizer, update_average  # noqa: E402
from mixar.training.steps import training_step  # noqa: E402

CHANNELS, SIDE, CLASSES, DROPOUT = 32, 16, 1000, 0.1
SAME_SAMPLES, SAME_LOSS, SAME_GRADIENTS = 1e-5, 1e-6, 1e-5
ABSENT = ("torch_fidelity", "cv2")  # what its engine imports and a step does not use
CASES: dict[str, dict[str, Any]] = {
    "width 384": {
        "width": 384, "depth": 6, "heads": 6, "head_width": 512, "batch": 8,
        "sampler": Sampler(num_iterations=8, head_steps=25, cfg=3.0),
    },
    "width 128": {
        "width": 128, "depth": 2, "heads": 4, "head_width": 128, "batch": 1,
        "sampler": Sampler(num_iterations=64, head_steps=50, cfg=3.0),
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--part", nargs="+", choices=("sample", "train"), default=["sample", "train"])
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--no-flops", action="store_true", help="count none: for a first look")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    with official(args.path, args.device) as modules:
        for name in args.case:
            for case in cases(name, modules, args.device, args.part):
                rows.append(compare(case, args.rounds, args.device, not args.no_flops))
                print(show(rows[-1]), flush=True)
                if args.output:
                    write(args.output, rows, args.device)


@contextmanager
def official(path: Path, device: torch.device) -> Iterator[tuple[ModuleType, ModuleType]]:
    """Its modules `models.mar` and `engine_mar`. Raises SystemExit where the path holds no checkout."""
    with checkout(path, "models/mar.py", ABSENT, device):
        yield importlib.import_module("models.mar"), importlib.import_module("engine_mar")


def cases(name: str, modules: tuple[ModuleType, ModuleType], device: torch.device, parts: list[str]) -> Iterator[Case]:
    """The comparisons of one size, each after its results were found equal. Raises ValueError where they are not."""
    size = CASES[name]
    if "sample" in parts:
        theirs, ours = pair(modules[0], size, 0.0, device)
        yield sampling(f"{name}, sampling", theirs, ours, size, device)
    if "train" in parts:
        print(f"{name}, training: {check_training(*pair(modules[0], size, 0.0, device), size, device)}", flush=True)
        for label in ("reference dropout", "fast dropout"):
            theirs, ours = pair(modules[0], size, DROPOUT, device)
            set_fast_dropout(ours, label == "fast dropout")
            their_step = mar_step(theirs, modules[1].update_ema, size, device)
            yield Case(f"{name}, training, {label}", their_step, our_step(ours, size, device), size["batch"])


def pair(mar: ModuleType, size: dict[str, Any], dropout: float, device: torch.device) -> tuple[Any, MAR]:
    """The official network and ours with its weights, none of them zero."""
    torch.manual_seed(0)
    width, depth, heads = size["width"], size["depth"], size["heads"]
    theirs = mar.MAR(
        img_size=SIDE, vae_stride=1, vae_embed_dim=CHANNELS, class_num=CLASSES,
        encoder_embed_dim=width, encoder_depth=depth, encoder_num_heads=heads,
        decoder_embed_dim=width, decoder_depth=depth, decoder_num_heads=heads,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        attn_dropout=dropout, proj_dropout=dropout, diffloss_d=3, diffloss_w=size["head_width"],
        num_sampling_steps=str(size["sampler"].head_steps), diffusion_batch_mul=4,
    )  # fmt: skip
    for parameter in theirs.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)  # a head that starts at zero hides what comes before it
    ours = released.load(
        "mar", theirs.state_dict(),
        width=width, encoder_depth=depth, decoder_depth=depth, heads=heads, dropout=dropout,
        head_depth=3, head_width=size["head_width"], num_tokens=SIDE**2, channels=CHANNELS, num_classes=CLASSES,
    )  # fmt: skip
    return theirs.to(device).eval(), ours.requires_grad_(True).to(device)  # type: ignore[return-value]


# Sampling


def sampling(name: str, theirs: Any, ours: Any, size: dict[str, Any], device: torch.device) -> Case:
    batch, sampler = size["batch"], size["sampler"]
    c = torch.randint(CLASSES, (batch,), device=device)
    q = torch.zeros(batch, SIDE**2, dtype=torch.long, device=device)

    @torch.no_grad()
    def draw_theirs() -> Tensor:
        return theirs.sample_tokens(
            batch, sampler.num_iterations, sampler.cfg, labels=c, temperature=sampler.temperature
        )

    @torch.inference_mode()
    def draw_ours(draws: Draws | None = None) -> Tensor:
        return sample_latents(ours, q, c, sampler, torch.Generator(device).manual_seed(0), draws)

    expected, draws = replayed(theirs, draw_theirs, sampler)
    error = near(draw_ours(draws), theirs.patchify(expected), SAME_SAMPLES, name)
    print(f"{name}: equal to {error:.1g} of the largest latent", flush=True)
    return Case(name, draw_theirs, draw_ours, batch)


def replayed(theirs: Any, draw: Callable[[], Tensor], sampler: Sampler) -> tuple[Tensor, Draws]:
    """What the official code draws, and its orders and noise."""
    names = (theirs, "sample_orders"), (torch, "randn"), (torch, "randn_like")
    with recorded(*names[0]) as orders, recorded(*names[1]) as first, recorded(*names[2]) as later:
        found = draw()
    steps, heads = sampler.head_steps, []
    for i, _ in enumerate(steps_of(SIDE**2, sampler)):
        heads.append((first[i], torch.stack(later[i * steps : (i + 1) * steps])))
    return found, Draws(orders[0], heads)


# Training


def check_training(theirs: Any, ours: Any, size: dict[str, Any], device: torch.device) -> str:
    """That one loss and its gradients agree: same orders, mask, dropped classes, timesteps and noise."""
    x, c, theirs = *data(size, device), theirs.train()
    theirs.label_drop_prob = 0.5  # some images keep their class and some do not
    with (
        recorded(theirs, "random_masking") as masks,
        recorded(torch, "rand") as rand,
        recorded(torch, "randint") as t,
        recorded(torch, "randn_like") as noise,
    ):
        expected = theirs(theirs.unpatchify(x), c)
    expected.backward()
    m, repeats = masks[0].bool(), theirs.diffusion_batch_mul
    _, masked = split_positions(m)
    drawn = {"t": t[0][:, None], "noise": noise[0]}
    rows = {k: torch.cat([take(part.unflatten(0, m.shape), masked).flatten(0, 1) for part in v.chunk(repeats)])
            for k, v in drawn.items()}  # fmt: skip
    drop = (rand[0] < theirs.label_drop_prob).to(device)
    q = torch.zeros_like(m, dtype=torch.long)
    loss = ours.train()(x, q, m, c, drop, None, repeats, rows["t"][:, 0], rows["noise"])
    loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    error = near(loss.detach(), expected.detach(), SAME_LOSS, "the loss")
    worst = max(
        near(p.grad, gradients[name.removeprefix("guidance.")], SAME_GRADIENTS, f"gradient of {name}")
        for name, p in ours.named_parameters()
    )
    return f"loss equal to {error:.1g}, gradients to {worst:.1g} of their largest value"


def data(size: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(size["batch"], SIDE**2, CHANNELS, generator=rng)
    return x.to(device), torch.randint(CLASSES, (size["batch"],), generator=rng).to(device)


class SameRates:
    """The mask rates that our steps draw, one after the other, in place of the official generator."""

    def __init__(self, size: dict[str, Any], device: torch.device):
        self.number, self.settings = 0, settings_of(size)
        self.group, self.device = Group(size["batch"], slice(0, size["batch"])), device

    def rvs(self, _count: int) -> list[float]:
        draws = TrainingDraws.of(self.device, (0, self.number), 0, self.group, False)
        self.number += 1
        return [sample_mask_rate(self.settings.mask_rate_min, draws.mask_rate)]


def settings_of(size: dict[str, Any]) -> MarTraining:
    return MarTraining(epochs=1, batch_size=size["batch"], learning_rate=1e-4)


def mar_step(theirs: Any, update_ema: Callable, size: dict[str, Any], device: torch.device) -> Callable[[], object]:
    """One step as its engine makes it, in float32."""
    x, c = data(size, device)
    theirs.mask_ratio_generator = SameRates(size, device)
    images, model, average = theirs.unpatchify(x), theirs.train(), copy.deepcopy(theirs)
    plain = [p for n, p in model.named_parameters() if p.ndim == 1 or n.endswith(".bias") or "diffloss" in n]
    decayed = [p for n, p in model.named_parameters() if not (p.ndim == 1 or n.endswith(".bias") or "diffloss" in n)]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.02)

    def step() -> None:
        loss = model(images, c)
        loss.item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()
        update_ema(list(average.parameters()), list(model.parameters()), rate=0.9999)

    return step


def our_step(ours: Any, size: dict[str, Any], device: torch.device) -> Callable[[], object]:
    """One step of mixar's training loop."""
    x, c = data(size, device)
    settings = settings_of(size)
    model, average = ours.train(), copy.deepcopy(ours).eval()
    optimizer, rows = build_optimizer(model, settings), torch.arange(size["batch"])
    q = torch.zeros(size["batch"], SIDE**2, dtype=torch.long, device=device)
    number = iter(range(10**9))

    def loss(model: Any, _indices: Tensor, draws: Any, _progress: float) -> dict[str, Tensor]:
        return {"loss": training_step(model, {"x": x, "q": q, "c": c}, settings, draws)}

    def step() -> None:
        parts = parts_of(rows, slice(0, len(rows)), settings, (0, next(number)), device)
        found = optimizer_step(model, loss, parts, optimizer, settings, 1e-4, 0.0)
        update_average(average, model, settings.ema_decay, found["finite"])

    return step


if __name__ == "__main__":
    main()
