"""The words for what is wrong in a study: the key, what was found, and the nearest valid name."""

import pytest

from mixar.study.errors import SpecError
from mixar.study.load import parse_study


def refusal(content):
    with pytest.raises(SpecError) as caught:
        parse_study(content)
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "key", "near"),
    [
        ((), "sampelrs", "samplers"),
        (("data",), "image_sise", "image_size"),
        (("training",), "learing_rate", "learning_rate"),
        (("runs", "mar"), "guidence", "guidance"),
        (("generator", "sampler"), "guidance_scal", "guidance_scale"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(smoke, path, key, near):
    section = smoke
    for part in path:
        section = section[part]
    section[key] = 1

    message = refusal(smoke)

    assert repr(key) in message
    assert f"did you mean {near!r}?" in message


def test_a_key_of_earlier_studies_is_refused_with_what_to_write_now(smoke):
    smoke["strategies"] = {"mine": "my_guidance:Mine"}
    smoke["scoring"]["own_metrics"] = {"shift": "my_metric:shift"}

    message = refusal(smoke)

    assert "strategies: no longer a key; name the class where it is used" in message
    assert "scoring.own_metrics: no longer a key; name the function in scoring.metrics" in message


def test_a_wrong_entry_of_a_list_is_said_alone(smoke):
    smoke["runs"]["mar"]["seeds"] = [2**63]

    assert len(refusal(smoke).splitlines()) == 2  # the study, and the entry
