"""`convert`: released files into our layout, and MAR's back."""

import re

import pytest
import torch
from released_files import SMALL, assert_same, ours, released_state, write_released
from toy_models import toy_mar

from mixar.__main__ import app
from mixar.released import KINDS, load
from mixar.stages.convert import convert, to_released
from mixar.weights import read_metadata, read_weights, save_weights

EVERY_KIND = list(KINDS)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_converted_file_holds_the_same_weights_and_where_they_come_from(kind, tmp_path):
    state = write_released(tmp_path / "released.ckpt", kind)

    convert(kind, tmp_path / "released.ckpt", tmp_path / "ours.safetensors", dims=SMALL[kind])

    assert_same(read_weights(tmp_path / "ours.safetensors"), ours(kind, state))
    recorded = read_metadata(tmp_path / "ours.safetensors")
    assert (recorded["kind"], recorded["source"], recorded["preset"]) == (kind, "released.ckpt", None)
    assert recorded["settings"].items() >= {"num_res_blocks": 1}.items() or kind.startswith(("mar", "maskbit-g"))
    assert_same(load(kind, tmp_path / "ours.safetensors", **SMALL[kind]).state_dict(), ours(kind, state))


def test_mar_goes_back_to_its_own_layout(tmp_path):
    state = write_released(tmp_path / "m.pth", "mar")
    convert("mar", tmp_path / "m.pth", tmp_path / "ours.safetensors", dims=SMALL["mar"])

    to_released(tmp_path / "ours.safetensors", tmp_path / "back" / "checkpoint-last.pth", dims=SMALL["mar"])

    content = torch.load(tmp_path / "back" / "checkpoint-last.pth", weights_only=True)
    assert set(content) == {"model", "model_ema"}
    assert_same(content["model_ema"], state)
    assert_same(content["model"], state)


def test_a_guided_network_does_not_go_back(tmp_path):
    save_weights(tmp_path / "dc_mix.safetensors", toy_mar("dc_mix").state_dict(), {})

    with pytest.raises(ValueError, match=r"guided network, .*guidance\.embed\.weight"):
        to_released(tmp_path / "dc_mix.safetensors", tmp_path / "back.pth")


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_nothing_is_written_where_the_source_does_not_fit(kind, tmp_path):
    state = released_state(kind)
    state["surplus"] = torch.ones(1)
    torch.save(state, tmp_path / "bad.bin")

    with pytest.raises(ValueError, match="surplus"):
        convert(kind, tmp_path / "bad.bin", tmp_path / "ours.safetensors", dims=SMALL[kind])
    assert [path.name for path in tmp_path.iterdir()] == ["bad.bin"]


def test_the_command_converts_and_says_what_it_left_out(tmp_path, capsys):
    write_released(tmp_path / "m.pth", "mar")
    sizes = [part for key, value in SMALL["mar"].items() for part in ("--set", f"{key}={value}")]
    target = tmp_path / "ours.safetensors"

    app(["convert", "mar", str(tmp_path / "m.pth"), str(target), *sizes], standalone_mode=False)
    app(["convert", "mar", str(target), str(tmp_path / "back.pth"), "--to-released", *sizes], standalone_mode=False)

    printed = capsys.readouterr().out
    assert re.search(r"ours\.safetensors: mar, sizes of its own, [\d,]+ parameters, from model_ema\n", printed)
    assert "left out: model, optimizer, epoch, scaler, args" in printed
    assert torch.load(tmp_path / "back.pth", weights_only=True)["model"]["mask_token"].shape == (1, 1, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mar", "m.pth", "ours.pt"], r"ours\.pt: the file to write must end in \.safetensors"),
        (["vavae", "m.pth", "ours.pth", "--to-released"], "--to-released: only for mar, found 'vavae'"),
        (["mar", "m.pth", "ours.safetensors", "--to-released"], r"must end in \.pth or \.pt"),
        (["mar", "m.pth", "ours.safetensors", "--set", "width"], "--set width: expected key=value"),
        (["mar", "m.pth", "ours.safetensors", "--set", "width=["], r"--set width=\[: not readable as YAML"),
        (
            ["mar", "m.safetensors", "o.pth", "--to-released", "--entry", "model"],
            "--entry: .* leave it out with --to-released",
        ),
        (["mar", "absent.pth", "ours.safetensors"], r"absent\.pth: no such weights file"),
    ],
)
def test_the_command_refuses_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        app(["convert", *arguments], standalone_mode=False)


def test_an_existing_target_is_replaced_only_on_request(tmp_path):
    write_released(tmp_path / "m.pth", "mar")
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    convert("mar", tmp_path / "m.pth", ours, dims=SMALL["mar"])
    to_released(ours, back, dims=SMALL["mar"])
    before = ours.read_bytes()

    for again in (
        lambda **force: convert("mar", ours, ours, dims=SMALL["mar"], **force),
        lambda **force: to_released(ours, back, dims=SMALL["mar"], **force),
    ):
        with pytest.raises(ValueError, match=r"(ours\.safetensors|back\.pth): exists already; --force replaces it"):
            again()
    assert ours.read_bytes() == before
    convert("mar", tmp_path / "m.pth", ours, entry="model", dims=SMALL["mar"], force=True)
    assert ours.read_bytes() != before
