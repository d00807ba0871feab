"""What does not fit together between the sections of a study, and in which words it is refused."""

import pytest
from study_changes import put, remove

from mixar.study.errors import SpecError
from mixar.study.load import parse_study


def refusal(content):
    with pytest.raises(SpecError) as caught:
        parse_study(content)
    return str(caught.value)


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
        (
            put("samplers", "default", {"num_iterations": 8, "skeleton_iterations": 8}),
            "skeleton_iterations: 8 of 8 leave none to fill in",
        ),
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


def test_parents_in_a_circle_are_reported_as_one_whatever_their_seeds(smoke):
    smoke["runs"]["dc_mix"] |= {"parent": "dc_mix_long", "seeds": [0, 1]}
    smoke["runs"]["dc_mix_long"]["seeds"] = [0]

    message = refusal(smoke)

    assert "is a circle" in message and "no seed" not in message
