"""Batches of a token store: their order, mirroring and types, whatever is made ahead and wherever an epoch begins."""

import numpy as np
import pytest
import torch

from mixar.data.shards import TokenStore, write_shard
from mixar.model.masking import Group
from mixar.training.ahead import Ahead
from mixar.training.batches import load_of, on_device, order_of
from mixar.training.draws import Draws

CPU, L, C, BATCH = torch.device("cpu"), 4, 3, 5
SIZES = (7, 1, 12, 9)  # of the shards


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose latents and tokens tell the image and the view, with tokens up to the largest of 16 bits."""
    folder, first, paths = tmp_path_factory.mktemp("store"), 0, []
    for shard, n in enumerate(SIZES):
        index = np.arange(first, first + n)
        tokens = np.repeat(index[:, None], L, 1)
        latents = np.broadcast_to(index[:, None, None] / 8, (n, L, C))
        arrays = {"latents": latents, "latents_flip": -latents, "tokens": tokens, "tokens_flip": 2**16 - 1 - tokens}
        arrays |= {"labels": index % 3, "index": index, "held_out": index % 4 == 0}
        paths.append(folder / f"{shard}.safetensors")
        write_shard(paths[-1], arrays, {"digest": "abc"})
        first += n
    return TokenStore(paths)


def epoch(store, depth, start=0):
    """The batches of an epoch of the training split from the `start`-th one on."""
    rows = store.rows("train")
    order, load = order_of(3, len(rows), 0), load_of(store, rows, CPU)

    def make(index):
        draws = Draws.of(CPU, (3, index), 0, Group(BATCH, slice(0, BATCH)), equal_rates=False)
        return load(order[index * BATCH : (index + 1) * BATCH], draws)

    end = len(rows) // BATCH
    with Ahead(make, end, depth) as ahead:
        return [ahead.take(index) for index in range(start, end)]


def are_equal(left, right):
    assert len(left) == len(right) > 0
    return all(torch.equal(a[key], b[key]) for a, b in zip(left, right, strict=True) for key in ("x", "q", "c"))


@pytest.mark.parametrize("depth", [1, 2, 30])
def test_batches_are_the_same_for_any_depth(store, depth):
    assert are_equal(epoch(store, depth), epoch(store, 0))


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("start", [1, 3])
def test_an_epoch_resumed_in_its_middle_ends_as_an_uninterrupted_one(store, depth, start):
    assert are_equal(epoch(store, depth, start), epoch(store, 2)[start:])


def test_an_epoch_takes_training_images_once_in_either_view_with_its_tokens_and_class(store):
    found = [on_device(batch, CPU) for batch in epoch(store, 2)]
    x, q, c = (torch.cat([batch[key] for batch in found]) for key in ("x", "q", "c"))

    image, is_mirrored = 8 * x[:, 0, 0].abs(), x[:, 0, 0] < 0

    assert [x.dtype, q.dtype, c.dtype] == [torch.float32, torch.int64, torch.int64]
    assert len(set(image.tolist())) == len(image) and (image % 4 != 0).all()
    assert torch.equal(c, image.long() % 3)
    assert torch.equal(q[:, 0], torch.where(is_mirrored, 2**16 - 1 - image.long(), image.long()))
    assert 0 < is_mirrored.sum() < len(image)


def test_what_reaches_the_device_equals_the_stores_own_conversion(store):
    rows, draws = store.rows("train"), lambda: Draws.of_all(CPU, 1, BATCH)

    found = on_device(load_of(store, rows, CPU)(torch.arange(BATCH), draws()), CPU)

    assert are_equal([found], [store.batch(rows[:BATCH], draws().flips())])


def test_epochs_have_orders_of_their_own_that_depend_on_the_seed():
    orders = [order_of(seed, 50, number) for seed, number in ((0, 0), (0, 1), (1, 0))]

    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert torch.equal(orders[0], order_of(0, 50, 0))
