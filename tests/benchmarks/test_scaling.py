"""How cost grows: the slope of a power, and every kind of work at small sizes."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def scaling(request):
    path = request.config.rootpath / "benchmarks" / "speed" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scaling", path)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_the_slope_of_a_power_is_its_exponent(scaling):
    assert scaling.slope((2, 8, 32), [5 * n**1.5 for n in (2, 8, 32)]) == pytest.approx(1.5)


@pytest.mark.parametrize(("axis", "kinds"), [("batch", {"training step", "sampling"}), ("runs", {"load and digests"})])
def test_every_kind_of_work_is_timed_at_every_size(scaling, axis, kinds):
    rows = scaling.grown(axis, (1, 2), repeats=1)

    assert {row["what"] for row in rows} == kinds
    assert all(row["sizes"] == [1, 2] and all(s > 0 for s in row["cpu_s"]) for row in rows)
