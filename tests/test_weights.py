"""Weights on disk: what is read, and what is refused: damaged, foreign and malicious files."""

import argparse
import contextlib
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from released_files import write_released
from safetensors.torch import save_file
from torch import nn

from mixar.stages.convert import convert
from mixar.storage.files import replaced
from mixar.weights import load_module, read_file, read_metadata, read_weights, save_weights


class RunsCode:
    """Unpickling this creates a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


class Harmless:
    """A class that no reader knows."""


def malicious_files(folder, proof):
    """Files that would create `proof` when unpickled: torch's archive, its older format, and bare pickles."""
    content = {"model": {"weight": torch.ones(2)}, "epoch": RunsCode(proof)}
    torch.save(content, folder / "archive.pth")
    torch.save(content, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    for protocol in (2, 4):
        (folder / f"bare{protocol}.pth").write_bytes(pickle.dumps(RunsCode(proof), protocol=protocol))
    return sorted(folder.glob("*.pth"))


def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path):
    proof = tmp_path / "proof"
    files = malicious_files(tmp_path, proof)
    assert len(files) == 4

    for path in files:
        with pytest.raises(ValueError, match=rf"{path.name}: refused: .*could run code"):
            read_file(path)
        with pytest.raises(ValueError, match="refused"):
            convert("mar", path, tmp_path / "ours.safetensors")
    assert not proof.exists()

    with pytest.raises(FileExistsError):  # the files are what they claim: an open-hearted reader runs them
        proof.mkdir()
        torch.load(files[0], weights_only=False)


def test_the_refusal_names_what_the_file_wanted(tmp_path):
    torch.save({"weight": torch.ones(2), "extra": Harmless()}, tmp_path / "m.pth")

    refusal = r"it names [\w.]*test_weights\.Harmless.*argparse\.Namespace are read"
    with pytest.raises(ValueError, match=refusal) as caught:
        read_file(tmp_path / "m.pth")
    assert "weights_only" not in str(caught.value), "torch's advice to switch the guard off is not ours"


def test_wrappers_are_told_from_names_of_the_network(tmp_path):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    torch.manual_seed(0)
    state = Own().state_dict()
    names = {
        "as it is": lambda key: key,
        "in DistributedDataParallel": lambda key: f"module.{key}",
        "in Lightning": lambda key: f"model.{key}",
        "compiled": lambda key: f"_orig_mod.{key}",
        "compiled in part": lambda key: key.replace("model.1.", "model.1._orig_mod."),
        "all of it": lambda key: f"module.model._orig_mod.{key}".replace("model.0.", "model.0._orig_mod."),
    }

    for how, name in names.items():
        save_weights(tmp_path / "own.safetensors", {name(key): value for key, value in state.items()}, {})
        loaded = load_module(Own(), tmp_path / "own.safetensors").state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in state.items()), how


class Tied(nn.Module):
    """One matrix and one buffer under two names each."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.rand(2))
        self.register_buffer("same", self.scale)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_tensors_are_saved_and_loaded_as_one(tmp_path, device):
    torch.manual_seed(0)
    state = Tied().state_dict()
    save_weights(tmp_path / "all.safetensors", state, {})
    save_weights(tmp_path / "few.safetensors", {k: v for k, v in state.items() if k not in ("a.weight", "same")}, {})

    for name in ("all", "few"):
        with torch.device(device):
            loaded = load_module(Tied(), tmp_path / f"{name}.safetensors")
        assert loaded.a.weight is loaded.b.weight and loaded.scale is loaded.same
        assert all(torch.equal(loaded.state_dict()[key], value) for key, value in state.items())
        assert len(list(loaded.parameters())) == 3


def test_tied_tensors_that_differ_in_the_file_are_refused(tmp_path):
    state = Tied().state_dict() | {"b.weight": torch.ones(2, 2)}

    with pytest.raises(ValueError, match="b.weight: differs from a.weight, and the network has one tensor for both"):
        load_module(Tied(), state)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_tensors_that_share_memory_are_written_whole(tmp_path, dtype):
    base = torch.arange(12.0).view(3, 4)
    tensors = {"base": base, "row": base[1], "turned": base.T, "every other": base[:, ::2],
               "wide": base[0, :1].expand(5), "again": base, "empty": base[:0], "none": base[:0]}  # fmt: skip

    save_weights(tmp_path / "file.safetensors", tensors, {}, dtype)

    found = read_file(tmp_path / "file.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert torch.equal(found[name], value.to(dtype or value.dtype)), name


def test_names_that_only_look_wrapped_are_surplus():
    state = {f"modules.{key}": value for key, value in nn.Linear(2, 2).state_dict().items()}

    with pytest.raises(ValueError, match="4 differences(.|\n)*surplus: modules.weight"):
        load_module(nn.Linear(2, 2), state)


def test_the_argument_namespace_is_read(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "m.pth")

    assert read_file(tmp_path / "m.pth")["args"].lr == 0.1


def test_allowing_the_namespace_stays_inside_the_reader(tmp_path):
    read_file_path = tmp_path / "m.pth"
    torch.save({"args": argparse.Namespace(lr=0.1)}, read_file_path)
    read_file(read_file_path)

    with pytest.raises(pickle.UnpicklingError):
        torch.load(read_file_path, weights_only=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["m.pth", "legacy.pth", "m.safetensors"])
def test_a_truncated_file_is_damaged(name, share, tmp_path):
    path, content = tmp_path / name, {"w": torch.arange(1000.0)}
    if name == "m.safetensors":
        save_weights(path, content, {})
    else:
        torch.save(content, path, _use_new_zipfile_serialization=name == "m.pth")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])

    with pytest.raises(ValueError, match=rf"{name}: (damaged|neither|refused)"):
        read_file(path)


def write(path, content):
    """A safetensors file, or one of torch's: its archive, or its older format."""
    if path.suffix == ".safetensors":
        save_weights(path, content, {})
    else:
        torch.save(content, path, _use_new_zipfile_serialization=path.stem != "legacy")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors"])
def test_flipped_header_bytes_never_pass_as_another_content(name, tmp_path):
    path, content = tmp_path / name, {"w": torch.arange(1000.0)}
    whole, refused = write(path, content), 0
    for place in range(0, 98, 7):  # no values yet: safetensors has no checksum of them
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            found = read_file(path)
        except ValueError as error:
            refused += 1
            assert name in str(error)
        else:
            assert found.keys() == {"w"} and torch.equal(found["w"], content["w"])
    assert refused


def test_a_flipped_bit_of_a_value_is_found_by_the_checksum(tmp_path):
    values = torch.arange(1000.0)
    whole = write(tmp_path / "m.pth", {"w": values})
    place = whole.index(values.numpy().tobytes()) + 2001
    (tmp_path / "m.pth").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])

    with pytest.raises(ValueError, match=r"m\.pth: damaged .*checksum mismatch in m/data/0"):
        read_file(tmp_path / "m.pth")
    assert read_file(tmp_path / "m.pth", values=False)["w"].shape == (1000,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("values", [True, False])
@pytest.mark.parametrize("name", ["m.pth", "legacy.pth", "m.safetensors"])
def test_whatever_is_damaged_is_named(name, values, tmp_path):
    path, draw = tmp_path / name, random.Random(0)
    whole = write(path, {f"layer.{i}.weight": torch.full((2, i + 1), float(i)) for i in range(4)})
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.choice([1, 1, 4, 32])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        with contextlib.suppress(ValueError):  # anything else ends the test
            read_file(path, values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither a safetensors nor a PyTorch file"),
        (b"<!DOCTYPE html><html>Sign in</html>", "neither a safetensors nor a PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "neither"),
        (b"PK\x03\x04 and no archive", "damaged"),
        (b"\x80\x02}q\x00.", None),
    ],
)
def test_foreign_files_are_distinguished(content, message, tmp_path):
    (tmp_path / "f.bin").write_bytes(content)
    if message is None:
        message = "damaged|refused"

    with pytest.raises(ValueError, match=message):
        read_file(tmp_path / "f.bin")


@pytest.mark.parametrize("size", range(1, 60))
def test_any_length_of_header_is_a_safetensors_file(size, tmp_path):
    save_weights(tmp_path / "w.safetensors", {"w" * size: torch.ones(1)}, {"note": "x" * size})  # 0x80, 0x50 4B, ...

    assert read_weights(tmp_path / "w.safetensors") == {"w" * size: torch.ones(1)}


def test_a_zip_of_something_else_is_no_weights_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")

    with pytest.raises(ValueError, match=r"f\.pth: damaged or no PyTorch file"):
        read_file(tmp_path / "f.pth")


def test_a_bare_tensor_is_no_mapping(tmp_path):
    torch.save(torch.ones(3), tmp_path / "t.pt")

    with pytest.raises(ValueError, match="holds a Tensor, expected a mapping"):
        read_file(tmp_path / "t.pt")


def test_where_tensors_alone_are_wanted_other_values_are_named(tmp_path):
    write_released(tmp_path / "m.pth", "mar")

    with pytest.raises(ValueError, match="expected tensors alone, found also model, model_ema"):
        read_weights(tmp_path / "m.pth")


def test_the_content_decides_the_kind_of_a_file(tmp_path):
    save_weights(tmp_path / "misnamed.pth", {"w": torch.ones(2)}, {})
    torch.save({"w": torch.ones(2)}, tmp_path / "misnamed.safetensors")

    assert read_weights(tmp_path / "misnamed.pth")["w"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="under the name of a safetensors file; rename it"):
        read_weights(tmp_path / "misnamed.safetensors")


def test_whole_numbers_are_no_weights():
    with pytest.raises(ValueError, match=r"weight: torch\.int64, expected torch\.float32"):
        load_module(nn.Linear(2, 2), {"weight": torch.ones(2, 2, dtype=torch.long), "bias": torch.ones(2)})


def test_a_module_on_the_meta_device_becomes_real():
    with torch.device("meta"):
        module = nn.BatchNorm1d(2)
    weights = {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in nn.BatchNorm1d(2).state_dict().items()}
    weights["num_batches_tracked"] = torch.tensor(3, dtype=torch.int32)

    load_module(module, weights)

    assert module.weight.tolist() == [0, 0] and module.weight.requires_grad
    assert module.num_batches_tracked.dtype == torch.int64


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    (tmp_path / "w").write_text("old")

    with pytest.raises(RuntimeError), replaced(tmp_path / "w") as temporary:
        Path(temporary).write_text("half")
        raise RuntimeError

    assert [path.name for path in tmp_path.iterdir()] == ["w"] and (tmp_path / "w").read_text() == "old"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("sparse", torch.eye(3).to_sparse()),
        ("sparse", torch.eye(3).to_sparse_csr()),
        ("meta", torch.ones(3, device="meta")),
        ("quantized", torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
    ],
)
@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"model": state}], ids=["bare", "within"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_tensor_without_an_array_of_values_is_refused_by_name(tmp_path, kind, value, wrap):
    torch.save(wrap({"a": torch.ones(2), "b": value}), tmp_path / "w.pth")

    with pytest.raises(ValueError, match=rf"w\.pth: .*b is a {kind} tensor; save it"):
        read_file(tmp_path / "w.pth")


@pytest.mark.parametrize("said", ["[]", "{", "[" * 100_000], ids=range(3))
def test_damaged_metadata_are_named_with_their_file(tmp_path, said):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"mixar": said})

    with pytest.raises(ValueError, match=r"a\.safetensors: damaged .*; copy or make it again"):
        read_metadata(tmp_path / "a.safetensors")


@pytest.mark.parametrize("damage", ["missing", "truncated", "surplus", "shape", "nan"])
def test_weights_that_do_not_fit_are_refused_with_the_reason(tmp_path, damage):
    path, layer = tmp_path / "w.safetensors", torch.nn.Linear(2, 3)
    tensors = dict(layer.state_dict())
    if damage == "surplus":
        tensors["more"] = torch.zeros(1)
    if damage == "shape":
        tensors["bias"] = torch.zeros(4)
    if damage == "nan":
        tensors["weight"] = torch.full((3, 2), float("nan"))
    if damage != "missing":
        save_file(tensors, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-5])
    reasons = {
        "missing": "no such weights file",
        "truncated": "damaged",
        "surplus": "surplus: more",
        "shape": r"bias: shape \[4\], expected \[3\]",
        "nan": "not finite",
    }
    with pytest.raises(ValueError, match=reasons[damage]):
        load_module(torch.nn.Linear(2, 3), path)
