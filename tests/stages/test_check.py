"""`check`: too few images, missing GPUs and files, layered studies, and the study's own code on random tensors."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from toy_own import Pooled
from typer.testing import CliRunner

from mixar import trial
from mixar.__main__ import app
from mixar.data.manifest import count_images, ingest_manifest
from mixar.scoring.statistics import INCEPTION_WIDTH
from mixar.stages.check import problems
from mixar.study.load import parse_study
from mixar.weights import save_weights


@pytest.fixture
def small(smoke, tmp_path):
    """The smoke study on 40 pictures of two classes, to which its settings fit."""
    for i in range(40):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(tmp_path / "data" / "ab"[i % 2] / f"{i}.png")
    smoke["data"] = {"source": "folder", "path": str(tmp_path / "data"), "image_size": 32, "num_classes": 2,
                     "held_out_rate": 0.25}  # fmt: skip
    smoke["hardware"] = {"device": "cpu", "results": str(tmp_path / "results")}
    return smoke


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Writes a module that a study may name; an earlier import of the name is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    return write


def only(content, **how):
    found = problems(parse_study(content), **how)
    assert len(found) == 1, found
    return found[0]


def put(content, *path_and_value):
    *path, key, value = path_and_value
    for part in path:
        content = content.setdefault(part, {})
    content[key] = value


def test_a_study_that_fits_has_no_problem(small):
    assert problems(parse_study(small)) == []


# Data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("training", "batch_size", 64), r"^training.batch_size: 64, but there are only \d+ training images; lower it"),
        (("runs", "dc_sa", "training", {"batch_size": 99}), r"^runs.dc_sa.training.batch_size: 99"),
        (("continuous", "train", "batch_size", 64), r"^continuous.train.batch_size: 64"),
        (("discrete", "train", "batch_size", 64), r"^discrete.train.batch_size: 64"),
        (("generator", "train", "batch_size", 64), r"^generator.train.batch_size: 64"),
        (("scoring", "extractor", "train", "batch_size", 64), r"^scoring.extractor.train.batch_size: 64"),
        (("scoring", "kid_subset_size", 36), r"^scoring.kid_subset_size: 'kid' needs 36 reference images"),
        (("scoring", "neighbours", 40), r"^scoring.neighbours: 'precision' needs 41 reference images, .* lower neigh"),
        (("data", "num_shards", 30), r"^data.num_shards: 30 shards for \d+ held-out images"),
        (("scoring", "jackknife_groups", 16), r"^scoring.jackknife_groups: 16, but there are only \d+ held-out images"),
        (("data", "num_classes", 3), r"^data.num_classes: 3, but .* 2 classes"),
    ],
)
def test_settings_that_the_data_do_not_suffice_for_are_named(small, change, said):
    small["evaluation"] = {"num_images": 400, "shard_size": 400}
    put(small, *change)

    with pytest.raises(ValueError, match=said):
        raise ValueError(only(small))


@pytest.mark.parametrize(("metric", "key"), [("recall", "neighbours"), ("kid", "kid_subset_size")])
def test_every_metric_needs_its_reference_images(small, metric, key):
    small["evaluation"] = {"num_images": 400, "shard_size": 400}
    small["scoring"] |= {"metrics": ["fd", metric], key: 40}

    assert only(small).startswith(f"scoring.{key}: {metric!r} needs")


def test_no_image_is_read_to_count_them(small, tmp_path):
    for file in (tmp_path / "data").rglob("*.png"):
        file.write_bytes(b"")

    assert problems(parse_study(small)) == []
    small["training"]["batch_size"] = 64
    assert only(small).startswith("training.batch_size: 64")


@pytest.mark.parametrize(
    "change", [{}, {"limit": 20}, {"held_out_path": "more"}, {"source": "emoji", "num_classes": 9}], ids=str
)
def test_images_are_counted_as_ingest_finds_them(small, tmp_path, root, change):
    for label in "ab":
        (tmp_path / "more" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32), label == "a" and "red" or "blue").save(tmp_path / "more" / label / "x.png")
    small["data"] |= change
    if "held_out_path" in change:
        small["data"]["held_out_path"] = str(tmp_path / "more")
    if "source" in change:
        small["data"]["path"] = str(root / "resources" / "noto-emoji-32.parquet")
    data = parse_study(small).data

    splits = ingest_manifest(data, say=lambda _: None)["split"].to_pylist()

    assert count_images(data) == {split: splits.count(split) for split in ("train", "held_out")}


def test_data_that_are_not_there_are_left_to_the_missing_files(small):
    small["data"]["path"] = "nowhere"

    assert problems(parse_study(small)) == []


def test_statistics_with_another_number_of_channels_are_refused(small, tmp_path):
    save_weights(tmp_path / "statistics.safetensors", {"mean": torch.zeros(3), "std": torch.ones(3)}, {})
    small["continuous"]["statistics"] = str(tmp_path / "statistics.safetensors")

    assert "statistics.safetensors: expected mean and std of 4 channels" in only(small)


# Device


def test_a_missing_gpu_is_reported_unless_the_jobs_run_elsewhere(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    small["hardware"]["device"] = "cuda"

    assert only(small).startswith("hardware.device: 'cuda', but no GPU is visible here; use 'auto' or 'cpu', or give")
    assert problems(parse_study(small), elsewhere=True) == []
    small["hardware"] |= {"device": "auto", "gpus": 2}
    assert only(small).startswith("hardware.gpus: 2 GPUs per node, but 0 are visible here")

    run = next(iter(small["runs"]))
    small["hardware"] |= {"gpus": 0, "runs": {run: {"gpus": 4, "nodes": 2}}}
    assert only(small).startswith(f"hardware.runs.{run}.gpus: 2 GPUs per node, but 0 are visible here")


def test_more_gpus_per_node_than_exist_are_reported(small, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    small["hardware"] |= {"device": "cuda", "gpus": 8, "nodes": 2}

    assert only(small).startswith("hardware.gpus: 4 GPUs per node, but 2 are visible here")
    small["hardware"]["nodes"] = 4
    assert problems(parse_study(small)) == []


# Protocols


def test_an_error_of_both_protocols_is_reported_once(small):
    small["scoring"]["protocol"] = "emoji-gdf"

    assert only(small).startswith("scoring.protocol: 'emoji-gdf' is unknown; choose from")


# Your own code


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return sample.features.mean(0) - reference.features.mean(0)", "TypeError: gave a Tensor, not a number"),
        ("return sample.pixels.mean()", "AttributeError: .*'pixels'"),
        ("return float('nan')", "gave nan; a result must be finite"),
        ("return 'good'", "gave a str, not a number"),
        ("return (sample.features - reference.features).norm()", "RuntimeError"),  # only for equally many images
    ],
)
def test_a_metric_that_fails_on_random_features_is_refused(small, code, body, said):
    code("own_metric_a", f"def f(sample, reference, scoring):\n    {body}\n")
    small["scoring"]["metrics"] = ["own_metric_a:f"]

    found = only(small)

    assert found.startswith("scoring.metrics 'own_metric_a:f', tried on random features [36, 32]: ")
    with pytest.raises(ValueError, match=said):
        raise ValueError(found)


METRICS_OF_ONES_OWN = """
import sys
import torch
from mixar.scoring.metrics.kid import kid

def kernel(sample, reference, scoring):
    return kid(sample, reference, scoring)

def mahalanobis(sample, reference, scoring):
    root = torch.linalg.cholesky(torch.cov(sample.features.double().T))
    apart = (sample.features.mean(0) - reference.features.mean(0)).double()[:, None]
    return torch.linalg.solve_triangular(root, apart, upper=False).norm()

def roots(sample, reference, scoring):
    return sample.features.sqrt().mean()

def many(sample, reference, scoring):
    if len(sample) < 30_000:
        raise ValueError("too few images")
    return 1.0

def slip(sample, reference, scoring):
    return sample.fetures.mean()

def centred(sample, reference, scoring):
    sample.features.sub_(sample.features.mean(0))
    return 1.0

def shrunk(sample, reference, scoring):
    reference.moments["mu"] *= 0.5
    return 1.0

def marked(sample, reference, scoring):
    sample.labels[:] = 0
    return 1.0

def ending(sample, reference, scoring):
    sys.exit(0)
"""


@pytest.fixture
def large(small, code):
    """A study that draws 40,000 images of narrow features."""
    code("own_metric_b", METRICS_OF_ONES_OWN)
    small["scoring"] |= {"metrics": ["fd"], "kid_subset_size": 500, "kid_subsets": 2}
    small["evaluation"] = {"num_images": 40_000, "shard_size": 1000}
    return small


def tried(content, name, warnings):
    content["scoring"]["metrics"] = ["fd", f"own_metric_b:{name}"]
    return [line for line in problems(parse_study(content), warn=warnings.append) if "own_metric_b" in line]


@pytest.mark.parametrize("name", ["kernel", "mahalanobis", "roots"])
def test_a_sound_metric_passes_its_trial(large, name):
    warnings = []

    assert tried(large, name, warnings) == warnings == []


def test_a_sound_metric_passes_its_trial_on_features_of_inceptions_width(large, monkeypatch):
    study = parse_study(large | {"scoring": large["scoring"] | {"metrics": ["fd", "own_metric_b:kernel"]}})

    count = trial._enough_images(study.scoring, INCEPTION_WIDTH)

    assert count * (1 - 1 / study.scoring.jackknife_groups) >= 2 * INCEPTION_WIDTH
    assert count <= trial.MOST_IMAGES


def test_a_metric_that_may_need_more_images_than_the_trial_has_gives_a_warning(large):
    warnings = []

    assert tried(large, "many", warnings) == []
    assert len(warnings) == 1 and "too few images (the study draws 40,000 images: it may succeed" in warnings[0]
    large["evaluation"] = {"num_images": 36, "shard_size": 36}
    large["scoring"]["kid_subset_size"] = 16
    assert "too few images" in tried(large, "many", [])[0]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("slip", "AttributeError"),
        ("centred", "own_metric_b:centred changes the features that it is given"),
        ("shrunk", "own_metric_b:shrunk changes the features that it is given"),
        ("marked", "own_metric_b:marked changes the features that it is given"),
        ("ending", "it ends Python (SystemExit: 0)"),
    ],
)
def test_a_metric_that_fails_for_any_number_of_images_is_refused(large, name, said):
    warnings = []

    assert [said in line for line in tried(large, name, warnings)] == [True]
    assert warnings == []


STRATEGY = """
import torch
from mixar.model.guidance import DCMix, Guidance


class Mine(DCMix):
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.more = torch.nn.Parameter(torch.zeros(1))

    def fill(self, q):
        {fill}


class Empty(Guidance):
    def __init__(self, width, num_tokens, bits):
        super().__init__()
"""


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        ("return super().fill(q)[:, 1:]", "RuntimeError"),
        ("return q.missing", "AttributeError: .*'missing'"),
        ("return super().fill(q) * float('nan')", "the loss is nan"),
        ("return super().fill(q) + self.more", None),
        ("q.zero_(); return super().fill(q) + self.more", "changes its input q in place"),
        ("raise SystemExit(0)", r"it ends Python \(SystemExit: 0\)"),
        ("assert False", "tokens: AssertionError$"),
    ],
)
def test_a_strategy_is_tried_on_random_tokens(small, code, fill, said):
    code("own_strategy_a", STRATEGY.format(fill=fill))
    small["runs"]["dc_sa"]["guidance"] = {"strategy": "own_strategy_a:Mine"}

    if said is None:
        assert problems(parse_study(small)) == []
        return
    found = only(small)
    assert found.startswith("runs.dc_sa.guidance.strategy 'own_strategy_a:Mine', tried on random tokens: ")
    with pytest.raises(ValueError, match=said):
        raise ValueError(found)


def test_a_strategy_without_fill_and_one_with_an_unused_parameter_are_refused(small, code):
    code("own_strategy_b", STRATEGY.format(fill="return super().fill(q)"))
    small["runs"]["dc_sa"]["guidance"] = {"strategy": "own_strategy_b:Empty"}
    assert "NotImplementedError: Empty must define fill(q)" in only(small)

    small["runs"]["dc_sa"]["guidance"] = {"strategy": "own_strategy_b:Mine"}
    assert problems(parse_study(small)) == []  # one process does not wait for it
    for several in ({"device": "cuda", "gpus": 2}, {"device": "cpu", "gpus": 0, "nodes": 2}):
        small["hardware"] |= several
        assert "no gradient for more; distributed training needs one" in only(small, elsewhere=True)


IN_FLOAT32_ALONE = (
    "self.embed(torch.zeros(1, self.embed.in_features)).detach().numpy(); return super().fill(q) + self.more"
)


@pytest.mark.parametrize("place", ["training", "sampler"])
def test_a_strategy_is_tried_in_the_precision_that_the_study_trains_and_draws_in(small, code, place):
    code(f"own_narrow_{place}", STRATEGY.format(fill=IN_FLOAT32_ALONE))
    small["runs"]["dc_sa"]["guidance"] = {"strategy": f"own_narrow_{place}:Mine"}
    assert problems(parse_study(small)) == []

    section = small["training"] if place == "training" else small["samplers"]["default"]
    section["precision"] = "bfloat16"

    assert ", tried on random tokens in bfloat16: TypeError: Got unsupported ScalarType BFloat16" in only(small)


COUNTED = """
from mixar.model.guidance import DCMix
from toy_tokenizers import Patches


class Counted(DCMix):
    fills = 0

    def fill(self, q):
        Counted.fills += 1
        return super().fill(q)


class Other(Counted):
    pass


class Built(Patches):
    times = 0

    def __init__(self, settings):
        super().__init__(settings)
        Built.times += 1
"""


def test_code_that_several_runs_share_is_tried_once(small, code):
    code("own_counted", COUNTED)
    counted = importlib.import_module("own_counted")
    small["runs"]["dc_sa"]["guidance"] = {"strategy": "own_counted:Counted"}
    assert problems(parse_study(small)) == []
    once, counted.Counted.fills = counted.Counted.fills, 0

    for name in ("again", "once_more"):
        small["runs"][name] = small["runs"]["dc_sa"] | {"label": name}
    assert problems(parse_study(small)) == []
    assert counted.Counted.fills == once > 0

    small["runs"]["again"] = small["runs"]["again"] | {"guidance": {"strategy": "own_counted:Other"}}
    counted.Counted.fills = 0
    assert problems(parse_study(small)) == []
    assert counted.Counted.fills == 2 * once


def test_a_tokenizer_is_built_once(small, code):
    code("own_built", COUNTED)
    small["continuous"] |= {"network": "own_built:Built"}

    assert problems(parse_study(small)) == []

    assert importlib.import_module("own_built").Built.times == 1


TOKENS = """
from toy_tokenizers import Patches, Shades


class OwnPatches(Patches):
    def encode(self, images):
        mean, spread = super().encode(images)
        {encode}

    def training_loss(self, images, settings, rng):
        {loss}


class OwnShades(Shades):
    def tokens(self, images):
        q = super().tokens(images)
        {tokens}
"""
GOOD = {"encode": "return mean, spread", "tokens": "return q",
        "loss": "return super().training_loss(images, settings, rng)"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"encode": "return mean"}, r"expected a mean and a log variance \[B, C, h, w\]"),
        ({"encode": "return mean[:, 1:], spread[:, 1:]"}, "gives 16 tokens of 3 channels"),
        ({"encode": "return mean.flatten(1), spread.flatten(1)"}, r"expected a mean and a log variance \[B, C, h, w\]"),
        ({"loss": "return super().training_loss(images, settings, rng)['loss']"}, "must give a dict that has 'loss'"),
        ({"loss": "return {'loss': images.mean()}"}, "one number with a gradient"),
        ({"tokens": "return q + 99"}, "bits 4 go from 0 to 15"),
        ({"tokens": "return q.float()"}, "expected integers"),
        ({"tokens": "return q[:, :-1]"}, "expected integers"),
        ({"tokens": "images.zero_(); return q"}, "changes its input images in place"),
    ],
)
def test_a_tokenizer_is_tried_on_random_images(small, code, changes, said):
    code("own_tokens_a", TOKENS.format(**GOOD | changes))
    small["continuous"] |= {"network": "own_tokens_a:OwnPatches"}
    small["discrete"] |= {"network": "own_tokens_a:OwnShades"}

    if said is None:
        assert problems(parse_study(small)) == []
        return
    with pytest.raises(ValueError, match=said):
        raise ValueError(only(small))


NARROW = {
    "tokenising": {"encode": "mean.detach().numpy(); return mean, spread"},
    "training": {"loss": "super().encode(images)[0].detach().numpy(); " + GOOD["loss"]},
}


@pytest.mark.parametrize("place", NARROW)
def test_a_tokenizer_is_tried_in_the_precision_of_the_study(small, code, place):
    code(f"own_tokens_{place}", TOKENS.format(**GOOD | NARROW[place]))
    small["continuous"] |= {"network": f"own_tokens_{place}:OwnPatches"}
    assert problems(parse_study(small)) == []

    section = small["continuous"] if place == "tokenising" else small["continuous"]["train"]
    section["precision"] = "bfloat16"

    assert " pixels in bfloat16: TypeError: Got unsupported ScalarType BFloat16" in only(small)


def name_schedule(content, name):
    content["runs"]["dc_mix_timix"]["ti_mix"] = {"schedule": name}


def name_optimizer(content, name):
    content["discrete"]["train"]["optimizer"] = name


def name_source(content, name):
    images = Path(content["data"]["path"])
    for path in images.glob("*/*.png"):
        path.rename(images / f"{path.parent.name}-{path.name}")
    content["data"]["source"] = name


def name_network(content, name):
    file = Path(content["data"]["path"]).parent / "network.safetensors"
    save_weights(file, Pooled().state_dict(), {})
    content["scoring"] |= {"protocol": "own-gfd", "extractor": {"network": name, "weights": str(file)}}


@pytest.mark.parametrize(
    ("choose", "name", "said"),
    [
        (name_schedule, "cubic", None),
        (name_schedule, "beyond", r"dc_mix_timix.ti_mix.schedule 'toy_own:beyond': gave λ = 1.01"),
        (name_schedule, "rising", r"λ rises from 0 to 0.01 at 0 % of the run; it must fall"),
        (name_schedule, "broken", "'toy_own:broken': KeyError: 'colour'"),
        (name_optimizer, "sgd", None),
        (
            name_optimizer,
            "no_optimizer",
            "'toy_own:no_optimizer', tried on a small network: returned a list",
        ),
        (name_optimizer, "unmoved", "discrete.train.optimizer 'toy_own:unmoved', .*: three steps change no parameter"),
        (name_source, "flat", None),
        (name_source, "nothing", "returned a list; expected an Originals"),
        (name_source, "torn", "items must be pairs of an Original and its bytes"),
        (name_source, "broken", "data.source 'toy_own:broken': KeyError: 'colour'"),
        (name_network, "Pooled", None),
        (name_network, "OnlyFeatures", r"returned Tensor; expected \(features \[B, F\], logits \[B, V\]\)"),
    ],
)
def test_schedules_optimizers_sources_and_networks_are_tried(small, choose, name, said):
    choose(small, f"toy_own:{name}")

    if said is None:
        assert problems(parse_study(small)) == []
        return
    with pytest.raises(ValueError, match=said):
        raise ValueError(only(small))


# The command


def call(*arguments):
    run = CliRunner().invoke(app, ["check", *map(str, arguments)])
    return str(run.exception) if run.exception else run.output


def test_missing_files_are_a_mistake_unless_they_come_later(small, tmp_path):
    small["runs"]["mar"]["start"] = str(tmp_path / "nowhere.safetensors")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(small))

    said = call("--study", file)
    assert "smoke cannot run:" in said and f"missing: runs.mar.start (seed 0) = {tmp_path}" in said
    later = call("--study", file, "--files-later")
    assert "smoke: valid" in later and "missing: runs.mar.start (seed 0)" in later


def test_layers_are_checked_together(small, tmp_path, monkeypatch):
    base, overlay = tmp_path / "base.yaml", tmp_path / "overlay.yaml"
    base.write_text(yaml.safe_dump({key: value for key, value in small.items() if key != "training"}))
    overlay.write_text(yaml.safe_dump({"study": "layered", "training": small["training"]}))

    assert "layered: valid" in call("--study", base, "--study", overlay)
    assert "training: is missing" in call("--study", base)
    assert "training: is missing" not in call("--study", overlay, "--study", base)
    overlay.write_text(yaml.safe_dump({"training": {**small["training"], "epochs": "many"}}))
    said = call("--study", base, "--study", overlay)
    assert "training.epochs" in said and str(base) in said and str(overlay) in said


def test_check_says_where_relative_paths_begin(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small["data"]["path"] = "data"
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(small))

    assert f"relative paths begin at {tmp_path}" in call("--study", file)
    monkeypatch.chdir(tmp_path / "data")
    assert f"missing: data.path = data, looked for at {tmp_path / 'data' / 'data'}" in call("--study", file)
