"""`measure --params`: exact counts of the paper's and the released models."""

import sys

import pytest

from mixar.__main__ import app
from mixar.stages.parameters import count_all

EXPECTED = {
    "MAR-B": (207_924_768, 768),
    "MAR-L": (478_326_304, 1024),
    "MAR-H": (942_403_104, 1280),
    "MixAR-B": (207_986_240, 768),
    "MixAR-B, DC-Mix": (207_986_240 - 768 + 11_520, 14 * 768 + 768),
    "MixAR-B, DC-SA": (220_765_760, 16_384 * 768 + 256 * 768 + 768),
    "MixAR-B, DC-CA": (277_192_256, 16_384 * 768 + 768),
    "MixAR-L, DC-Mix": (556_998_720 + 15_360, 14 * 1024 + 1024),
    "MixAR-L, DC-SA": (574_039_104, 16_384 * 1024 + 256 * 1024 + 1024),
    "MixAR-L, DC-CA": (707_994_688, 16_384 * 1024 + 1024),
    "MaskBit generator": (304_929_024, None),
    "MaskBit tokenizer": (54_489_489, None),
    "VA-VAE f16d32": (69_836_067, None),
    "KL-16": (66_456_019, None),
}


@pytest.fixture(scope="module")
def counts():
    return {c.model: c for c in count_all()}


def test_counts_are_exact(counts):
    assert {name: (c.total, c.guidance) for name, c in counts.items()} == EXPECTED


def test_the_difference_is_from_the_printed_millions(counts):
    assert counts["MAR-L"].difference == 478_326_304 - 479_000_000
    assert counts["MixAR-L, DC-CA"].difference == 994_688
    assert counts["KL-16"].difference is None
    assert all(abs(c.difference) < 1_000_000 and c.why for c in counts.values() if c.printed)


def test_the_command_prints_exact_counts_on_a_narrow_terminal(capsys, monkeypatch, counts):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # no control codes, for they count as characters
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)

    app(["measure", "--params"], standalone_mode=False)

    table, lines = capsys.readouterr().out.split("\n\n")
    for name, (total, own) in EXPECTED.items():
        row = next(line for line in table.splitlines() if line.startswith(f"{name}  "))
        numbers = [f"{n:,}" for n in (total, *(() if own is None else (total - own, own)))]
        assert row.removeprefix(name).split()[: len(numbers)] == numbers
        assert counts[name].why in lines
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("arguments", [[], ["--run", "mar"], ["--params", "--run", "mar"]])
def test_options_that_exclude_each_other_are_refused(arguments):
    with pytest.raises(ValueError, match="--params"):
        app(["measure", *arguments], standalone_mode=False)
