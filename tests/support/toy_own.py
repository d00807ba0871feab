"""A source, an optimizer, a feature network and schedules that a study names as toy_own:NAME."""

import torch
from torch import nn

from mixar.data.sources import Original, Originals


def flat(files, key):
    """Images of one folder; the class is what precedes the first dash of the name."""
    names = sorted({file.parts[-1].partition("-")[0] for file in files.files})
    items = []
    for file in files.files:
        name = file.parts[-1]
        label = names.index(name.partition("-")[0])
        items.append((Original(label, names[label], label, names[label], name, file.path, -1, name), None))
    return Originals(len(items), {(i, name, i, name) for i, name in enumerate(names)}, iter(items))


def nothing(files, key):
    return []


def torn(files, key):
    return Originals(1, {(0, "a", 0, "a")}, iter([("a.png", b"")]))


def broken(*arguments):
    raise KeyError("colour")


def sgd(parameters, settings):
    return torch.optim.SGD(parameters, lr=0.0, momentum=settings.betas[0])


class Still(torch.optim.SGD):
    def step(self, closure=None):
        """Does nothing."""


def unmoved(parameters, settings):
    return Still(parameters, lr=0.0)


def no_optimizer(parameters, settings):
    return parameters


class Pooled(nn.Module):
    """Means over quarters of the images as features."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 8)

    def forward(self, images):
        features = nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
        return features, self.head(features)


class OnlyFeatures(Pooled):
    def forward(self, images):
        return super().forward(images)[0]


def cubic(progress, ti_mix):
    return ti_mix.start * (1 - progress) ** 3


def beyond(progress, ti_mix):
    return 1 + progress


def rising(progress, ti_mix):
    return progress
