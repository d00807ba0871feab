"""What a checkpoint holds: all that a training resumes from.

There is no random state: a step's randomness follows from its number. Files and folders are the subject of
checkpoints.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

FORMAT = "mixar checkpoint, version 2"


@dataclass(frozen=True)
class State:
    """A training after `done` steps."""

    model: dict[str, Tensor]
    average: dict[str, Tensor]  # exponential moving average of the weights
    optimizer: dict[str, Any]
    curve: list[dict[str, float]]  # rows of the loss curve
    pending: list[dict[str, float]]  # steps since its last row
    done: int
    seconds: float  # of all attempts
    rollbacks: int  # so often the training went back to a checkpoint; each time its draws change

    def as_mapping(self) -> dict[str, Any]:
        """Tensors, numbers, text, lists and dicts alone, as `torch.load(weights_only=True)` reads them."""
        return {"format": FORMAT, **{field.name: getattr(self, field.name) for field in fields(self)}}

    def copied(self) -> State:
        """A copy on the CPU, which further training does not change."""
        return State(**{field.name: _copied(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def from_mapping(cls, found: object, where: str) -> State:
        """The inverse of `as_mapping`. Raises ValueError, beginning with `where`, for what is no checkpoint of this
        version."""
        version = found.get("format") if isinstance(found, dict) else None
        if not isinstance(found, dict) or version != FORMAT:
            raise ValueError(f"{where}: expected {FORMAT!r}, found {version or 'something else'!r}; {START_AGAIN}")
        values = {key: value for key, value in found.items() if key != "format"}
        names = {field.name for field in fields(cls)}
        if values.keys() != names:
            wrong = ", ".join(sorted(values.keys() ^ names))
            raise ValueError(f"{where}: missing or surplus in the checkpoint: {wrong}; {START_AGAIN}")
        return cls(**values)

    def restore(self, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, where: str) -> None:
        """Load weights and the optimizer's moments; its settings stay.

        Raises ValueError, beginning with `where`, if they are another network's.
        """
        try:
            model.load_state_dict(self.model)
            average.load_state_dict(self.average)
            groups = zip(optimizer.state_dict()["param_groups"], self.optimizer["param_groups"], strict=True)
            kept = [{**saved, **{k: v for k, v in own.items() if k != "params"}} for own, saved in groups]
            optimizer.load_state_dict({**self.optimizer, "param_groups": kept})
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise ValueError(f"{where}: a checkpoint of another network ({reason}); {START_AGAIN}") from error


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(item) for item in value)
    return value


START_AGAIN = "delete it to start this training again"
