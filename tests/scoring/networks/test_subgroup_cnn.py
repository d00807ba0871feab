"""The small feature network: its shapes, its training, and files of its weights."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from mixar.scoring.extractors import extract, load_extractor
from mixar.scoring.networks.subgroup_cnn import augment, build_network, training_loss
from mixar.study.sections import Extractor, ExtractorTraining
from mixar.weights import save_weights

SETTINGS = Extractor(network="subgroup-cnn", weights="x", channels=8)
TRAINING = ExtractorTraining(epochs=1, batch_size=16, learning_rate=1.0e-3, label_smoothing=0.0)


def network(classes: int = 5, size: int = 16, seed: int = 0, designers: int = 0):
    torch.manual_seed(seed)
    return build_network(SETTINGS, num_classes=classes, image_size=size, num_designers=designers)


def images(n: int = 12, size: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_features_have_four_times_the_channels_and_logits_one_entry_a_class():
    pool, logits = network()(torch.rand(3, 3, 16, 16))

    assert pool.shape == (3, 32) and logits.shape == (3, 5)


def test_a_network_without_designers_is_the_one_that_it_was():
    plain, both = network().state_dict(), network(designers=3).state_dict()

    assert all(torch.equal(both[name], value) for name, value in plain.items())
    assert both.keys() - plain.keys() == {"designer_head.weight", "designer_head.bias"}


@pytest.mark.parametrize("designers", [0, 2])
def test_training_overfits_a_batch_and_reaches_every_parameter(designers):
    model, batch, labels = network(designers=designers), images(8), torch.arange(8) % 4
    wanted = [labels, labels // 2] if designers else [labels]
    batch[..., :2] = (40 * labels.byte())[:, None, None, None]  # what tells the classes apart survives augmentation
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = training_loss(model, batch, wanted, TRAINING, torch.Generator().manual_seed(step))
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()) or step
        optimizer.step()
        losses.append(loss.item())

    assert losses[-1] < 0.3 * losses[0]


def test_the_loss_is_the_sum_of_the_two_heads_cross_entropies():
    model, batch = network(designers=3), images()
    fine, designers = torch.arange(12) % 5, torch.arange(12) % 3

    total = training_loss(model, batch, [fine, designers], TRAINING, torch.Generator().manual_seed(0))

    seen = augment(batch.movedim(-1, 1) / 255, torch.Generator().manual_seed(0))
    features, logits, styles = model(seen)
    assert torch.equal(logits, model.head(features)) and styles.shape == (12, 3)
    expected = F.cross_entropy(logits, fine) + F.cross_entropy(styles, designers)
    assert torch.allclose(total, expected) and total > F.cross_entropy(logits, fine)


def test_the_loss_depends_on_the_generator_alone():
    model, batch, labels = network(), images(), torch.zeros(12, dtype=torch.int64)

    losses = [training_loss(model, batch, [labels], TRAINING, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]

    assert losses[0] == losses[1] != losses[2]


def test_augmentation_keeps_white_images_near_white_and_moves_drawings_by_two_pixels_at_most():
    white = torch.ones(20, 3, 16, 16)
    dot = white.clone()
    dot[:, :, 8, 8] = 0

    plain, moved = (augment(x, torch.Generator().manual_seed(0)) for x in (white, dot))

    assert plain.shape == white.shape and plain.min() > 0.85 and plain.max() <= 1
    down, right = (moved[:, 0] == 0).nonzero()[:, 1:].T
    assert len(down) == 20 and len(set(zip(down.tolist(), right.tolist(), strict=True))) > 5
    assert down.min() >= 6 and down.max() <= 10 and right.min() >= 5 and right.max() <= 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("designers", [0, 3])
def test_a_saved_network_comes_back_and_keeps_its_name_in_every_file(tmp_path, dtype, designers):
    model = network(designers=designers).half().float()
    save_weights(tmp_path / "a.safetensors", model.state_dict(), {"seed": 0}, dtype)
    loaded = load_extractor(SETTINGS, tmp_path / "a.safetensors").module
    save_weights(tmp_path / "b.safetensors", loaded.state_dict(), {"command": "again"})

    first, second = (load_extractor(SETTINGS, tmp_path / f"{name}.safetensors") for name in "ab")

    with torch.no_grad():
        expected = model(images().movedim(-1, 1).contiguous() / 255)[:2]
    assert all(torch.equal(a, b) for a, b in zip(extract(first, [images()]), expected, strict=True))
    assert first.name == second.name == f"own-c8-{first.sha256[:8]}"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_other_weights_have_another_name(tmp_path):
    names = set()
    for seed in (0, 1):
        save_weights(tmp_path / f"{seed}.safetensors", network(seed=seed).state_dict(), {})
        names.add(load_extractor(SETTINGS, tmp_path / f"{seed}.safetensors").name)

    assert len(names) == 2


def test_files_that_hold_no_fitting_network_are_refused(tmp_path):
    model = network()
    save_weights(tmp_path / "good.safetensors", model.state_dict(), {})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "good.safetensors").read_bytes()[:200])
    save_file({"other": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    model.head.bias.data[0] = float("nan")
    save_file(model.state_dict(), tmp_path / "nan.safetensors")
    wide = Extractor(network="subgroup-cnn", weights="x", channels=16)

    for name, settings, message in (
        ("missing", SETTINGS, "no such weights file"),
        ("cut", SETTINGS, "damaged"),
        ("foreign", SETTINGS, "head.weight"),
        ("nan", SETTINGS, "head.bias: holds values that are not finite"),
        ("good", wide, "does not fit PixelSubgroupCNN"),
    ):
        with pytest.raises(ValueError, match=message):
            load_extractor(settings, tmp_path / f"{name}.safetensors")


def test_sizes_that_the_network_cannot_have_are_refused():
    with pytest.raises(ValueError, match="multiple of 8"):
        build_network(Extractor(network="subgroup-cnn", weights="x", channels=12), num_classes=3, image_size=32)


def test_images_of_another_size_and_no_images_are_refused(tmp_path):
    save_weights(tmp_path / "a.safetensors", network().state_dict(), {})
    extractor = load_extractor(SETTINGS, tmp_path / "a.safetensors")

    with pytest.raises(ValueError, match="16 x 16"):
        extract(extractor, [images(size=20)])
    with pytest.raises(ValueError, match="no images"):
        extract(extractor, [])
