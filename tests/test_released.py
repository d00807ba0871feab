"""Released weight files: every kind loads strictly, and each mismatch is named."""

import pytest
import torch
from released_files import SMALL, assert_same, ours, released_content, released_state, write_released

from mixar import released
from mixar.released import KINDS, load, load_released

EVERY_KIND = list(KINDS)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_released_file_loads(kind, tmp_path):
    state = write_released(tmp_path / "released.bin", kind)

    network = load(kind, tmp_path / "released.bin", **SMALL[kind])

    assert not network.training
    assert_same(network.state_dict(), ours(kind, state))


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_mapping_loads_as_its_file(kind):
    state = released_state(kind)

    assert_same(load(kind, state, **SMALL[kind]).state_dict(), ours(kind, state))
    assert_same(load(kind, released_content(kind, state), **SMALL[kind]).state_dict(), ours(kind, state))


WRAPPERS = ("module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module._orig_mod.")


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_file_of_a_wrapped_network_loads(kind, prefix, tmp_path):
    state = released_state(kind)
    wrapped = {prefix + key: value for key, value in state.items()}
    content = {"model_ema": wrapped} if kind == "mar" else wrapped
    torch.save(content, tmp_path / "wrapped.pth")

    network = load(kind, tmp_path / "wrapped.pth", **SMALL[kind])

    assert_same(network.state_dict(), ours(kind, state))


def test_what_does_not_fit_a_wrapped_network_is_listed_by_its_own_name():
    state = {f"module.{key}": value for key, value in released_state("mar").items()}
    state["module.surplus"] = state.pop("module.class_emb.weight")

    with pytest.raises(ValueError, match=r"2 differences\)\n  missing: class_emb.weight\n  surplus: surplus"):
        load("mar", state, **SMALL["mar"])


def test_a_wrapped_file_of_another_kind_is_recognised():
    wrapped = {f"module.{key}": value for key, value in released_state("vavae").items()}

    with pytest.raises(ValueError, match=r"not a mar file: .* it looks like vavae"):
        load("mar", wrapped, **SMALL["mar"])


def test_mar_files_hold_averaged_and_plain_weights(tmp_path):
    state = write_released(tmp_path / "m.pth", "mar")

    averaged = load_released("mar", tmp_path / "m.pth", dims=SMALL["mar"])
    plain = load_released("mar", tmp_path / "m.pth", entry="model", dims=SMALL["mar"])

    assert_same(averaged.network.state_dict(), ours("mar", state))
    assert_same(plain.network.state_dict(), {k: v + 1 for k, v in ours("mar", state).items()})
    assert set(averaged.state.left_out) == {"model", "optimizer", "epoch", "scaler", "args"}


def test_training_parts_of_a_vavae_file_are_left_out_by_name(tmp_path):
    write_released(tmp_path / "v.pt", "vavae")

    left_out = load_released("vavae", tmp_path / "v.pt", dims=SMALL["vavae"]).state.left_out

    assert {"loss.discriminator.main.0.weight", "linear_proj.weight", "foundation_model.model.pos_embed"} < set(
        left_out
    )


def test_the_older_name_of_the_generators_input_is_understood():
    state = released_state("maskbit-generator")
    renamed = {key.replace("input_proj.", "token_emb."): value for key, value in state.items()}

    assert "token_emb.weight" in renamed
    assert_same(load("maskbit-generator", renamed, **SMALL["maskbit-generator"]).state_dict(),
                {k.replace("token_emb.", "input_proj."): v for k, v in state.items()})  # fmt: skip


def test_half_precision_weights_become_float32():
    state = {k: v.half() if v.is_floating_point() else v for k, v in released_state("kl16").items()}

    assert {p.dtype for p in load("kl16", state, **SMALL["kl16"]).parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_missing_surplus_misshapen_and_infinite_tensors_are_listed(kind):
    state = released_state(kind)
    weights = [key for key, value in state.items() if value.is_floating_point() and value.dim() > 1]
    gone, misshapen, infinite = weights[:3]
    del state[gone]
    state[misshapen] = state[misshapen][:1, :1]
    state[infinite] = state[infinite] / 0
    state["surplus.weight"] = torch.ones(1)

    with pytest.raises(ValueError, match=r"4 differences") as caught:
        load(kind, state, **SMALL[kind])

    shown = str(caught.value)
    assert "missing: " + next(iter(ours(kind, {gone: 0}))) in shown
    assert "surplus: surplus.weight" in shown
    assert f"{next(iter(ours(kind, {misshapen: 0})))}: shape " in shown
    assert f"{next(iter(ours(kind, {infinite: 0})))}: holds values that are not finite" in shown


@pytest.mark.parametrize("other", EVERY_KIND)
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_file_of_another_kind_is_refused(kind, other, tmp_path):
    family = {"vavae", "kl16"}
    if kind == other or {kind, other} == family:
        return  # the same names: told apart by what does not fit, below
    write_released(tmp_path / "released.bin", other)

    with pytest.raises(ValueError, match=rf"released\.bin: not a {kind} file: .* is missing; it looks like .*{other}"):
        load(kind, tmp_path / "released.bin", **SMALL[kind])


def test_a_kl16_file_is_no_vavae():
    with pytest.raises(ValueError, match=r"missing: decoder\.up\.1\.attn"):
        load("vavae", released_state("kl16"), **SMALL["vavae"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evil": 1}, "evil: unexpected top-level key next to 'model_ema' in a mar file"),
        ({"model_ema": {**released_state("mar"), "step": 7}}, "step: is a int, expected a tensor"),
        ({"model_ema": 7, "model": 7}, "not a mar file: .* is missing; it holds args, epoch, model"),
    ],
)
def test_foreign_entries_of_a_mar_file_are_refused(change, message):
    content = {**released_content("mar", released_state("mar")), **change}

    with pytest.raises(ValueError, match=message):
        load("mar", {key: content[key] for key in sorted(content)}, **SMALL["mar"])


def test_what_is_no_tensor_is_listed_with_every_other_difference():
    state = released_state("mar")
    del state["mask_token"]
    content = {"model_ema": {**state, "step": 7, "surplus": torch.ones(1)}, "evil": 1}

    with pytest.raises(ValueError, match=r"\(4 differences\)") as caught:
        load("mar", content, **SMALL["mar"])

    for key in ("evil: ", "step: ", "surplus: surplus", "missing: guidance.mask_token"):
        assert f"\n  {key}" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "key", "twin"),
    [("mar", "mask_token", "guidance.mask_token"), ("maskbit-generator", "token_emb.weight", "input_proj.weight")],
)
def test_a_weight_under_two_names_is_refused_in_any_order(kind, key, twin):
    state = released_state(kind)

    for order in ({**state, twin: state[key] + 1}, {twin: state[key] + 1, **state}):
        with pytest.raises(ValueError, match=r"\(1 difference\)\n  .*: a second .*another name"):
            load(kind, order, **SMALL[kind])


def test_every_difference_is_listed_and_blocks_share_a_line():
    dims = {**SMALL["mar"], "encoder_depth": 12}
    state = {f"x{i}": torch.ones(1) for i in range(40)} | released_state("mar", dims=dims)
    gone = [key for key in state if ".mlp.fc1." in key or key == "encoder_blocks.3.norm1.bias"]
    kept = {key: value for key, value in state.items() if key not in gone}

    with pytest.raises(ValueError, match=rf"\({40 + len(gone)} differences\)") as caught:
        load("mar", kept, **dims)

    lines = str(caught.value).splitlines()
    assert "  missing: encoder_blocks.{0,1,2,3,4,5,6,7,8,9,10,11}.mlp.fc1.weight" in lines
    assert "  missing: encoder_blocks.3.norm1.bias" in lines
    assert {f"  surplus: x{i}" for i in range(40)} < set(lines)


def test_an_entry_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="has no entry 'model_ema'; it holds model"):
        load_released("mar", {"model": released_state("mar")}, entry="model_ema")
    with pytest.raises(ValueError, match="entry 'ema': mar files have model_ema or model"):
        load_released("mar", released_state("mar"), entry="ema")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vae", {}), "kind 'vae' is unknown; choose from mar, maskbit-tokenizer"),
        (("mar", {}, None, "mar-xl"), "preset 'mar-xl': unknown for mar; choose from mar-b, mar-l, mar-h"),
        (("mar", {}, None, None, {"depth": 3}), "depth: Extra inputs are not permitted"),
        (("mar", {}, None, None, {"width": 30}), "divisible"),
        (("maskbit-generator", {}, None, None, {"tokens": 3}), "tokens"),
        (("mar", {}, None, None, {"num_tokens": -4}), "num_tokens=-4: expected a whole number from 1"),
        (("mar", {}, None, None, {"num_classes": 0}), "num_classes=0: expected a whole number from 1"),
        (("mar", {}, None, None, {"channels": 1.5}), "channels=1.5: expected a whole number from 1"),
        (("maskbit-generator", {}, None, None, {"bits": "6"}), "bits=6: expected a whole number from 1"),
        (("mar", {}, None, None, {"width": 12 * 10**12}), "mar with .*width=12000000000000, .*: "),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    kind, weights, *rest = arguments
    weights = released_state(kind) if kind in KINDS else weights

    with pytest.raises(ValueError, match=message):
        load_released(kind, weights, *rest)


@pytest.mark.parametrize("kind", ["maskbit-tokenizer", "maskbit-generator"])
def test_another_order_of_bits_is_refused(kind):
    state = released_state(kind)
    key = next(name for name in state if name.endswith("bits_to_indices"))
    state[key] = state[key].flip(0)

    with pytest.raises(ValueError, match="expected powers of two, the lowest bit first"):
        load(kind, state, **SMALL[kind])


def test_another_codebook_is_refused():
    state = released_state("maskbit-tokenizer")
    state["quantize.codebook"] = -state["quantize.codebook"]

    with pytest.raises(ValueError, match=r"quantize\.codebook is not the table of all bits"):
        load("maskbit-tokenizer", state, **SMALL["maskbit-tokenizer"])


def test_the_preset_that_fits_is_found(monkeypatch):
    small = {"small": {**KINDS["mar"].presets["mar-b"], **SMALL["mar"]}}
    monkeypatch.setitem(KINDS["mar"].presets, "small", small["small"])

    loaded = load_released("mar", released_state("mar"))

    assert loaded.preset == "small"
    assert load_released("mar", released_state("mar"), dims={"dropout": 0.0}).preset is None


def test_every_size_that_a_kind_lists_can_be_built():
    for kind, k in KINDS.items():
        for preset, dims in k.presets.items():
            network = released._build(k, kind, dims)
            assert k.signature in network.state_dict(), preset
