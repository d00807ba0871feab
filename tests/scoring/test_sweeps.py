"""The choice of a guidance scale from the distances of a sweep."""

import numpy as np

from mixar.scoring.sweeps import choose


def point(cfg, value, noise=0.0, shared=0.0):
    """A scale with ten replicates: `shared` varies alike at every scale, `noise` at this one alone."""
    wave = np.linspace(-1, 1, 10)
    replicates = value + shared * wave + noise * np.cos(7 * wave)
    return cfg, {"metric": "fd", "value": value, "low": value - 1, "high": value + 1, "n": 9, "replicates": replicates}


def test_the_smallest_distance_is_chosen_and_of_equal_ones_the_smaller_scale():
    assert choose([point(4.0, 7.0), point(3.0, 5.0), point(2.0, 6.0)])["cfg"] == 3.0
    assert choose([point(4.0, 5.0), point(3.0, 5.0), point(2.0, 6.0)])["cfg"] == 3.0


def test_differences_are_paired_what_all_scales_share_does_not_blur_them():
    shared = choose([point(2.0, 5.0, shared=3.0), point(3.0, 5.5, shared=3.0), point(4.0, 9.0, shared=3.0)])
    noisy = choose([point(2.0, 5.0, shared=3.0), point(3.0, 5.5, noise=0.5), point(4.0, 9.0, shared=3.0)])

    assert shared["not_worse"] == [2.0]
    assert noisy["not_worse"] == [2.0, 3.0]


def test_a_best_scale_at_either_end_is_reported():
    assert choose([point(2.0, 5.0), point(3.0, 6.0), point(4.0, 7.0)])["at_edge"]
    assert choose([point(4.0, 5.0), point(3.0, 6.0), point(2.0, 7.0)])["at_edge"]
    assert not choose([point(4.0, 6.0), point(3.0, 5.0), point(2.0, 7.0)])["at_edge"]
