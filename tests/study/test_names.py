"""Names of networks: a run, and the epoch of its milestone."""

import pytest

from mixar.study.names import milestone, split


@pytest.mark.parametrize(("name", "parts"), [("mar", ("mar", None)), ("dc_mix@12", ("dc_mix", 12))])
def test_a_networks_name_is_its_run_and_the_epoch_of_its_milestone(name, parts):
    assert split(name) == parts
    assert parts[1] is None or milestone(*parts) == name
