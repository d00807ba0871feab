"""`resume`: let a training go on from its last checkpoint under changed settings, without beginning anew.

The change is recorded beside the checkpoints: every later attempt trains under it, the weights' metadata name it, and
the report marks the run.
"""

from __future__ import annotations

from pydantic import ValidationError

from mixar.data.shards import TokenStore
from mixar.storage import locks
from mixar.study.arguments import check_run
from mixar.study.digests import Digests
from mixar.study.errors import explain
from mixar.study.layout import Layout
from mixar.study.sections import MarTraining, Study
from mixar.training.checkpoints import last, training_folder
from mixar.training.history import CHANGEABLE, Change, changed, read_history, write_history
from mixar.training.loop import total_steps
from mixar.weights import read_metadata

SECTION = "training."


def resume(study: Study, layout: Layout, run: str, seed: int, settings: dict[str, object]) -> Change:
    """Record that a run's training goes on under other settings from its last state. Returns what was recorded.

    settings: by key of the study, such as {"training.learning_rate": 5e-5}.
    Raises ValueError for settings that cannot change on the way, for a finished run, one that is training now, and
    one without a state.
    """
    check_run(study, run, seed)
    if run not in study.runs or study.runs[run].weights:
        raise ValueError(f"resume: {run!r} is not trained by itself; name one of the study's trained runs")
    values = _values(settings)
    path = layout.weights(run, seed)
    if path.exists() and read_metadata(path).get("digest") == Digests(study).train(run, seed):
        raise ValueError(f"resume: {run!r} seed {seed} is finished; raise its `epochs`, or continue it as a `parent`")
    store, training = TokenStore(layout.token_shards()), study.training_of(run)
    folder = training_folder(study, layout, run, seed, store.metadata.get("images"))
    if who := locks.holder(folder):
        raise ValueError(f"{folder}: in use by {who}; stop it first, it saves its state")
    steps = total_steps(training, len(store.rows("train")))
    done = last(folder, steps)
    if done is None:
        raise ValueError(f"{folder}: no state of {run!r} seed {seed} to go on from; change the study file and train")
    history = read_history(folder)
    change = Change(step=done, epoch=done * training.epochs / steps, settings=values)
    try:
        changed(training, [*history.changes, change])
    except ValidationError as error:
        raise ValueError(
            "\n".join(f"--set {SECTION}{line}" for line in explain(error, MarTraining).splitlines())
        ) from None
    write_history(folder, history.model_copy(update={"changes": [*history.changes, change]}))
    return change


def _values(settings: dict[str, object]) -> dict[str, object]:
    """The keys of `training` that change. Raises ValueError for others."""
    if not settings:
        raise ValueError(f"resume: nothing changes; give --set {SECTION}KEY=VALUE, or run the same command as before")
    for key in settings:
        if key.removeprefix(SECTION) not in CHANGEABLE or not key.startswith(SECTION):
            known = ", ".join(SECTION + each for each in CHANGEABLE)
            raise ValueError(f"--set {key}: cannot change within a training; these can: {known}")
    return {key.removeprefix(SECTION): value for key, value in settings.items()}
