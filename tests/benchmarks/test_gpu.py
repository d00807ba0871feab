"""The script that measures a GPU, tried on the CPU with tiny networks: its parts, time boxes, and what it may say."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fake_cuda import CUDA, fake_cuda, on_host

from mixar.model.mar import MAR
from mixar.tokens import tokenizers
from mixar.tokens.generator import BitTransformer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def module(name):
    """A module of the folder, which is no package."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        sys.modules[name] = found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found
    finally:
        sys.path.remove(str(BENCHMARKS))


gpu_parts = module("gpu_parts")
gpu = module("gpu")
gpu_page = module("gpu_page")
SMALL = gpu.Setup("cpu", small=True)

# The interface of MAR's repository, with a network of two matrices.
CHECKOUT = """
import torch


class Tiny(torch.nn.Module):
    def __init__(self, vae_embed_dim, **options):
        super().__init__()
        self.options = options
        self.matrix = torch.nn.Linear(vae_embed_dim, vae_embed_dim)

    def forward(self, imgs, labels):
        return self.matrix(imgs.flatten(2).transpose(1, 2)).square().mean()

    def sample_tokens(self, bsz, num_iter, cfg, cfg_schedule, labels):
        assert self.options["num_sampling_steps"] == "2" and len(labels) == bsz
        raise RuntimeError("Found no NVIDIA driver on your system.")


def mar_large(**options):
    return Tiny(**options)
"""


def measured(folder, *arguments):
    """What the script writes, run as users do."""
    output = folder / "found.json"
    command = [BENCHMARKS / "gpu.sh", "--device", "cpu", "--small", "--output", output, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    return done, json.loads(output.read_text(encoding="utf-8")) if output.exists() else None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    (folder / "mar" / "models").mkdir(parents=True)
    (folder / "mar" / "models" / "mar.py").write_text(CHECKOUT, encoding="utf-8")
    done, found = measured(folder, "--mar", folder / "mar")
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.mark.slow
def test_every_part_ends_and_finds_what_it_is_for(whole):
    assert list(whole["parts"]) == list(gpu.PARTS)
    assert {name: part["status"] for name, part in whole["parts"].items()} == dict.fromkeys(gpu.PARTS, "done")
    items = {name: part["items"] for name, part in whole["parts"].items()}
    errors = [(name, item) for name in items for item in items[name] if "error" in item]
    assert [(name, item["what"]) for name, item in errors] == [("mar", "sampling")]  # the stub has no GPU
    assert [item["run"] for item in items["training"]] == list(SMALL.study.runs)
    assert {item["stage"] for item in items["stages"]} == {"generate", "tokenize", "reconstruct", "features_reference"}
    for name in ("training", "training_compiled", "sampling", "sampling_compiled", "stages"):
        assert all(item["images_a_second"] > 0 and item["seconds"] > 0 for item in items[name])


@pytest.mark.slow
def test_a_device_that_computes_as_the_cpu_does_is_found_equal(whole):
    vectors, steps = (whole["parts"][name]["items"] for name in ("vectors", "steps"))

    assert all(item["problems"] == 0 < item["checks"] for item in vectors)
    names = ["mar", "dc_mix", "dc_sa", "dc_ca", "dc_mix_ti_mix", "dc_sa_ti_mix", "dc_ca_ti_mix"]
    assert [item["run"] for item in steps] == names
    for item in steps:
        assert item["loss"] == item["gradient"] == item["latents"] == item["pixels"] == 0
        assert 0 < item["loss_bfloat16"] < gpu_parts.ALLOWED["loss_bfloat16"]
        assert all(item[f"{kind}_is_equal"] is True for kind in gpu_parts.ALLOWED)


@pytest.mark.slow
def test_nothing_measured_on_a_cpu_or_small_is_a_rate_to_plan_with(whole):
    assert whole["card"] is None and whole["tflops"] == {} and whole["is_small"]


@pytest.fixture
def parts(monkeypatch):
    """Parts of the tests' own, in place of the script's."""
    found = {}
    monkeypatch.setattr(gpu, "PARTS", found)
    return found


def test_a_part_that_fails_dies_or_takes_too_long_is_recorded_and_the_rest_runs(parts, tmp_path):
    def fails(_):
        yield {"found": 1}
        raise ValueError("no\nsuch thing")

    def dies(_):
        yield {"found": 2}
        os._exit(7)

    def hangs(_):
        yield {"found": 3}
        time.sleep(600)

    def works(_):
        assert json.loads(output.read_text())["parts"]["hangs"]["items"] == [{"found": 3}]
        yield {"found": 4}

    output = tmp_path / "found.json"
    parts |= {"fails": (fails, 60), "dies": (dies, 60), "hangs": (hangs, 2), "works": (works, 60)}

    found = gpu.run(SMALL, output, 600, list(parts))

    ended = {name: (part["status"], part["items"]) for name, part in found["parts"].items()}
    assert ended == {
        "fails": ("failed", [{"found": 1}]),
        "dies": ("failed", [{"found": 2}]),
        "hangs": ("out of time", [{"found": 3}]),
        "works": ("done", [{"found": 4}]),
    }
    assert found["parts"]["fails"]["why"] == "ValueError: no such thing"
    assert "exit code 7" in found["parts"]["dies"]["why"]
    assert json.loads(output.read_text()) == found and list(tmp_path.iterdir()) == [output]


def test_parts_for_which_no_time_is_left_are_not_run(parts, tmp_path):
    parts |= {"late": (lambda _: iter([{"found": 1}]), 60)}

    found = gpu.run(SMALL, tmp_path / "found.json", 0.5, ["late"])

    assert found["parts"]["late"] == {"status": "not run", "items": [], "why": "no time was left"}


def test_rates_of_stages_are_work_over_time_at_full_size_on_a_gpu():
    def part(*items):
        return {"status": "done", "items": list(items)}

    narrow = {"precision": "bfloat16", "seconds": 1.0}
    training = part(narrow | {"tflop": 300}, narrow | {"tflop": 100}, {"error": "out of memory"})
    drawn = [{"precision": p, "is_whole": w, "tflop": 100, "seconds": s}
             for p, w, s in (("bfloat16", True, 1), ("bfloat16", False, 9), ("float32", True, 4))]  # fmt: skip
    machine = part({"device": "NVIDIA H100 80GB HBM3", "card": "h100-80gb"}, {"product": 8192, "tflops": 700})
    found = {"tflops": {}, "parts": {"machine": machine, "training": training, "sampling": part(*drawn)}}

    gpu.conclude(found, gpu.Setup("cuda", small=False))

    assert found["card"] == "h100-80gb" and found["tflops"] == {
        "train": {"bfloat16": 200},
        "sample": {"bfloat16": 100, "float32": 25},
    }


def test_small_or_cpu_measurements_must_name_their_file_and_a_checkout_must_be_one(tmp_path, capsys):
    for arguments, said in (
        (["--device", "cpu"], "--output: name a file"),
        (["--small"], "--output: name a file"),
        (["--mar", str(tmp_path)], "holds no models/mar.py"),
    ):
        with pytest.raises(SystemExit):
            gpu.main(arguments)
        assert said in capsys.readouterr().err


# The page


def test_the_page_shows_what_was_measured_what_failed_and_what_was_not_run(tmp_path):
    file = tmp_path / "gpu.json"
    assert gpu_page.page(file) == gpu_page.NOTHING
    run = {"run": "mar_b", "precision": "bfloat16", "images_a_second": 1234.5, "tflop": 9.0, "mfu": 0.314}
    parts = {
        "training": {"status": "done", "items": [run, {"run": "mar_h", "error": "OutOfMemoryError: too | large"}]},
        "steps": {"status": "done", "items": [{"run": "dc_mix", "loss": 1e-7, "loss_is_equal": False}]},
        "mar": {"status": "not run", "items": [], "why": "no time was left"},
    }
    about = {
        "device": "NVIDIA H200",
        "memory_gib": 139.8,
        "date": "2026-01-02T03:04",
        "torch": "2.11",
        "python": "3.12",
    }
    found = {**about, "commit": "abc", "is_small": False, "parts": parts}

    file.write_text(json.dumps(found))
    text = gpu_page.page(file)

    assert text.startswith("Measured on one NVIDIA H200 (139.8 GiB), 2026-01-02")
    assert "| run | precision | images/s | MFU |" in text and "| mar_b | bfloat16 | 1,234 | 31% |" in text
    assert "- mar_h: OutOfMemoryError: too | large" in text and "| dc_mix | 1e-07 | **no** |" in text
    assert "Not run: no time was left." in text
    for trial in ({"is_small": True}, {"memory_gib": None}):
        file.write_text(json.dumps(found | trial))
        assert gpu_page.page(file) == gpu_page.NOTHING


# The same step and image on another device


def test_tensors_of_the_cpu_join_those_of_the_device_and_every_draw_is_the_cpus():
    rng, there = torch.Generator().manual_seed(0), torch.ones(3, device="meta")
    expected = torch.rand(3, generator=torch.Generator().manual_seed(0))
    with gpu_parts.OnDevice("meta"):
        assert (torch.ones(3) + there).is_meta and torch.cat([torch.ones(1), there]).is_meta
        assert there[torch.tensor([0, 2])].is_meta
        assert torch.zeros(3).copy_(torch.ones(3)).device.type == "cpu"  # what is changed in place stays
        assert torch.rand(3, generator=rng, device="meta").is_meta
    with gpu_parts.OnDevice("cpu"):
        rng.manual_seed(0)
        assert torch.equal(torch.rand(3, generator=rng, device="cpu"), expected)


@pytest.mark.parametrize("run", ["mar", "dc_mix_ti_mix", "dc_sa_ti_mix", "dc_ca_ti_mix"])
def test_a_step_and_an_image_run_on_cuda_with_the_draws_of_the_cpu(run):
    study = gpu_parts.every_strategy(SMALL)
    with fake_cuda():
        model = MAR.from_study(study, run).eval()
        sizes = study.discrete.bits, study.num_tokens, study.data.num_classes
        frozen = BitTransformer(study.generator, *sizes).eval().requires_grad_(False)
        decoder = tokenizers.build("continuous", study.continuous).eval()
        with on_host(), gpu_parts.OnDevice("cuda"):
            loss = gpu_parts.one_step(study, run, model, frozen, is_trained=False)["loss"]
            image = gpu_parts.one_image(study, model, decoder)

    assert loss.device == image["latents"].device == image["pixels"].device == CUDA
