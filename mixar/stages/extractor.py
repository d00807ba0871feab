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
    fine, designers = _labels(layout)
    labels = [fine] if designers is None else [fine, designers]
    num_classes, num_designers = (0 if each is None else int(each.max()) + 1 for each in (fine, designers))
    device = device_of(study)

    def step(model, rows, rng, progress):
        wanted = [each[rows].to(device) for each in labels]
        return {"loss": training_loss(model, images[rows].to(device), wanted, training, rng)}

    def build():
        return build_network(s, num_classes, study.data.image_size, num_designers)

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


def _labels(layout: Layout) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Fine labels of the training images, int64 [n], and the number of each one's designer; None for fewer than two."""
    rows = read_manifest(layout.manifest, "train", ["fine_label", "designer"])
    names = sorted(set(rows["designer"].to_pylist()))
    numbers = [names.index(name) for name in rows["designer"].to_pylist()]
    return torch.tensor(rows["fine_label"].to_pylist()), torch.tensor(numbers) if len(names) > 1 else None
