"""How many images of a batch are in one forward pass, and which numbers do not divide."""

from __future__ import annotations

import pytest

from mixar.study.sections import MarTraining
from mixar.training.accumulate import cuts_of, images_of_part

BASIC = {"epochs": 1, "batch_size": 8, "learning_rate": 1.0}


@pytest.mark.parametrize(
    ("group", "processes", "micro_batch", "message"),
    [
        (
            None,
            2,
            3,
            "micro_batch: 3 images do not divide the 4 of a process .*; choose one of 1, 2, 4",
        ),
        (2, 1, 4, "micro_batch: 4 images do not divide the 8 of a process .* and its groups of 2; choose one of 1, 2"),
        (3, 1, None, "mask_group: groups of 3 images do not divide batch_size 8; choose one of 2, 4, 8"),
    ],
)
def test_what_does_not_divide_is_refused(group, processes, micro_batch, message):
    settings = MarTraining(**BASIC, mask_group=group).model_copy(update={"micro_batch": micro_batch})

    with pytest.raises(ValueError, match=message):
        list(cuts_of(settings, 8, slice(0, 8 // processes)))


@pytest.mark.parametrize(
    ("group", "processes", "micro_batch", "images"),
    [(None, 1, None, 8), (None, 2, None, 4), (2, 1, None, 2), (2, 8, None, 1), (4, 2, 2, 2)],
)
def test_the_images_of_a_forward_pass_fit_groups_processes_and_micro_batch(group, processes, micro_batch, images):
    settings = MarTraining(**BASIC, mask_group=group).model_copy(update={"micro_batch": micro_batch})

    found = images_of_part(settings, 8, processes)

    cuts = cuts_of(settings, 8, slice(0, 8 // processes))
    assert found == images and {cut.images.stop - cut.images.start for cut in cuts} == {images}
