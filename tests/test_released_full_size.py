"""Released files at their real size: random weights in the released layout, converted, reloaded, one image drawn."""

import resource
import shutil

import pytest
import torch
from released_files import released_content
from verbs import mixar

from mixar.model.decode import sample_latents
from mixar.model.patches import unpatchify
from mixar.released import KINDS, load_released
from mixar.study.presets import PRESETS
from mixar.study.sections import GeneratorSampler, Sampler
from mixar.tokens.generator import sample_tokens
from mixar.weights import load_module, read_file

GIB = 2**30
KL16_SCALE = PRESETS["VaVae"]["kl16"]["scale"]
MEMORY_LIMIT_GIB = 16
DISK_GIB = {"mar": 7, "maskbit-generator": 3, "vavae": 1, "maskbit-tokenizer": 1}  # the released file and ours


def random_state(kind, preset):
    """Random weights of a released model under its released names; norms around one."""
    k = KINDS[kind]
    with torch.device("meta"):
        shapes = k.build(**k.presets[preset]).state_dict()
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, value in shapes.items():
        if name.endswith("bits_to_indices"):
            drawn = 2 ** torch.arange(len(value), dtype=torch.int32)
        elif name.endswith("codebook"):
            drawn = ((torch.arange(len(value))[:, None] >> torch.arange(value.shape[1])) & 1).float() * 2 - 1
        else:
            drawn = torch.empty(value.shape).normal_(std=0.02, generator=rng)
            drawn += float(value.dim() == 1 and name.endswith("weight"))
        state[next((r + name.removeprefix(o) for r, o in k.renamed if name.startswith(o)), name)] = drawn
    return state


def random_network(kind, preset):
    k = KINDS[kind]
    with torch.device("meta"):
        network = k.build(**k.presets[preset])
    return load_module(network, random_state(kind, preset))


def draw_mar(model):
    sampler = Sampler(num_iterations=1, head_steps=2, cfg=2.0, clip=4.0)
    tokens = torch.zeros(1, 256, dtype=torch.long)
    x = sample_latents(model, tokens, torch.tensor([207]), sampler, torch.Generator().manual_seed(1))
    assert x.shape == (1, 256, 16) and x.std() > 0
    return random_network("kl16", "kl16").decode(unpatchify(x, 16) / KL16_SCALE)


def draw_generator(model):
    q = sample_tokens(model, torch.tensor([207]), GeneratorSampler(num_steps=2), torch.Generator().manual_seed(1))
    assert q.shape == (1, 256) and q.unique().numel() > 1
    return random_network("maskbit-tokenizer", "maskbit-14bit").decode_tokens(q)


def draw_vavae(model):
    mean, _ = model.encode(torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1)).clamp(-1, 1))
    assert mean.shape == (1, 32, 16, 16)
    return model.decode(mean)


def draw_tokenizer(model):
    q = model.tokens(torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(1)))
    assert q.shape == (1, 256) and q.min() >= 0 and q.max() < 2**14
    return model.decode_tokens(q)


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("kind", "preset", "draw"),
    [
        ("mar", "mar-l", draw_mar),
        ("maskbit-generator", "maskbit-14bit", draw_generator),
        ("maskbit-tokenizer", "maskbit-14bit", draw_tokenizer),
        ("vavae", "vavae-f16d32", draw_vavae),
    ],
)
def test_a_full_size_release_is_converted_reloaded_and_drawn_from(kind, preset, draw, tmp_path):
    if shutil.disk_usage(tmp_path).free < DISK_GIB[kind] * GIB:
        pytest.skip(f"needs {DISK_GIB[kind]} GiB of disk below {tmp_path}")
    content = released_content(kind, random_state(kind, preset))
    torch.save(content, tmp_path / "released.pth")
    del content

    converted = mixar("convert", kind, tmp_path / "released.pth", tmp_path / "o.safetensors")
    assert converted.returncode == 0, converted.stderr

    loaded = load_released(kind, tmp_path / "o.safetensors")
    total = sum(p.numel() for p in loaded.network.parameters())
    assert loaded.preset == preset and f"{kind}, {preset}, {total:,} parameters" in converted.stdout
    state = read_file(tmp_path / "released.pth")
    state = state.get("model_ema", state.get("state_dict", state))
    found = loaded.network.state_dict()
    for released, ours in KINDS[kind].renamed:
        state = {ours + n.removeprefix(released) if n.startswith(released) else n: v for n, v in state.items()}
    assert all(torch.equal(value, state[name]) for name, value in found.items())

    with torch.inference_mode():
        drawn = draw(loaded.network)
    assert drawn.shape == (1, 3, 256, 256) and drawn.float().isfinite().all() and drawn.float().std() > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MEMORY_LIMIT_GIB * GIB
    shutil.rmtree(tmp_path)
