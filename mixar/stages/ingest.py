"""`ingest`: every image of the study's sources, decoded once and listed in one manifest."""

from __future__ import annotations

import pyarrow.compute as pc
from rich import print

from mixar.data.manifest import count_smaller, ingest_manifest
from mixar.process.failures import needs_memory
from mixar.process.progress import Progress
from mixar.storage.files import write_table
from mixar.study import inventory
from mixar.study.layout import Layout
from mixar.study.sections import Study


@needs_memory(lambda *_: ("ingest", "Lower data.limit, the images that are taken"))
def ingest(study: Study, layout: Layout) -> None:
    """Write the manifest of all images, and what they were made of: layout.manifest, layout.inventory."""
    files = inventory.taken(study.data, layout.inventory)
    manifest = ingest_manifest(study.data, progress=Progress("ingest", "images"), unreadable=layout.unreadable)
    held_out = pc.sum(pc.equal(manifest["split"], "held_out")).as_py()
    print(f"ingest: {len(manifest) - held_out} training and {held_out} held-out images")
    if smaller := count_smaller(manifest, study.data.image_size):
        size = study.data.image_size
        print(f"ingest: {smaller} images are smaller than {size} pixels; the ADM crop enlarges them to {size}")
    inventory.record(files, layout.inventory)
    write_table(layout.manifest, manifest)
