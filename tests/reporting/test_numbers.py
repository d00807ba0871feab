"""Numbers in print: digits, spreads, and one minus sign."""

import pytest

from mixar.reporting.numbers import MISSING, fixed, interval, number, si, signed, with_spread
from mixar.reporting.summary import Result


def test_numbers_are_written_for_readers():
    assert [number(v) for v in (2197.4, 213.5, 1.5, 0.5, 0.0121, 0.0)] == ["2,197", "213.5", "1.50", "0.500", "0.0121",
                                                                           "0.00000"]  # fmt: skip
    assert [si(v) for v in (556_999_744, 1.453e12, 12, None)] == ["557 M", "1.45 T", "12", MISSING]


def test_every_negative_number_has_a_true_minus():
    below = Result(values={0: -0.25, 1: -0.75}, low=-1.5, high=-0.00004)

    printed = [fixed(-1234.5, 1), signed(-0.25, 2), number(-0.25), number(-2e-5), with_spread(below), interval(below)]

    assert printed == ["−1,234.5", "−0.25", "−0.250", "−2e−05", "−0.500 ± 0.354", "[−1.50, −4e−05]"]


@pytest.mark.parametrize("value", [0.0, -0.0, -0.001])
def test_a_zero_has_no_minus(value):
    assert fixed(value, 2) == "0.00"


def test_a_difference_keeps_its_direction_when_it_rounds_to_zero():
    assert [signed(v, 1) for v in (-0.01, 0.01, 0.0)] == ["−0.0", "+0.0", "+0.0"]
