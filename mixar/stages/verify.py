"""`verify`: the whole token store against its hashes, the manifest and the study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mixar.data.manifest import images_sha256, read_manifest
from mixar.data.selection import part_of
from mixar.data.verifying import shard_faults
from mixar.process.progress import Progress
from mixar.storage.files import file_sha256
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.names import KINDS
from mixar.study.sections import Study


def verify(study: Study, layout: Layout, say: Callable[[str], None] = print) -> tuple[int, list[int]]:
    """The number of verified token images, and the shards that have faults. Reads every shard; writes nothing.

    say: takes each fault, with the file, and the names of files that are not the study's, which are no fault. Raises
    ValueError where there is no manifest.
    """
    manifest = read_manifest(layout.manifest)
    tokenizers = {kind: file_sha256(path) for kind in KINDS if (path := layout.tokenizer(kind)).is_file()}
    expected: dict[str, Any] = {
        "digest": Digests(study).tokenize(),
        "num_shards": study.data.num_shards,
        "images": images_sha256(manifest),
    }
    if len(tokenizers) == len(KINDS):  # they may have been deleted after use
        expected["tokenizers"] = tokenizers
    sizes = study.num_tokens, study.continuous.latent_channels, study.discrete.bits
    images, faulty, progress = 0, [], Progress("verify", "images")
    progress(0, len(manifest))
    for shard, path in enumerate(layout.token_shards()):
        rows = part_of(manifest, shard, study.data.num_shards, "images")
        faults = list(shard_faults(path, rows, {**expected, "shard": shard}, *sizes))
        for fault in faults:
            say(f"{path}: {fault}")
        faulty += [shard] if faults else []
        images += 0 if faults else len(rows)
        progress(rows["index"][-1].as_py() + 1, len(manifest))
    for path in _foreign(layout, study.data.num_shards):
        say(f"{path}: no shard of this study, which has {study.data.num_shards}; nothing reads it")
    return images, faulty


def _foreign(layout: Layout, num_shards: int) -> list[Path]:
    """What else is in the folder of the token shards."""
    folder, kept = layout.token_shard(0).parent, {layout.kept_shard(shard) for shard in range(num_shards)}
    return sorted(set(folder.glob("*")) - set(layout.token_shards()) - kept)
