"""Comparisons with other projects' code: what is imported from where, what is put back, and what is recorded."""

import importlib
import sys

import numpy as np
import pytest
import torch

CPU = torch.device("cpu")


@pytest.fixture
def speed(root, monkeypatch):
    """Imports a script of benchmarks/speed by name."""
    monkeypatch.syspath_prepend(root / "benchmarks" / "speed")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(root / "benchmarks") in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def project(folder, value):
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "__init__.py").touch()
    (folder / "models" / "net.py").write_text(
        f"import colorsys\nfrom nowhere_to_be_found import Thing\nVALUE = {value}\n"
    )
    return folder


def test_two_checkouts_may_have_modules_of_the_same_name(speed, tmp_path):
    checkout = speed("checkouts").checkout
    sys.modules.pop("colorsys", None)

    found = []
    for value in (1, 2):
        with checkout(project(tmp_path / str(value), value), "models/net.py", ["nowhere_to_be_found"], CPU):
            found.append(importlib.import_module("models.net").VALUE)
            assert torch.ones(2).cuda().sum() == 2
        assert not {"models", "models.net", "nowhere_to_be_found"} & set(sys.modules)

    assert found == [1, 2] and "colorsys" in sys.modules


def test_a_folder_of_something_else_is_refused_by_the_file_that_it_lacks(speed, tmp_path):
    checkout = speed("checkouts").checkout

    said = r"no checkout of this project \(models/mar\.py is missing\)"
    with pytest.raises(SystemExit, match=said), checkout(tmp_path, "models/mar.py", [], CPU):
        pass


def test_the_noise_behind_a_draw_is_that_which_gives_it(speed):
    p = torch.rand(50, 7, generator=torch.Generator().manual_seed(0))
    p /= p.sum(1, keepdim=True)

    with speed("against_maskbit").exponentials() as noise:
        torch.manual_seed(3)
        drawn = torch.distributions.Categorical(p).sample()

    assert torch.equal((p / noise[0]).argmax(1), drawn)


def test_both_arms_of_the_loading_get_the_same_items(speed, tmp_path, monkeypatch):
    script = speed("against_lightningdit")
    monkeypatch.setattr(script, "CLASSES", 3)
    monkeypatch.setattr(script, "IN_A_FILE", 4)
    items = script.Items(tmp_path, 7)
    theirs = {}
    for index, latents, mirrored in items.parts():
        theirs |= {int(i): (one, other) for i, one, other in zip(index, latents, mirrored, strict=True)}

    store = items.ours()
    labels = torch.cat(list(script.ours(store)()))

    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 2, 2]
    for flip in (False, True):
        batch = store.batch(torch.arange(7), torch.full((7,), flip))
        for i in range(7):
            expected = theirs[i][int(flip)].reshape(script.CHANNELS, -1).T.astype(np.float16)
            assert np.array_equal(batch["x"][i].numpy(), expected)
