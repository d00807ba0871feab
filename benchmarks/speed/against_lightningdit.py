"""Decoding and loading against the official LightningDiT and MAR: equal results first, then times in turn.

    python benchmarks/speed/against_lightningdit.py PATH [--mar PATH] [--threads 2] [--rounds 5] [--items 20000]
        [--folder FOLDER] [--case decoding loading] [--output FILE.parquet]

PATH: a checkout of github.com/hustvl/LightningDiT; its VA-VAE needs no package beyond torch and torchvision. --mar: one
of github.com/LTH14/mar, whose cached latents are loaded, too. Loading: an epoch of shuffled batches in one process,
from the page cache, of the same latents and labels in the files of each project.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).parent))
from checkouts import checkout  # noqa: E402
from interleaved import Case, compare, near, show, write  # noqa: E402

from mixar import released  # noqa: E402
from mixar.data.shards import TokenStore, write_shard  # noqa: E402
from mixar.model.masking import Group  # noqa: E402
from mixar.training.ahead import Ahead  # noqa: E402
from mixar.training.batches import load_of, order_of  # noqa: E402
from mixar.training.draws import Draws  # noqa: E402

ABSENT = ("omegaconf", "cv2", "torch_fidelity", "wandb", "diffusers", "requests", "tqdm")
CHANNELS, SIDE, CLASSES = 32, 16, 1000
IN_A_FILE = 10_000  # images, as LightningDiT's extraction writes them
BATCH, AHEAD = 256, 2
SAME_PIXELS = 1e-5
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--mar", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=20_000, help=f"at least {CLASSES}, one of each class")
    parser.add_argument("--folder", type=Path, help="where the items are, or are written to; default: a temporary one")
    parser.add_argument("--case", nargs="+", choices=("decoding", "loading"), default=["decoding", "loading"])
    parser.add_argument("--device", type=torch.device, default=CPU)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for case in cases(args, args.folder or Path(temporary)):
            rows.append(compare(case, args.rounds, args.device, flops=case.name.startswith("decoding")))
            print(show(rows[-1]), flush=True)
            if args.output:
                write(args.output, rows, args.device)


def cases(args: argparse.Namespace, folder: Path) -> Iterator[Case]:
    if "decoding" in args.case:
        with checkout(args.path, "tokenizer/autoencoder.py", ABSENT, args.device):
            yield decoding(args.device)
    if "loading" in args.case:
        items = Items(folder, args.items)
        with checkout(args.path, "datasets/img_latent_dataset.py", ABSENT, CPU):
            yield loading("LightningDiT", items, items.lightningdit())
        if args.mar:
            with checkout(args.mar, "util/loader.py", ABSENT, CPU):
                yield loading("MAR", items, items.mar())


# Decoding


def decoding(device: torch.device) -> Case:
    """An image from VA-VAE latents; that it is the same is checked first. Raises ValueError if not."""
    torch.manual_seed(0)
    theirs = importlib.import_module("tokenizer.autoencoder").AutoencoderKL(CHANNELS, (1, 1, 2, 2, 4))
    theirs, ours = theirs.to(device).eval(), released.load("vavae", theirs.state_dict()).to(device).eval()
    z = torch.randn(1, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)

    @torch.inference_mode()
    def decode_theirs() -> Tensor:
        return theirs.decode(z)

    @torch.inference_mode()
    def decode_ours() -> Tensor:
        return ours.decode(z)

    error = near(decode_ours(), decode_theirs(), SAME_PIXELS, "decoding")
    print(f"decoding, VA-VAE: equal to {error:.1g} of the largest pixel", flush=True)
    return Case("decoding, VA-VAE", decode_theirs, decode_ours, 1)


# Loading


class Items:
    """The same latents, mirrored latents and labels in the files of each project."""

    def __init__(self, folder: Path, count: int):
        rng = np.random.default_rng(0)
        self.folder, self.count = folder, count
        self.labels = np.arange(count) % CLASSES  # MAR numbers the classes that it finds: all of them
        self.base = rng.standard_normal((min(count, IN_A_FILE), CHANNELS, SIDE, SIDE), np.float32)

    def parts(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Numbers, latents and mirrored latents, a file at a time."""
        for first in range(0, self.count, IN_A_FILE):
            index = np.arange(first, min(first + IN_A_FILE, self.count))
            latents = np.roll(self.base, first // IN_A_FILE, 0)[: len(index)]
            yield index, latents, latents[..., ::-1].copy()

    def ours(self) -> TokenStore:
        """With tokens, which the other projects' items have not."""
        paths = []
        for number, (index, latents, mirrored) in enumerate(self.parts()):
            paths.append(self.folder / "ours" / f"shard-{number:05d}.safetensors")
            if paths[-1].exists():
                continue
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            none = np.zeros((len(index), SIDE**2), np.uint16)
            views = {
                f"latents{end}": part.reshape(len(index), CHANNELS, -1).swapaxes(1, 2)
                for end, part in (("", latents), ("_flip", mirrored))
            }
            rest = {"labels": self.labels[index], "index": index, "held_out": np.zeros(len(index))}
            write_shard(paths[-1], {**views, "tokens": none, "tokens_flip": none, **rest}, {"digest": "benchmark"})
        return TokenStore(paths)

    def lightningdit(self) -> Dataset:
        folder = self.folder / "lightningdit"
        folder.mkdir(parents=True, exist_ok=True)
        for number, (index, latents, mirrored) in enumerate(self.parts()):
            path = folder / f"latents_rank00_shard{number:03d}.safetensors"
            if not path.exists():
                save_file({"latents": latents, "latents_flip": mirrored, "labels": self.labels[index]}, path)
        module = importlib.import_module("datasets.img_latent_dataset")
        return module.ImgLatentDataset(str(folder), latent_norm=False)

    def mar(self) -> Dataset:
        folder = self.folder / "mar"
        for index, latents, mirrored in self.parts():
            for number, one, other in zip(index, latents, mirrored, strict=True):
                path = folder / f"{self.labels[number]:04d}" / f"{number}.npz"
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    np.savez(path, moments=one, moments_flip=other)
        return importlib.import_module("util.loader").CachedFolder(str(folder))


def loading(name: str, items: Items, dataset: Dataset) -> Case:
    """An epoch of batches. Checked first: every image once, with its label. Raises ValueError if not."""
    store = items.ours()
    epoch = {"theirs": theirs(dataset), "ours": ours(store)}
    expected = sorted(items.labels.tolist())
    for arm, batches in epoch.items():
        if sorted(label for c in batches() for label in c.tolist()) != expected:
            raise ValueError(f"{name}, {arm}: not every image once")
    print(f"loading, {name}: every image once", flush=True)
    return Case(f"loading, {name}", lambda: last(epoch["theirs"]()), lambda: last(epoch["ours"]()), items.count)


def theirs(dataset: Dataset) -> Callable[[], Iterator[Tensor]]:
    """The labels of an epoch's batches, as its training loop loads them."""
    loader = DataLoader(dataset, BATCH, shuffle=True)
    return lambda: (labels for _, labels in loader)


def ours(store: TokenStore) -> Callable[[], Iterator[Tensor]]:
    load = load_of(store, torch.arange(len(store)), CPU)

    def epoch() -> Iterator[Tensor]:
        order, end = order_of(0, len(store), 0), -(-len(store) // BATCH)

        def make(index: int) -> dict[str, Tensor]:
            indices = order[index * BATCH : (index + 1) * BATCH]
            group = Group(len(indices), slice(0, len(indices)))
            return load(indices, Draws.of(CPU, (0, index), 0, group, equal_rates=False))

        with Ahead(make, end, AHEAD) as ahead:
            for index in range(end):
                yield ahead.take(index)["c"]

    return epoch


def last(batches: Iterator[Tensor]) -> None:
    for _ in batches:
        pass


if __name__ == "__main__":
    main()
