"""An optimizer that a study names as its own, so that a test has the time to disturb a training.

It takes AdamW's steps, a few a second, and the last ones only once a file `released` is beside this module; from then
on it waits for nothing. No number depends on it.
"""

import time
from pathlib import Path

import torch

from mixar.training.optim import adamw

RELEASED = Path(__file__).with_name("released")
SECONDS = 0.2  # of a step
LAST = 360  # steps that may be made before


def paced(parameters, settings) -> torch.optim.Optimizer:
    optimizer = adamw(parameters, settings)

    def wait(optimizer, *_):
        done = max(int(state["step"]) for state in optimizer.state.values())
        time.sleep(0 if RELEASED.exists() else SECONDS)
        while done >= LAST and not RELEASED.exists():
            time.sleep(SECONDS)

    optimizer.register_step_post_hook(wait)
    return optimizer
