"""What a training's settings do not say: what it continues, and what was changed on the way.

One small JSON file beside the checkpoints, read by every attempt and copied into the weights' metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from mixar.storage.files import read_text, write_text
from mixar.study.sections import MarTraining

HISTORY = "history.json"
# Settings that every step reads anew. Others are built into the data order, the optimizer or the length.
CHANGEABLE = (
    "learning_rate",
    "final_rate",
    "weight_decay",
    "betas",
    "clip_norm",
    "ema_decay",
    "precision",
    "mask_rate_min",
    "label_drop_rate",
    "head_batch_multiplier",
)


class Change(BaseModel):
    """Settings of `training` that hold from a step on."""

    step: int  # steps before it were made with the earlier settings
    epoch: float
    settings: dict[str, Any]

    def in_words(self) -> str:
        values = ", ".join(f"training.{key}={value}" for key, value in self.settings.items())
        return f"{values} from epoch {self.epoch:g}"


class History(BaseModel):
    """continued: what the first step started from, in words. restart_steps: of the warm-up there."""

    continued: str | None = None
    restart_steps: int = 0
    changes: list[Change] = []

    def until(self, steps: int) -> list[Change]:
        """The changes that a network of so many steps has seen."""
        return [change for change in self.changes if change.step < steps]


def read_history(folder: Path) -> History:
    """The history in a training's folder; an empty one where there is none. Raises ValueError for a damaged file."""
    path = folder / HISTORY
    if not path.exists():
        return History()
    try:
        return History.model_validate_json(read_text(path))
    except ValidationError as error:
        advice = "delete it; what was changed by hand is then no longer recorded"
        raise ValueError(f"{path}: damaged ({error.error_count()} errors); {advice}") from None


def write_history(folder: Path, history: History) -> None:
    write_text(folder / HISTORY, history.model_dump_json(indent=2))


def changed(settings: MarTraining, changes: list[Change]) -> MarTraining:
    """The settings after these changes. Raises ValueError (pydantic's) for values that do not fit."""
    values = settings.model_dump(exclude={"micro_batch"})  # hardware: no study may set it here
    for change in changes:
        values |= change.settings
    return MarTraining.model_validate(values).model_copy(update={"micro_batch": settings.micro_batch})
