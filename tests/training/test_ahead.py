"""Batches made ahead are the batches made when they are needed."""

import threading

import pytest

from mixar.training.ahead import Ahead


@pytest.mark.parametrize("depth", [0, 1, 3, 20])
def test_the_order_is_the_same_for_any_depth_and_nothing_beyond_the_end_is_made(depth):
    made = []
    with Ahead(lambda index: made.append(index) or index**2, 9, depth) as ahead:
        taken = [ahead.take(index) for index in range(4, 9)]

    assert taken == [16, 25, 36, 49, 64] and made == [4, 5, 6, 7, 8]


def test_the_next_batch_is_made_while_a_step_runs():
    made = threading.Event()
    with Ahead(lambda index: made.set() if index == 1 else None, 3, 1) as ahead:
        ahead.take(0)
        assert made.wait(30)


def test_batches_made_before_a_step_back_are_discarded():
    factor = [1]
    with Ahead(lambda index: index * factor[0], 9, 2) as ahead:
        assert ahead.take(1) == 1
        factor[0] = 10
        ahead.forget()
        assert [ahead.take(2), ahead.take(3)] == [20, 30]


def test_an_error_of_the_thread_reaches_the_step_that_needs_the_batch():
    def make(index):
        if index == 2:
            raise ValueError("shard 7 is cut off")

    with Ahead(make, 9, 2) as ahead:
        ahead.take(1)
        with pytest.raises(ValueError, match="shard 7"):
            ahead.take(2)
