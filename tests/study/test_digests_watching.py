"""Keys for those who watch a training are in no digest: they may change at any time."""

from __future__ import annotations

import pytest

from mixar.study.digests import Digests
from mixar.study.load import parse_study


@pytest.mark.parametrize("key", ["training", "runs"])
def test_what_is_only_watched_changes_no_digest(smoke, key):
    before = Digests(parse_study(smoke))
    watched = {"held_out_images": 8, "expected": {1: [0.5, 1.5], "2": [0.25, 1]}}
    if key == "training":
        smoke["training"] |= watched
    else:
        smoke["runs"]["mar"]["training"] = watched
    study = parse_study(smoke)

    after = Digests(study)
    assert study.training_of("mar").expected == {1: (0.5, 1.5), 2: (0.25, 1.0)}
    assert after.train("mar", 0) == before.train("mar", 0)
    assert after.measure("mar") == before.measure("mar")
    assert after.sample("mar", 0, "default") == before.sample("mar", 0, "default")


def test_a_band_has_its_lower_loss_first(smoke):
    smoke["training"]["expected"] = {1: [0.6, 0.4]}

    with pytest.raises(
        ValueError, match=r"training\.expected\.1: \[0\.6, 0\.4\] is not a band; give the lower loss first"
    ):
        parse_study(smoke)
