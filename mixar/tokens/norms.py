"""GroupNorm of the tokenizers, and the precision in which norms and sums are computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Norm(nn.GroupNorm):
    """32 groups, in float32 also where the input or the weights are bfloat16; the result has the weights' type."""

    def __init__(self, width: int):
        super().__init__(32, width, eps=1e-6)

    def forward(self, h: Tensor) -> Tensor:
        h, weight, bias = (wide(t) for t in (h, self.weight, self.bias))
        return F.group_norm(h, self.num_groups, weight, bias, self.eps).to(self.weight.dtype)


def wide(t: Tensor) -> Tensor:
    """t in float32, or in float64 where it is."""
    return t.to(torch.promote_types(t.dtype, torch.float32))
