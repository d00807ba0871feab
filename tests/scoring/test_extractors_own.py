"""User-defined feature networks: one class and one line of the study."""

import torch
from toy_own import Pooled

from mixar.scoring.extractors import extract, load_extractor
from mixar.scoring.protocols import PROTOCOLS, row_id
from mixar.study.load import parse_study
from mixar.study.sections import Extractor
from mixar.weights import save_weights

SETTINGS = Extractor(network="toy_own:Pooled", weights="x")
IMAGES = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def saved(path, seed=0):
    torch.manual_seed(seed)
    network = Pooled()
    save_weights(path, network.state_dict(), {})
    return network


def test_it_gives_the_features_of_its_own_forward_pass(tmp_path):
    network = saved(tmp_path / "a.safetensors")

    features, logits = extract(load_extractor(SETTINGS, tmp_path / "a.safetensors"), [IMAGES[:4], IMAGES[4:]])

    expected = network(IMAGES.movedim(-1, 1))
    assert torch.equal(features, expected[0]) and torch.allclose(logits, expected[1])


def test_the_ids_of_its_rows_change_with_its_weights_and_with_its_code(tmp_path, smoke, monkeypatch):
    code = tmp_path / "own_pool.py"
    monkeypatch.syspath_prepend(tmp_path)
    code.write_text("from toy_own import Pooled\n")
    settings = SETTINGS.model_copy(update={"network": "own_pool:Pooled"})
    saved(tmp_path / "a.safetensors"), saved(tmp_path / "b.safetensors", seed=1)
    found = [load_extractor(settings, tmp_path / f"{name}.safetensors") for name in "ab"]
    code.write_text("from toy_own import Pooled  # changed\n")
    found.append(load_extractor(settings, tmp_path / "a.safetensors"))

    study = parse_study(smoke)
    ids = {row_id(PROTOCOLS["own-gfd"], study, extractor.sha256, 9) for extractor in found}

    assert len(ids) == 3 and all("extractor=" in each for each in ids)
