"""CUDA without a GPU: every network of the ImageNet study at full size, on tensors with a device but no values.

No device or type is mixed, each generator is on the device of the tensor that it fills, and host waits are counted.
"""

from collections import Counter

import pytest
import torch
from fake_cuda import CUDA, CudaDraws, CudaGenerator, fake_cuda, on_host, without_values
from inception_file import blank_inception

from mixar.device import autocast
from mixar.model.decode import sample_latents
from mixar.model.mar import MAR
from mixar.model.masking import Group
from mixar.scoring.extractors import Extractor, extract
from mixar.scoring.networks.inception import HalfPixelInception, SpatialInception
from mixar.stages.reconstruct import ROUNDTRIPS
from mixar.study.load import load_study
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer, sample_tokens
from mixar.tokens.latents import ENCODE_BATCH
from mixar.training.draws import Draws
from mixar.training.steps import Guide, training_step

STUDY = load_study("config/imagenet256.yaml")
RUNS = list(STUDY.runs)
BATCH = STUDY.evaluation.batch_size
PRECISIONS = ["float32", "bfloat16"]


def token_generator():
    """The frozen generator of discrete tokens."""
    sizes = STUDY.discrete.bits, STUDY.num_tokens, STUDY.data.num_classes
    return BitTransformer(STUDY.generator, *sizes).eval().requires_grad_(False)


def tokens_and_classes(size):
    return torch.zeros(size, STUDY.num_tokens).long(), torch.zeros(size).long()


def images(size):
    return torch.zeros(size, 3, STUDY.data.image_size, STUDY.data.image_size)


def on_gpu(tensor, dtype=torch.float32):
    assert (tensor.device, tensor.dtype) == (CUDA, dtype)


@pytest.mark.parametrize("run", RUNS)
def test_the_forward_pass_of_a_training_waits_only_for_the_check_of_drawn_tokens(run):
    settings, size = STUDY.training_of(run), STUDY.hardware_of(run).micro_batch
    ti_mix = STUDY.runs[run].ti_mix
    with fake_cuda() as watch:
        model, frozen = MAR.from_study(STUDY, run).train(), token_generator() if ti_mix else None
        q, c = tokens_and_classes(size)
        batch = {"x": torch.zeros(size, STUDY.num_tokens, STUDY.continuous.latent_channels).half(), "q": q, "c": c}
        draws = CudaDraws.of(CUDA, (0, 0), 0, Group(settings.mask_group, slice(0, size)), equal_rates=False)
        watch.uploads.clear()

        with on_host(), autocast(CUDA, settings.precision):
            loss = training_step(model, batch, settings, draws, ti_mix and Guide(frozen, ti_mix, progress=0.5))

    on_gpu(loss)
    assert loss.requires_grad and draws.host.device.type == "cpu"
    assert watch.waits == (["process/failures.py finite"] if ti_mix else [])  # are the generator's logits finite
    assert set(watch.uploads) <= {"model/diffusion.py at"}  # the coefficients, once a training


@pytest.mark.full_size
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("run", RUNS)
def test_drawing_latents_copies_its_timesteps_once_and_never_waits_however_many_iterations(run, precision):
    uploads = []
    for num_iterations, head_steps in ((2, 2), (3, 4)):
        sampler = STUDY.samplers["default"].model_copy(
            update={"num_iterations": num_iterations, "head_steps": head_steps}
        )
        with fake_cuda() as watch:
            model, (q, c) = MAR.from_study(STUDY, run).eval(), tokens_and_classes(BATCH)
            watch.uploads.clear()
            with on_host(), torch.inference_mode(), autocast(CUDA, precision):
                x = sample_latents(model, q, c, sampler, CudaGenerator())

        on_gpu(x)
        assert watch.waits == []
        uploads.append(Counter(watch.uploads))

    assert uploads == [{"model/diffusion.py timesteps_on": 1}] * 2


@pytest.mark.parametrize("precision", PRECISIONS)
def test_generating_tokens_waits_once_a_step(precision):
    sampler = STUDY.generator.sampler.model_copy(update={"num_steps": 5})
    with fake_cuda(quantile=1e6) as watch:  # of entries that stay masked: as many as possible, so that no step is saved
        model, (_, c) = token_generator(), tokens_and_classes(BATCH)
        watch.uploads.clear()
        with on_host(), autocast(CUDA, precision):
            q = sample_tokens(model, c, sampler, CudaGenerator())

    on_gpu(q, torch.int64)
    assert Counter(watch.waits) == {"process/failures.py finite": 5} and watch.uploads == []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_tokenizer_encodes_and_decodes_with_a_wait_for_each_check_of_its_values(kind, precision):
    with fake_cuda() as watch:
        network, unit = tokenizers.build(kind, getattr(STUDY, kind)).eval(), images(ENCODE_BATCH)
        watch.uploads.clear()
        with on_host(), torch.inference_mode(), autocast(CUDA, precision):
            made = ROUNDTRIPS[kind](network, unit, torch.Generator())

    on_gpu(made)
    assert made.shape == unit.shape
    assert set(watch.waits) == {"process/failures.py finite"} and len(watch.waits) == 2
    # Noise of the posterior is drawn on the CPU, so that every device encodes alike.
    assert watch.uploads == (["tokens/latents.py draw_latents"] if kind == "continuous" else [])


def test_tokens_of_images_come_from_the_gpu_in_whole_numbers():
    with fake_cuda() as watch:
        network, unit = tokenizers.build("discrete", STUDY.discrete).eval(), images(ENCODE_BATCH)
        with on_host(), torch.inference_mode():
            q = network.tokens(unit)

    on_gpu(q, torch.int64)
    assert q.shape == (ENCODE_BATCH, STUDY.num_tokens) and len(watch.waits) == 1


@pytest.mark.parametrize("build", [None, HalfPixelInception])
def test_features_of_every_resize_wait_once_for_each_layer_that_comes_to_the_host(build):
    network, batches = blank_inception(build), 3
    with fake_cuda() as watch:
        extractor = Extractor("inception", "", without_values(network))
        watch.uploads.clear()
        with on_host():
            size = STUDY.data.image_size
            pixels = (torch.zeros(64, size, size, 3, dtype=torch.uint8) for _ in range(batches))
            found = extract(extractor, pixels)

    assert [(layer.device.type, layer.dtype, len(layer)) for layer in found] == [("cpu", torch.float32, 192)] * 2
    assert Counter(watch.waits) == {"scoring/extractors.py _finite_layers": 2 * batches}
    assert len(watch.uploads) == batches


def test_the_spatial_layer_of_a_further_network_comes_from_the_gpu():
    network = blank_inception(SpatialInception)
    with fake_cuda() as watch, on_host():
        pixels = torch.zeros(64, 3, STUDY.data.image_size, STUDY.data.image_size, dtype=torch.uint8, device=CUDA)
        (found,) = without_values(network)(pixels)

    on_gpu(found)
    assert found.shape == (64, 2023) and watch.waits == []


def test_a_generator_of_another_device_than_its_tensor_is_found():
    with fake_cuda(), on_host():
        noise = torch.empty(3, device=CUDA)
        for rng, where in ((torch.Generator(), CUDA), (CudaGenerator(), "cpu")):
            with pytest.raises(RuntimeError, match="generator fills a tensor on"):
                torch.randn(3, generator=rng, device=where)
        with pytest.raises(RuntimeError, match="exponential_: a cpu generator"):
            noise.exponential_(generator=torch.Generator())
        assert noise.exponential_(generator=CudaGenerator()) is noise


def test_waits_and_uploads_are_found_wherever_a_value_crosses():
    with fake_cuda() as watch, on_host():
        here, there = torch.zeros(3).long(), torch.zeros(3, device=CUDA)
        for crossing in (there.sum, there.cpu, there.isfinite().all):
            found = crossing()
            if found.device.type == "cuda":
                bool(found)
        here.float().copy_(there)
        assert len(watch.waits) == 4
        here.to(CUDA, non_blocking=True)
        assert watch.uploads == []
        here.to(CUDA), there[here], there.copy_(here), torch.tensor([1.0], device=CUDA)  # noqa: B018
        assert len(watch.uploads) == 4
        with pytest.raises(RuntimeError, match="two devices"):
            there + here


def test_draws_on_a_gpu_leave_what_the_host_must_know_on_the_cpu():
    draws = CudaDraws.of_all(CUDA, seed=0, size=4)

    assert isinstance(draws, Draws) and draws.device == CUDA
    assert draws.mask_rate is draws.host and draws.host.device.type == "cpu"
