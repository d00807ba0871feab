"""Which replays a stored run of the released code is for, by its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from replay import Check, Stored, read_config
from replay_mar import HEAD_REPLAYS, MAR_REPLAYS, SCHEDULE_REPLAYS
from replay_maskbit import GENERATOR_REPLAYS, SAMPLING_REPLAYS, TOKENIZER_REPLAYS
from replay_vavae import VAVAE_REPLAYS

Replay = Callable[[Stored], Iterator[Check]]

# Keys of a file's configuration -> its replays; the first row whose keys are all there counts.
REPLAYS: dict[tuple[str, ...], list[Replay]] = {
    ("mar",): MAR_REPLAYS,
    ("target_channels",): HEAD_REPLAYS,
    ("schedule",): SCHEDULE_REPLAYS,
    ("gen", "tok"): SAMPLING_REPLAYS,
    ("gen",): GENERATOR_REPLAYS,
    ("tok",): TOKENIZER_REPLAYS,
    ("ae",): VAVAE_REPLAYS,
}


def replays_of(path: Path) -> list[Replay]:
    """Raises ValueError for a file of no known kind."""
    config = read_config(path)
    for keys, replays in REPLAYS.items():
        if all(key in config for key in keys):
            return replays
    known = "; ".join(" and ".join(keys) for keys in REPLAYS)
    raise ValueError(f"{path}: its config holds {', '.join(config)}; a known kind of file has one of: {known}")
