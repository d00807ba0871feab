"""`extractor`: the weights of the feature network behind the scores, imported or trained on the study's own images."""

from __future__ import annotations

import torch

from mixar.data.manifest import manifest_sha256, read_manifest
from mixar.data.selection import training_images
from mixar.device import device_of
from mixar.process.failures import needs_memory
from mixar.scoring.extractors import load_extractor
from mixar.scoring.networks.subgroup_cnn import build_network, training_loss
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.training.job import micro_batch, train_network
from mixar.weights import import_weights


@needs_memory(lambda study, _: ("extractor", micro_batch("scoring.extractor.train", study.scoring.extractor.train)))
def extractor(study: Study, layout: Layout) -> None:
    """Write the weights of the feature network behind the scores."""
    s = study.scoring.extractor
    if s.weights:
        import_weights(s.weights, lambda path: load_extractor(s, path).module, layout.extractor())
        return
    training = s.train
    assert training is not None, "a section without weights is trained"
    images = training_images(study, layout)
    labels = torch.tensor(read_manifest(layout.manifest, "train", ["fine_label"])["fine_label"].to_pylist())
    device = device_of(study)

    def step(model, rows, rng, progress):
        return {"loss": training_loss(model, images[rows].to(device), labels[rows].to(device), training, rng)}

    def build():
        return build_network(s, num_classes=int(labels.max()) + 1, image_size=study.data.image_size)

    train_network(
        study,
        layout,
        build,
        step,
        training,
        num_items=len(images),
        name="extractor",
        digest=Digests(study).extractor(),
        images=manifest_sha256(layout.manifest),
        output=layout.extractor(),
    )
