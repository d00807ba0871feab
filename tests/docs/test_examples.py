"""The examples of the how-to pages and of the tutorial: their code loads, and their studies are valid."""

import importlib
import re
from pathlib import Path

import pytest
import torch
import yaml

from mixar.data.sources import Originals
from mixar.storage.listing import IMAGES, list_files
from mixar.study.load import load_study, parse_study

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def blocks(page, language):
    """The fenced blocks of a language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def laid_over(base, extra):
    """A study's mapping with the keys of an example in place of its own."""
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            laid_over(base[key], value)
        else:
            base[key] = value
    return base


@pytest.fixture
def example(smoke, tmp_path, monkeypatch):
    """The module of a how-to page, and the smoke study with the page's YAML laid over it."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(page):
        code, text = blocks(page, "python")[0], blocks(page, "yaml")[0]
        name = re.match(r"# (\w+)\.py", code)[1]
        (tmp_path / f"{name}.py").write_text(code)
        importlib.invalidate_caches()
        return importlib.import_module(name), parse_study(laid_over(smoke, yaml.safe_load(text)))

    return load


def test_the_strategy_hides_every_other_token(example):
    module, study = example("how-to/guidance.md")
    strategy = module.EveryOther(width=8, num_tokens=4, bits=2)

    shown = strategy.fill(torch.tensor([[0, 1, 2, 3]]))

    assert not shown[:, ::2].any() and shown[:, 1::2].any()
    assert study.runs["every_other"].guidance.strategy == "my_guidance:EveryOther"


def test_the_readme_has_the_strategy_of_the_how_to():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert blocks("how-to/guidance.md", "python")[0] in readme and blocks("how-to/guidance.md", "yaml")[0] in readme


def test_the_schedule_falls_from_start_to_end(example):
    from mixar.model.ti_mix import guidance_rate

    _, study = example("how-to/schedule.md")
    ti_mix = study.runs["dc_mix_square"].ti_mix

    assert [guidance_rate(ti_mix, progress) for progress in (0, 0.5, 1)] == [1.0, 0.75, 0.0]


def test_the_optimizer_is_built(example):
    from mixar.training.optim import build_optimizer

    _, study = example("how-to/optimizer.md")

    assert isinstance(build_optimizer(torch.nn.Linear(2, 2), study.training), torch.optim.SGD)


def test_the_feature_network_gives_features(example, tmp_path):
    from safetensors.torch import save_file

    from mixar.scoring.extractors import extract, load_extractor

    module, study = example("how-to/network.md")
    save_file(module.Colours().state_dict(), tmp_path / "my_network.safetensors")
    extractor = load_extractor(study.scoring.extractor, tmp_path / "my_network.safetensors")

    features, logits = extract(extractor, [torch.zeros(2, 8, 8, 3, dtype=torch.uint8)])

    assert features.shape == (2, 12) and logits.shape == (2, 10)


def test_the_source_lists_a_folder_without_class_folders(tmp_path, monkeypatch):
    code = next(block for block in blocks("how-to/data.md", "python"))
    (tmp_path / "my_source.py").write_text(code)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("0_a.png", "0_b.png", "1_a.png"):
        (images / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    flat = importlib.import_module("my_source").flat

    found = flat(list_files(images, IMAGES), "data.path")

    assert isinstance(found, Originals) and found.total == 3
    assert [original.label for original, content in found.items if content is None] == [0, 0, 1]
    assert {label for label, *_ in found.classes} == {0, 1}


def test_the_tutorials_study_is_valid(tmp_path, monkeypatch):
    (tmp_path / "shapes.yaml").write_text(blocks("tutorial.md", "yaml")[0])

    study = load_study(tmp_path / "shapes.yaml")

    assert study.study == "shapes" and len(study.runs) == 3


def test_the_tutorials_images_are_drawn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    exec(compile(blocks("tutorial.md", "python")[0], "draw_shapes.py", "exec"), {})

    assert {path.parent.name for path in tmp_path.rglob("*.png")} == {"disc", "square", "triangle"}
    assert len(list(tmp_path.rglob("*.png"))) == 480
