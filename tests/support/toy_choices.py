"""Things that a study could name as module:name, fit and unfit."""

import pytest  # noqa: F401 - named by a test, as what is no class
from torch import nn


class Mine(nn.Module):
    def __init__(self, size, speed=1):
        super().__init__()
        self.speed = speed

    def encode(self):
        """Here."""


NUMBER = 3
