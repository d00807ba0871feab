"""Latents as tokens and back."""

import pytest
import torch

from mixar.model.patches import patchify, unpatchify


def test_patches_become_tokens_row_by_row_with_channels_before_rows_and_columns():
    z = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6).float()

    x = patchify(z, 2)

    assert x.shape == (2, 6, 12)
    assert torch.equal(x[1, 4].view(3, 2, 2), z[1, :, 2:4, 2:4])
    assert torch.equal(unpatchify(x, 2, 2), z)
    assert torch.equal(patchify(z), z.flatten(2).transpose(1, 2)) and torch.equal(unpatchify(patchify(z), 4), z)


@pytest.mark.parametrize(("patch", "height", "width"), [(1, 3, 5), (2, 2, 3), (4, 1, 2)])
def test_unpatchify_is_the_inverse_for_grids_of_any_sides(patch, height, width):
    z = torch.randn(2, 3, height * patch, width * patch)

    x = patchify(z, patch)

    assert x.shape == (2, height * width, 3 * patch**2)
    assert torch.equal(unpatchify(x, height, patch), z)
