"""The study: what is accepted, what is refused, and in which words."""

import copy
import datetime
import json
import re
import subprocess
import sys

import pytest
import yaml
from study_changes import put, remove

from mixar.reporting.claims import compared_runs, inequality
from mixar.reporting.results import total_epochs
from mixar.study.errors import SpecError, section_in
from mixar.study.load import load_study, parse_study
from mixar.study.sections import Study


def refusal(content):
    with pytest.raises(SpecError) as caught:
        parse_study(content)
    return str(caught.value)


@pytest.mark.parametrize("name", ["imagenet256", "demo", "smoke"])
def test_every_committed_study_is_valid(name, root):
    study = load_study(root / "config" / f"{name}.yaml")

    assert study.study == name


def test_the_scratch_demo_differs_from_the_demo_only_in_name_starts_and_length(root):
    demo = yaml.safe_load((root / "config" / "demo.yaml").read_text())
    overlay = yaml.safe_load((root / "config" / "demo-scratch.yaml").read_text())

    started = {name for name, run in demo["runs"].items() if "start" in run}

    assert set(overlay) == {"study", "title", "training", "runs"}
    assert set(overlay["training"]) == {"epochs", "warmup_epochs"}
    assert started <= set(overlay["runs"]) <= set(demo["runs"])
    assert all(run == {"start": None, "start_epochs": 0} for run in overlay["runs"].values())


def test_the_paper_study_holds_every_run_the_paper_reports(root):
    study = load_study(root / "config" / "imagenet256.yaml")

    assert (study.evaluation.num_images, study.evaluation.num_shards, study.data.num_shards) == (50_000, 10, 64)
    assert {total_epochs(study, name) for name in study.report.figure7} == {320}
    parts = study.report.figure8
    assert [total_epochs(study, name) for name in (parts.parent, parts.plain, parts.ti_mix)] == [200, 400, 400]
    assert study.runs[parts.ti_mix].parent == parts.parent == "dc_mix_l@200" and parts.plain == "dc_mix_l"


def test_the_paper_studys_claims_compare_equal_arms(root):
    study = load_study(root / "config" / "imagenet256.yaml")

    assert compared_runs(study) and not any(inequality(study, *pair) for pair in compared_runs(study))
    assert study.runs[study.report.claims.baseline].guidance.strategy == "none"


def test_mars_own_sizes_are_an_overlay_of_the_paper_study(root):
    study = load_study(root / "config" / "imagenet256.yaml", root / "config" / "imagenet256-mar.yaml")

    assert {"mar_b", "mar_l", "mar_h", "mixar_l"} <= study.runs.keys()
    assert study.training_of("mar_h").epochs == 800 and study.hardware_of("mar_h").nodes == 2


def test_a_study_survives_the_way_through_json(smoke, tmp_path):
    study = parse_study(smoke)
    file = tmp_path / "study.json"

    file.write_text(study.model_dump_json())

    assert load_study(file) == study


@pytest.mark.parametrize(
    ("path", "key", "near"),
    [
        ((), "sampelrs", "samplers"),
        (("data",), "image_sise", "image_size"),
        (("training",), "learing_rate", "learning_rate"),
        (("runs", "mar"), "guidence", "guidance"),
        (("generator", "sampler"), "guidance_scal", "guidance_scale"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_valid_one(smoke, path, key, near):
    section = smoke
    for part in path:
        section = section[part]
    section[key] = 1

    message = refusal(smoke)

    assert repr(key) in message
    assert f"did you mean {near!r}?" in message


def test_a_key_of_earlier_studies_is_refused_with_what_to_write_now(smoke):
    smoke["strategies"] = {"mine": "my_guidance:Mine"}
    smoke["scoring"]["own_metrics"] = {"shift": "my_metric:shift"}

    message = refusal(smoke)

    assert "strategies: no longer a key; name the class where it is used" in message
    assert "scoring.own_metrics: no longer a key; name the function in scoring.metrics" in message


def test_an_unknown_strategy_is_refused_with_the_nearest_valid_one(smoke):
    smoke["runs"]["dc_mix"]["guidance"]["strategy"] = "dc_mxi"

    message = refusal(smoke)

    assert "runs.dc_mix.guidance.strategy: 'dc_mxi' is unknown; did you mean 'dc_mix'?" in message


def test_a_study_may_name_a_strategy_of_its_own(smoke):
    for name in ("dc_mix", "dc_mix_long", "dc_mix_timix"):
        smoke["runs"][name]["guidance"]["strategy"] = "my_package:Mine"

    study = parse_study(smoke)

    assert study.runs["dc_mix"].guidance.strategy == "my_package:Mine"


def sweep_without_a_scale(content):
    content["samplers"]["default"]["cfg"] = 1
    content["runs"]["mar"]["sweep"] = {"cfg": [2, 3], "num_images": 36}


def sweep_without_a_null_class(content):
    content["runs"]["mar"] |= {"sweep": {"cfg": [2, 3], "num_images": 36}, "training": {"label_drop_rate": 0}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove("data", "image_size"), "data.image_size: is missing"),
        (put("data", "image_size", 36), "image_size divisible by 8, found 36"),
        (put("continuous", "multipliers", [1, 1, 1]), "grids differ: 8 and 4 tokens a side"),
        (remove("continuous", "train"), "continuous: give `weights` (a file) or `train`"),
        (remove("generator", "train"), "generator: give `weights` (a file) or `train`"),
        (put("discrete", "channels", 48), "discrete.channels: 48 is not a multiple of 32"),
        (put("discrete", "options", {"depth": 2}), "discrete.options: only your own network takes options"),
        (put("discrete", "train", "entropy_groups", 7), "discrete.train.entropy_groups: 7 groups of 4 bits; use fewer"),
        (put("continuous", "train", "max_shift", 32), "continuous.train.max_shift: 32 pixels move an image of 32"),
        (put("continuous", "train", "max_shift", -1), "continuous.train.max_shift"),
        (put("discrete", "bits", 5), "generator.splits: 2 does not divide discrete.bits 5"),
        (put("models", "tiny", "heads", 3), "models.tiny.width: 32 is not divisible by heads 3"),
        (
            put("models", "tiny", "decoder_heads", 5),
            "models.tiny: the decoder's width 32 is not divisible by its heads 5",
        ),
        (put("runs", "mar", "model", "tny"), "runs.mar.model: 'tny' is unknown; did you mean 'tiny'?"),
        (put("runs", "mar", "samplers", ["quick"]), "runs.mar.samplers: 'quick' is unknown"),
        (put("runs", "mar", "training", {"epoch": 3}), "did you mean 'epochs'?"),
        (put("runs", "mar", "ti_mix", {"schedule": "linear"}), "TI-Mix mixes discrete tokens"),
        (put("runs", "dc_mix_long", "parent", "dc_mx"), "runs.dc_mix_long.parent: 'dc_mx' is unknown"),
        (put("runs", "dc_mix_long", "parent", "mar"), "'mar' has the guidance none, not dc_mix"),
        (put("runs", "dc_mix_long", "parent", "dc_mix_long"), "dc_mix_long -> dc_mix_long is a circle"),
        (put("runs", "dc_mix_long", "seeds", [0, 7]), "has no seed [7]"),
        (put("runs", "dc_mix_long", "start", "weights.safetensors"), "keep one"),
        (put("report", "figure8", "plain", "nobody"), "report.figure8: 'nobody' is unknown"),
        (
            put("scoring", "metrics", ["fd", "a:sfid"]),
            "'a:sfid': result rows already use the name 'sfid'",
        ),
        (
            put("scoring", "metrics", ["a:mine", "b:mine"]),
            "scoring.metrics: 'a:mine' and 'b:mine' are both named 'mine'",
        ),
        (put("scoring", "metrics", ["fd", "fd"]), "scoring.metrics: 'fd' occurs twice; keep one"),
        (put("scoring", "metrics", ["fdi"]), "scoring.metrics.0: 'fdi' is unknown; did you mean 'fd'? Choose from"),
        (put("runs", "dc_mix_timix", "ti_mix", "schedule", "cosin"), "did you mean 'cosine'? Choose from constant"),
        (put("training", "optimizer", "sgd"), "training.optimizer: 'sgd' is unknown; choose from adamw, muon, or give"),
        (put("data", "source", "folders"), "data.source: 'folders' is unknown; did you mean 'folder'?"),
        (put("continuous", "network", "vae"), "continuous.network: 'vae' is unknown; did you mean 'vavae'?"),
        (put("samplers", "default", "head_steps", 1), "samplers.default.head_steps"),
        (put("study", "Not A Folder"), "study"),
        (put("data", "image_size", 8), "data.image_size: 8 pixels give 1 tokens an image; at least 4 are needed"),
        (put("discrete", "bits", 18), "discrete.bits: 18, but a token shard stores 16 bits"),
        (put("continuous", "attention_levels", [4]), "continuous.attention_levels: 4 is not a level of 4 multipliers"),
        (
            put("runs", "maskbit", {"label": "Mine", "model": "tiny"}),
            "runs.maskbit: other results have this name",
        ),
        (put("runs", "own_mine", {"label": "Mine", "model": "tiny"}), "runs.own_mine: other results have this name"),
        (put("runs", "dc_mix", "seeds", [0, 1, 0]), "runs.dc_mix.seeds: [0, 1, 0] names a seed twice"),
        (put("runs", "mar", "start", "mar-{sead}.safetensors"), "only {seed} may be in braces"),
        (put("runs", "mar", "weights", "{{mar}}.safetensors"), "runs.mar.weights: Snakemake reads braces as wildcards"),
        (put("data", "path", "images/{train}"), "data.path: Snakemake reads braces as wildcards"),
        (put("hardware", "results", "results{}"), "hardware.results: Snakemake reads braces as wildcards"),
        (put("hardware", "results", "my\nresults"), "hardware.results: a line break or control character"),
        (put("scoring", "further", {"vgg16": "vgg\t.pth"}), "scoring.further.vgg16: a line break or control character"),
        (put("runs", "mar", "seeds", [0, -1]), "runs.mar.seeds.1: Input should be greater than or equal to 0"),
        (put("runs", "mar", "seeds", [2**63]), "runs.mar.seeds.0: Input should be less than 9223372036854775808"),
        (put("runs", "mar", "samplers", ["default", "default"]), "names a sampler twice"),
        (put("runs", "dc_mix", "label", "MAR "), "runs.dc_mix.label: 'MAR' is the label of 'mar', too"),
        (put("runs", "mar", "label", " "), "runs.mar.label: is empty"),
        (put("runs", "mar", "label", "M\nAR"), "runs.mar.label: a line break"),
        (put("study", "s" * 101), "study: String should have at most 100 characters"),
        (put("data", "image_size", 2**40), "data.image_size: Input should be less than or equal to 16384"),
        (put("evaluation", "num_images", 10**30), "evaluation.num_images: Input should be less than or equal to"),
        (put("training", "epochs", 10**30), "training.epochs: Input should be less than or equal to 1000000000"),
        (put("continuous", "multipliers", [1, 2**60]), "continuous.multipliers.1: Input should be less than or equal"),
        (put("data", "num_shards", 100_001), "data.num_shards: Input should be less than or equal to 100000"),
        (put("evaluation", {"num_images": 10**6, "shard_size": 9}), "1000000 images in shards of 9 are"),
        (put("continuous", "scale", 0), "continuous.scale: Input should be greater than 0"),
        (put("continuous", "attention_levels", [-1]), "continuous.attention_levels.0: Input should be greater"),
        (put("training", "betas", [0.9, 1]), "training.betas.1: Input should be less than 1"),
        (put("models", "tiny", "mlp_ratio", 0), "models.tiny.mlp_ratio: Input should be greater than 0"),
        (put("generator", "sampler", {"softmax_temperature": 0}), "softmax_temperature: Input should be greater"),
        (put("continuous", "train", "kl_weight", float("nan")), "continuous.train.kl_weight: expected a finite number"),
        (put("runs", "mar", "label", "\u200b "), "runs.mar.label: is empty"),
        (put("title", "one\u2028two"), "title: a line break"),
        (put("runs", "mar", "label", "MAR \ud800"), "runs.mar.label: 'MAR \\ud800' holds half of a character"),
        (put("runs", {"m\ud800": {}}), "runs: 'm\\ud800' is not text"),
        (put("runs", {1: {}}), "runs: 1 is not text, as a key must be"),
        (put("report", {"grid": [4, 10**9]}), "report.grid.1: Input should be less than or equal to 100"),
        (put("training", "warmup_epochs", 1.0e308), "training.warmup_epochs: Input should be less than or equal to"),
        (put("models", "tiny", "mlp_ratio", 1.0e308), "models.tiny.mlp_ratio: Input should be less than or equal to"),
        (put("runs", "mar", "start_epochs", 2**70), "runs.mar.start_epochs: Input should be less than or equal to"),
        (put("scoring", "jackknife_groups", 2**70), "scoring.jackknife_groups: Input should be less than or equal to"),
        (put("hardware", "gpus", 2), "hardware.gpus: 2 GPUs per training, but hardware.device is 'cpu'"),
        (put("hardware", {"gpus": 8, "nodes": 3}), "hardware.gpus: 8 GPUs cannot be shared equally by 3 nodes"),
        (put("hardware", {"device": "cuda", "gpus": 3}), "training.batch_size: 16 images do not divide over 3"),
        (
            put("hardware", "runs", {"dc_max": {"gpus": 8}}),
            "hardware.runs: 'dc_max' is unknown; did you mean",
        ),
        (put("hardware", "runs", {"mar": {"gpu": 8}}), "hardware.runs.mar.gpu: 'gpu' is unknown; did you mean 'gpus'?"),
        (put("hardware", "runs", {"mar": {"gpus": 1}}), "hardware.runs.mar.gpus: 1 GPUs, but hardware.device is 'cpu'"),
        (put("hardware", "runs", {"mar": {"nodes": 3}}), "training.batch_size: 16 images do not divide over 3"),
        (
            put("hardware", {"device": "cuda", "runs": {"mar": {"gpus": 8, "nodes": 3}}}),
            "hardware.runs.mar.gpus: 8 GPUs cannot be shared equally by 3 nodes",
        ),
        (put("hardware", "card", "a100-80"), "hardware.card: 'a100-80' is unknown; did you mean 'a100-80gb'?"),
        (put("hardware", "card", "A100"), "'A100' is unknown; did you mean 'a100-40gb' or 'a100-80gb'? Choose from"),
        (
            put("hardware", {"runs": {"mar": {"micro_batch": 3}}}),
            "hardware.runs.mar.micro_batch: 3 images do not divide the 16 of a process (batch_size 16 over 1) and its "
            "groups of 16; choose one of 1, 2, 4, 8",
        ),
        (
            put("runs", "dc_mix", "training", {"epochs": 3, "milestones": [1, 5]}),
            "runs.dc_mix.training.milestones: no epoch reaches 5: `epochs` is 3; raise it, or take it out",
        ),
        (
            put("runs", "dc_mix_timix", "parent", "dc_mix@2"),
            "runs.dc_mix_timix.parent: 'dc_mix@2' is no declared milestone; choose from dc_mix@1, dc_mix, or add 2 to",
        ),
        (
            put("runs", "dc_mix_timix", "parent", "dc_mix@one"),
            "runs.dc_mix_timix.parent: expected a run, or RUN@EPOCH for its milestone; found 'dc_mix@one'",
        ),
        (
            put("training", "micro_batch", 8),
            "training.micro_batch: for runs it is hardware",
        ),
        (put("scoring", "extractor", "network", "inception-v3"), "'inception-v3' is not trained here; give"),
        (put("continuous", "preset", ["kl16"]), "preset: ['kl16'] is unknown; choose from vavae-f16d32, kl16"),
        (put("runs", "dc_mix_timix", "ti_mix", {"start": 0.2, "end": 0.8}), "the rate of ground truth rises"),
        (put("scoring", "kid_subset_size", 37), "metric 'kid' needs at least 37 images"),
        (put("evaluation", "num_images", 2), "scoring.jackknife_groups: metric 'fd' needs at least 3 images"),
        (
            put("samplers", "default", {"head_steps_last": 5}),
            "samplers.default.head_steps_last: a constant schedule has",
        ),
        (put("samplers", "default", {"head_schedule": "linear"}), "default.head_schedule: 'linear' needs `head_steps_"),
        (
            put("samplers", "default", {"head_schedule": "linear", "head_steps": 5, "head_steps_last": 9}),
            "samplers.default.head_steps_last: 9 is above head_steps 5; the steps must fall",
        ),
        (put("samplers", "default", {"cfg_interval": [0.7, 0.2]}), "cfg_interval: [0.7, 0.2] is empty; give the lower"),
        (put("samplers", "default", {"cfg": 1, "cfg_interval": [0, 1]}), "cfg_interval: cfg is 1, so there is no guid"),
        (put("runs", "mar", "sweep", {"cfg": []}), "runs.mar.sweep.cfg: no scale is given; give at least two"),
        (put("runs", "mar", "sweep", {"cfg": [3]}), "runs.mar.sweep.cfg: one scale leaves nothing to choose"),
        (put("runs", "mar", "sweep", {"cfg": [2, 3, 2.0]}), "runs.mar.sweep.cfg: 2 occurs twice"),
        (put("runs", "mar", "sweep", {"cfg": [2, -3]}), "runs.mar.sweep.cfg.1: Input should be greater than or equal"),
        (put("runs", "mar", "sweep", {"cfg": [2, 3], "num_images": 2}), "mar.sweep.num_images: 2 images leave 2, but"),
        (sweep_without_a_scale, "runs.mar.sweep: every sampler of the run has cfg 1, which is no guidance"),
        (sweep_without_a_null_class, "runs.mar.sweep: label_drop_rate is 0, so the run learns no images without"),
        (put("runs", "dc_sa", "guidance", {"strategy": "DC-SA"}), "'DC-SA' is unknown; did you mean 'dc_sa'?"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_words(smoke, change, said):
    change(smoke)

    assert said in refusal(smoke)


def itself():
    found = [1]
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), ".x: expected a finite number; found nan"),
        ([1, float("-inf")], ".x[1]: expected a finite number; found -inf"),
        ({1: 2}, ".x: 1 is not text, as a key must be"),
        ({"a": {None: 2}}, ".x.a: None is not text"),
        (datetime.date(2024, 2, 1), ".x: a date, which the jobs' JSON cannot hold"),
        ({1, 2}, ".x: a set, which the jobs' JSON cannot hold"),
        ([b"\xff"], ".x[0]: a bytes, which the jobs' JSON cannot hold"),
        (itself(), "nested more than 50 deep"),
    ],
)
def test_options_that_jobs_would_read_differently_are_refused(smoke, value, said):
    sections = {
        "runs.mar.guidance.options": smoke["runs"]["mar"].setdefault("guidance", {}),
        "continuous.options": smoke["continuous"],
        "discrete.options": smoke["discrete"],
    }
    for where, section in sections.items():
        section["options"] = {"x": value}
        assert f"{where}.x" in refusal(smoke) and said in refusal(smoke)
        del section["options"]


def test_options_reach_the_jobs_as_they_are_written(smoke):
    value = [1, 10**30, -0.5, 1.0e300, True, None, "é😀", {"a": [], "b": {}}]
    smoke["runs"]["mar"]["guidance"] = {"options": {"x": value}}

    read = json.loads(parse_study(smoke).model_dump_json())

    assert read["runs"]["mar"]["guidance"]["options"]["x"] == value


def test_a_wrong_entry_of_a_list_is_said_alone(smoke):
    smoke["runs"]["mar"]["seeds"] = [2**63]

    assert len(refusal(smoke).splitlines()) == 2  # the study, and the entry


def test_spaces_and_line_ends_around_a_label_or_title_are_left_out(smoke):
    smoke["title"], smoke["runs"]["mar"]["label"] = "A title\n", " MAR\n"

    study = parse_study(smoke)

    assert (study.title, study.runs["mar"].label) == ("A title", "MAR")


def test_parents_in_a_circle_are_reported_as_one_whatever_their_seeds(smoke):
    smoke["runs"]["dc_mix"] |= {"parent": "dc_mix_long", "seeds": [0, 1]}
    smoke["runs"]["dc_mix_long"]["seeds"] = [0]

    message = refusal(smoke)

    assert "is a circle" in message and "no seed" not in message


def fields(model, path=()):
    """(keys that lead there, annotation) of every field below a section that the smoke study has."""
    for name, field in model.model_fields.items():
        section = section_in(field.annotation)
        inner = {"models": ("tiny",), "samplers": ("default",), "runs": ("mar",)}.get(name, ())
        if section:
            yield from fields(section, (*path, name, *inner))
        else:
            yield (*path, name), field.annotation


def test_no_number_of_a_study_may_be_a_yes_or_no_and_no_yes_or_no_a_number(smoke):
    checked = 0
    for path, annotation in fields(Study):
        kinds = set(re.findall(r"\b(?:int|float|bool)\b", repr(annotation)))
        wrong = [1, "yes"] if kinds == {"bool"} else [True, [True, True], {"1": [True, 2.0]}] if kinds else []
        for value in wrong:
            content = copy.deepcopy(smoke)
            section = content
            for key in path[:-1]:
                section[key] = section.get(key) or {}
                section = section[key]
            section[path[-1]] = value
            assert f"{'.'.join(path)}: expected " in refusal(content), (path, value)
            checked += 1
    assert checked > 120
    smoke["runs"]["mar"]["training"] = {"epochs": True}
    assert "runs.mar.training.epochs: expected a number; found True" in refusal(smoke)


def test_parsing_a_study_imports_neither_torch_nor_arrow(root):
    code = (
        "import sys; from mixar.assets import check; from mixar.study import layout, load;"
        "load.load_study('config/imagenet256.yaml'); print({'torch', 'pyarrow'} & set(sys.modules))"
    )

    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout

    assert found == "set()\n"


def test_a_run_has_the_hardware_of_the_study_except_for_its_own_keys(smoke):
    smoke["hardware"] = {"device": "cuda", "gpus": 8, "micro_batch": 2, "compile": True}
    smoke["hardware"]["runs"] = {"mar": {"gpus": 4, "nodes": 2, "micro_batch": None}}

    study = parse_study(smoke)

    ours, others = study.hardware_of("mar"), study.hardware_of("dc_mix")
    assert (ours.gpus, ours.nodes, ours.gpus_per_node, ours.micro_batch, ours.compile) == (4, 2, 2, None, True)
    assert (others.gpus, others.nodes, others.processes, others.micro_batch) == (8, 1, 8, 2)


def test_a_band_has_its_lower_loss_first(smoke):
    smoke["training"]["expected"] = {1: [0.6, 0.4]}

    with pytest.raises(
        ValueError, match=r"training\.expected\.1: \[0\.6, 0\.4\] is not a band; give the lower loss first"
    ):
        parse_study(smoke)


def test_what_is_wrong_for_every_run_in_the_same_words_is_said_once(smoke):
    smoke["hardware"]["micro_batch"] = 3

    with pytest.raises(SpecError) as refused:
        parse_study(smoke)

    assert str(refused.value).count("hardware.micro_batch: 3 images do not divide") == 1
