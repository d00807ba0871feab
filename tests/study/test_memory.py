"""The estimate of a training step's memory against the networks themselves, at full size and without a GPU."""

import pytest
import torch
from fake_cuda import CUDA, CudaGenerator, fake_cuda, on_host
from measured_memory import ALL, FEWEST, measured, measured_backward

from mixar.device import autocast
from mixar.model.cost import count_parameters
from mixar.model.decode import sample_latents
from mixar.model.guidance import STAGES, build_guidance
from mixar.model.mar import MAR
from mixar.study import choices, memory
from mixar.study.errors import SpecError
from mixar.study.load import load_study, parse_study, read_layer
from mixar.study.memory import training_memory
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer, sample_tokens

RUNS = ("control_l", "dc_mix_l", "dc_sa_l", "dc_ca_l", "mixar_l", "dc_mix_b", "mixar_b", "mar_b", "mar_l", "mar_h")
STRATEGIES = ("control_l", "dc_mix_l", "dc_sa_l", "dc_ca_l")


def paper(root, **hardware):
    """The ImageNet study with MAR's own sizes; every run on the same hardware."""
    study = load_study(root / "config" / "imagenet256.yaml", root / "config" / "imagenet256-mar.yaml")
    return study.model_copy(update={"hardware": study.hardware.model_copy(update={"runs": {}, **hardware})})


def trained(study, **changes):
    return study.model_copy(update={"training": study.training.model_copy(update=changes)})


def most(study, run, micro_batch):
    """Measured activations and state at the mask rate that needs most."""
    found = [measured(study, run, micro_batch, quantile) for quantile in (ALL, FEWEST)]
    return max(activations for activations, _, _ in found), found[0][1]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("checkpoint_blocks", [False, True])
def test_the_estimate_is_within_5_percent_of_what_each_run_of_the_paper_keeps(run, checkpoint_blocks, root):
    study = paper(root, checkpoint_blocks=checkpoint_blocks)

    activations, state = most(study, run, 64)

    estimate = training_memory(study, run)
    assert estimate.activations == pytest.approx(activations, rel=0.05)
    assert estimate.state == pytest.approx(state, rel=0.001)


@pytest.mark.full_size
@pytest.mark.parametrize("run", STRATEGIES)
@pytest.mark.parametrize(
    ("micro_batch", "training"),
    [
        (16, {}),
        (64, {"head_batch_multiplier": 1}),
        (32, {"head_batch_multiplier": 2, "mask_rate_min": 0.3}),
        (16, {"precision": "float32"}),
    ],
    ids=str,
)
def test_the_estimate_holds_for_other_batches_noise_draws_mask_rates_and_precisions(run, micro_batch, training, root):
    study = trained(paper(root, micro_batch=micro_batch), **training)

    activations, _ = most(study, run, micro_batch)

    assert training_memory(study, run).activations == pytest.approx(activations, rel=0.05)


@pytest.mark.full_size
@pytest.mark.parametrize("run", ("dc_mix_l", "dc_ca_l", "mar_b", "mar_h"))
def test_the_estimate_holds_for_the_peak_with_one_noise_draw_at_a_time(run, root):
    study = paper(root, sequential_draws=True)

    peak = max(measured_backward(study, run, 64, quantile)[0] for quantile in (ALL, FEWEST))

    estimate = training_memory(study, run)
    assert estimate.activations + estimate.backward == pytest.approx(peak, rel=0.05)


@pytest.mark.parametrize(("run", "changes"), [("dc_mix_l", {}), ("mar_b", {}), ("mar_h", {"micro_batch": 16})], ids=str)
def test_the_backward_pass_adds_what_the_estimate_says(run, changes, root):
    study = paper(root, **changes)

    _, added = measured_backward(study, run, study.hardware.micro_batch)

    assert training_memory(study, run).backward == pytest.approx(added, rel=0.05)


@pytest.mark.parametrize("run", RUNS)
def test_parameters_and_added_tokens_are_those_of_the_network(run, root):
    study = paper(root)
    with torch.device("meta"):
        guidance = build_guidance(study, run)
        generator = BitTransformer(study.generator, study.discrete.bits, study.num_tokens, study.data.num_classes)

    assert memory.parameters(study, run) == count_parameters(study, run)
    assert memory.generator_parameters(study) == sum(p.numel() for p in generator.parameters())
    for stage in STAGES:
        assert memory.prefix_tokens(study, run, stage) == guidance.prefix_tokens(stage)
        assert memory.memory_tokens(study, run) == guidance.memory_tokens(stage)


@pytest.mark.parametrize("strategy", choices.STRATEGIES.table)
def test_every_built_in_strategy_adds_the_parameters_that_it_has(strategy, smoke):
    smoke["runs"]["mar"] |= {"guidance": {"strategy": strategy}}
    study = parse_study(smoke)

    assert memory.parameters(study, "mar") == count_parameters(study, "mar")


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        (
            {"micro_batch": 128},
            r"hardware: dc_sa_l: a training step of 128 images needs about 11\d\.\d GiB, and h100-80gb has 78; "
            r"use micro_batch 64 \(6\d\.\d GiB\) or checkpoint_blocks true \(6\d\.\d GiB\)",
        ),
        (
            {"card": "a100-40gb"},
            r"hardware: dc_mix_l: .* and a100-40gb has 38.5; use sequential_draws true \(3\d\.\d GiB\) or micro",
        ),
        ({"card": "l4"}, r"hardware: dc_ca_l: .* use micro_batch 8"),
        ({"runs": {"dc_sa_l": {"micro_batch": 128}}}, r"hardware.runs.dc_sa_l: dc_sa_l: a training step of 128"),
    ],
    ids=str,
)
def test_a_training_that_exceeds_the_card_is_refused_with_what_would_fit(hardware, said, root):
    content = read_layer(root / "config" / "imagenet256.yaml")
    content["training"]["mask_group"] = 128
    content["hardware"] |= hardware

    with pytest.raises(SpecError, match=said):
        parse_study(content)


@pytest.mark.parametrize(
    "hardware",
    [{"card": None}, {"checkpoint_blocks": True, "micro_batch": 128}, {"device": "cpu", "gpus": 0}],
    ids=str,
)
def test_what_fits_or_has_no_known_card_is_not(hardware, root):
    content = read_layer(root / "config" / "imagenet256.yaml")
    content["training"]["mask_group"] = 128
    content["hardware"] |= {"micro_batch": 128} | hardware

    assert parse_study(content)


def test_a_strategy_of_the_studys_own_has_no_estimate(smoke):
    smoke["runs"]["dc_sa"]["guidance"] = {"strategy": "mine:Strategy"}

    assert training_memory(parse_study(smoke), "dc_sa") is None


# Stages that draw and look at images


def peak(watch, work, precision):
    """GiB at most while `work` runs without gradients, what is there already included."""
    watch.peak = watch.bytes
    with on_host(), torch.inference_mode(), autocast(CUDA, precision):
        work()
    return watch.peak / memory.GIB


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("run", "drawn", "options"),
    [
        ("control_l", {}, {}),
        ("control_l", {"skeleton_iterations": 1}, {}),
        ("dc_mix_l", {}, {}),
        ("dc_ca_l", {}, {}),
        ("dc_ca_l", {}, {"drop_tokens_in_null": True}),
        ("dc_sa_l", {"cfg": 1.0}, {}),
        ("mar_h", {}, {}),
    ],
    ids=str,
)
def test_the_estimate_of_drawing_latents_follows_the_precision(run, drawn, options, precision, root):
    study = paper(root)
    guidance = study.runs[run].guidance.model_copy(update={"options": options})
    chosen = study.runs[run].model_copy(update={"guidance": guidance})
    few = {"num_iterations": 2, "head_steps": 2, "cfg": 3.0, "precision": precision, **drawn}
    sampler = study.samplers["default"].model_copy(update=few)
    decoded = {"evaluation": study.evaluation.model_copy(update={"batch_size": 32})}
    small = {"continuous": study.continuous.model_copy(update={"channels": 1})}  # so that decoding does not decide
    study = study.model_copy(update=decoded | small | {"runs": {run: chosen}})
    with fake_cuda() as watch:
        model, q = MAR.from_study(study, run).eval(), torch.zeros(32, study.num_tokens).long()

        measured = peak(watch, lambda: sample_latents(model, q, q[:, 0], sampler, CudaGenerator()), precision)

    assert memory.sampling_memory(study, run, sampler, 0) == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_estimate_of_tokenizers_follows_the_precision(kind, precision, root):
    study = paper(root)
    section = getattr(study, kind).model_copy(update={"precision": precision})
    with fake_cuda() as watch:
        network, x = tokenizers.build(kind, section).eval(), torch.zeros(8, 3, 256, 256)
        count = sum(p.numel() for p in network.parameters())
        codes = torch.zeros(8, 32, 16, 16) if kind == "continuous" else torch.zeros(8, 256).long()
        encode, decode = (getattr(network, name) for name in tokenizers.METHODS[kind])

        measured = [peak(watch, lambda: encode(x), precision), peak(watch, lambda: decode(codes), precision)]

    assert memory.tokenizer_memory(study, section, 8, count) == pytest.approx(max(measured), rel=0.05)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_estimate_of_the_generator_follows_the_precision(precision, root):
    study = paper(root)
    evaluation = study.evaluation.model_copy(update={"batch_size": 32})
    sampler = study.generator.sampler.model_copy(update={"precision": precision})
    generator = study.generator.model_copy(update={"sampler": sampler})
    study = study.model_copy(update={"evaluation": evaluation, "generator": generator})
    with fake_cuda(quantile=1e6) as watch:
        sizes = study.discrete.bits, study.num_tokens, study.data.num_classes
        model, c = BitTransformer(study.generator, *sizes).eval(), torch.zeros(32).long()
        few = sampler.model_copy(update={"num_steps": 2})

        measured = peak(watch, lambda: sample_tokens(model, c, few, CudaGenerator()), precision)

    assert memory.generating_memory(study) == pytest.approx(measured, rel=0.05)
