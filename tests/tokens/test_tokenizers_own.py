"""User-defined tokenizers: from training to reconstructions, and what is refused before anything runs."""

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from toy_tokenizers import Patches, Shades
from verbs import mixar

from mixar.data.images import read_images
from mixar.data.shards import TokenStore
from mixar.reporting.names import label_of
from mixar.stages.check import problems
from mixar.stages.ingest import ingest
from mixar.stages.measure import measure
from mixar.stages.reconstruct import reconstruct
from mixar.stages.tokenize import tokenize
from mixar.stages.tokenizer import tokenizer
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.tokens import tokenizers
from mixar.tokens.latents import latent_decoder
from mixar.weights import read_metadata, read_weights, save_weights


@pytest.fixture
def own(smoke, tmp_path):
    """The smoke study with two user-defined tokenizers."""
    smoke["continuous"] |= {"network": "toy_tokenizers:Patches", "options": {"noise": 1e-3}, "channels": 1}
    smoke["discrete"] |= {"network": "toy_tokenizers:Shades", "channels": 1}
    smoke["hardware"] = {"device": "cpu", "results": str(tmp_path / "results")}
    return smoke


def trained(content):
    """The study, its layout and manifest, with both tokenizers trained."""
    study = parse_study(content)
    layout = Layout(study)
    ingest(study, layout)
    for kind in ("continuous", "discrete"):
        tokenizer(study, layout, kind)
    return study, layout


def test_they_run_from_training_to_reconstructions(own):
    study, layout = trained(own)
    for shard in range(study.data.num_shards):
        tokenize(study, layout, shard)
        for kind in ("continuous", "discrete"):
            reconstruct(study, layout, kind, shard)

    assert not problems(study)
    batch = TokenStore(layout.token_shards()).batch(range(96), [False] * 96)
    assert batch["x"].shape == (96, 16, 4) and batch["x"].std(dim=(0, 1)).mean() == pytest.approx(1, abs=0.2)
    assert batch["q"].shape == (96, 16) and len(batch["q"].unique()) > 3
    assert read_metadata(layout.tokenizer("continuous"))["network"] == "Patches"
    discrete = tokenizers.load("discrete", study.discrete, layout.tokenizer("discrete"))
    assert isinstance(discrete, Shades) and not torch.equal(discrete.shade.data, Shades(study.discrete).shade.data)
    psnr = pq.read_table(layout.reconstruction("discrete", 0))["psnr"].to_numpy()
    images = read_images(layout.reconstruction("discrete", 0))[2]
    assert np.ptp(images.astype(int), axis=-1).max() <= 1, "shades are grey"
    assert psnr.mean() > 8
    assert latent_decoder(study, layout, torch.device("cpu"))(batch["x"][:2]).shape == (2, 3, 32, 32)
    assert [label_of(study, kind) for kind in ("continuous", "discrete")] == ["Patches", "Shades"]


def test_tied_weights_are_trained_saved_and_loaded_as_one(own):
    own["continuous"] |= {"network": "toy_tokenizers:Tied", "options": {}}

    study, layout = trained(own)
    tokenize(study, layout, 0)

    assert not problems(study)
    loaded = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous"))
    assert loaded.up.weight is loaded.down.weight
    assert loaded.state_dict().keys() == read_weights(layout.tokenizer("continuous")).keys()


def test_their_cost_is_measured(own):
    study = parse_study(own)
    layout = Layout(study)
    ingest(study, layout)

    measure(study, layout, "dc_mix")

    values = {row["metric"]: row["value"] for row in pq.read_table(layout.measures("dc_mix")).to_pylist()}
    assert values["seconds_per_image"] > values["seconds_per_image_latents"] > 0
    assert values["flops_sample"] > 0 and values["parameters"] > 0


def test_their_weights_may_come_from_a_file_and_fit_strictly(own, tmp_path):
    file = tmp_path / "mine.safetensors"
    own["continuous"] |= {"weights": str(file), "train": None}
    study = parse_study(own)
    state = Patches(study.continuous).state_dict()
    save_weights(file, state, {})
    study, layout = trained(own)

    found = tokenizers.load("continuous", study.continuous, layout.tokenizer("continuous"))

    assert torch.equal(found.up.weight, state["up.weight"]) and not problems(study)
    save_weights(file, {"up.weight": state["up.weight"]}, {})
    assert any(
        "mine.safetensors does not fit Patches" in found and "missing: down.weight" in found
        for found in problems(study)
    )
    with pytest.raises(ValueError, match="missing: down.weight"):
        tokenizer(study, layout, "continuous")


@pytest.mark.parametrize(
    ("kind", "network", "message"),
    [
        ("continuous", "TooFew", "continuous: the network gives 4 tokens of 4 channels per image, but .* say 16 of 4"),
        ("discrete", "TooMany", "discrete: the network gives tokens from 2. to 31, but bits 4 go from 0 to 15"),
    ],
)
def test_tokens_of_another_shape_or_range_than_the_study_says_are_refused(own, kind, network, message):
    study, layout = trained(own)
    other = {"network": f"toy_tokenizers:{network}", "options": {}}
    study = study.model_copy(update={kind: getattr(study, kind).model_copy(update=other)})
    model = tokenizers.build(kind, getattr(study, kind))
    save_weights(layout.tokenizer(kind), model.state_dict(), {})

    with pytest.raises(ValueError, match=message):
        tokenize(study, layout, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "no_such_module:Mine"}, "No module named 'no_such_module'; it must be importable"),
        ({"network": "toy_tokenizers:Mine"}, "toy_tokenizers has no Mine"),
        ({"network": "toy_tokenizers:nn"}, "expected 'module:Class', a subclass of torch.nn.modules.module.Module"),
        ({"network": "toy_tokenizers:Silent"}, "the class has no decode and no training_loss"),
        ({"options": {"speed": 3}}, "^continuous.options: toy_tokenizers:Patches has no option 'speed'; it takes"),
    ],
)
def test_what_cannot_run_is_said_by_check(own, change, message):
    own["continuous"] |= change

    found = problems(parse_study(own))

    assert len(found) == 1 and found[0].startswith("continuous")
    with pytest.raises(ValueError, match=message):
        raise ValueError(found[0])


@pytest.mark.parametrize(
    ("network", "said"), [("Patches", "smoke: valid"), ("Silent", "no decode and no training_loss")]
)
def test_the_check_command_finds_them_on_the_python_path(own, tmp_path, network, said):
    file = tmp_path / "study.yaml"
    own["continuous"] |= {"network": f"toy_tokenizers:{network}"}
    file.write_text(yaml.safe_dump(own))

    result = mixar("check", "--study", file)

    assert said in result.stdout + result.stderr and "Traceback" not in result.stderr
    assert result.returncode == (0 if network == "Patches" else 2)


def test_the_pages_example_runs(smoke, tmp_path, root, monkeypatch):
    text = (root / "docs" / "how-to" / "tokenizer.md").read_text()
    code, section = re.search(r"```python\n(# my_tokenizer\.py.*?)```\n\n```yaml\n(.*?)```", text, re.DOTALL).groups()
    (tmp_path / "my_tokenizer.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    smoke["continuous"] = yaml.safe_load(section)["continuous"]
    smoke["hardware"] = {"device": "cpu", "results": str(tmp_path / "results")}

    study, layout = trained(smoke)
    tokenize(study, layout, 0)

    assert not problems(study) and layout.token_shard(0).is_file()
