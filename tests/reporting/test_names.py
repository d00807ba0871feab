"""How runs and tokenizers are printed."""

import pytest
from toy_rows import reported_study

from mixar.assets.table import ASSETS
from mixar.reporting import names


@pytest.mark.parametrize(
    ("run", "printed"),
    [
        ("dc_mix", "DC-Mix"),
        ("maskbit", "MaskBit's own images"),
        ("discrete", "4-bit MaskBit tokenizer"),
        ("continuous", "VAE f8d32"),
    ],
)
def test_runs_and_rows_of_no_run_have_a_name(run, printed):
    assert names.label_of(reported_study(), run) == printed


def test_an_unknown_run_raises_a_key_error():
    with pytest.raises(KeyError):
        names.label_of(reported_study(), "nobody")


@pytest.mark.parametrize(
    ("weights", "printed"),
    [
        ("asset:kl16", "KL-16"),
        ("folder/" + ASSETS["vavae-f16d32"].file_name, "VA-VAE f16d32"),
        ("mine.pt", "VAE f8d32"),
    ],
)
def test_released_weights_give_a_tokenizer_their_name(weights, printed):
    section = reported_study().continuous.model_copy(update={"weights": weights})

    assert names.tokenizer(section) == printed


def test_a_tokenizer_of_the_studys_own_goes_by_its_class():
    section = reported_study().discrete.model_copy(update={"network": "somewhere:Patches"})

    assert names.tokenizer(section) == names.family(section) == "Patches"
    assert (names.of("Patches"), names.of("MaskBit")) == ("Patches'", "MaskBit's")


@pytest.mark.parametrize(
    ("network", "printed"),
    [("vavae", "VAE"), ("maskbit", "MaskBit"), ("my_tokens:Patches", "Patches"), ("another_row", "another_row")],
)
def test_a_tokenizers_family_is_its_architecture_its_class_or_its_row(network, printed):
    section = reported_study().continuous.model_copy(update={"network": network})

    assert names.family(section) == printed
