"""`generator`: the weights of MaskBit's bit transformer, imported or trained on the study's own tokens."""

from __future__ import annotations

import torch

from mixar import released
from mixar.data.manifest import check_same_images, manifest_sha256
from mixar.data.shards import TokenStore
from mixar.process.failures import needs_memory
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.sections import Study
from mixar.tokens.generator import BitTransformer, training_loss
from mixar.training.job import micro_batch, train_network
from mixar.weights import import_weights


@needs_memory(lambda study, _: ("generator", micro_batch("generator.train", study.generator.train)))
def generator(study: Study, layout: Layout) -> None:
    """Write the weights of MaskBit's bit transformer."""
    s = study.generator

    def build():
        return BitTransformer(s, study.discrete.bits, study.num_tokens, study.data.num_classes)

    if s.weights:
        import_weights(s.weights, lambda path: released.built(build, "maskbit-generator", path), layout.generator)
        return
    training = s.train
    assert training is not None, "a section without weights is trained"
    store = TokenStore(layout.token_shards())
    check_same_images(layout.manifest, store, layout.token_shard(0).parent)
    train_rows = store.rows("train")

    def step(model, rows, rng, progress):
        flip = torch.rand(len(rows), generator=rng, device=rng.device) < 0.5
        batch = store.batch(train_rows[rows], flip.cpu())
        q, c = batch["q"].to(rng.device), batch["c"].to(rng.device)
        return {"loss": training_loss(model, q, c, rng, training)}

    train_network(
        study,
        layout,
        build,
        step,
        training,
        num_items=len(train_rows),
        name="generator",
        digest=Digests(study).generator(),
        images=manifest_sha256(layout.manifest),
        output=layout.generator,
    )
