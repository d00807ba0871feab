"""Compiled blocks and head: the parts of a network that repeat, each compiled once for all its copies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# Compilations of one region's code: one for the first number of tokens, one for any, and a few for sizes of 1 and for
# numbers that are equal by chance. Where that does not do, torch warns and runs the rest eagerly.
MOST_COMPILATIONS = 16


def compile_regions(model: nn.Module, trial: Callable[[], Tensor], backend: str = "inductor") -> str | None:
    """Compile the blocks of `model` and of its head in place; names of weights stay. Returns why not, if it fails.

    trial: a loss of the model, whose gradients are dropped again. It compiles everything once, before the training.
    The number of masked tokens varies, so that after two of them a region is compiled for any.
    """
    from torch._dynamo.exc import TorchDynamoException

    torch._dynamo.config.recompile_limit = MOST_COMPILATIONS
    regions = regions_of(model)
    for region in regions:
        region.compile(backend=backend)
    try:
        trial().backward()
    except TorchDynamoException as error:
        for region in regions:
            region._compiled_call_impl = None
        return " ".join(str(error).strip().splitlines()[:2])
    finally:
        model.zero_grad(set_to_none=True)
    return None


def regions_of(model: nn.Module) -> list[nn.Module]:
    """The modules in lists of equal ones, such as the blocks of encoder, decoder and head."""
    return [module for found in model.modules() if isinstance(found, nn.ModuleList) for module in found]
