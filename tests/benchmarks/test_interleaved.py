"""The comparison of two arms: both run equally often, in turn, and what differs is refused."""

import importlib.util
import json
import sys

import pytest
import torch


@pytest.fixture(scope="module")
def interleaved(request):
    path = request.config.rootpath / "benchmarks" / "speed" / "interleaved.py"
    spec = importlib.util.spec_from_file_location("interleaved", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "interleaved", module)  # where its dataclass looks for it
        spec.loader.exec_module(module)
    return module


def test_arms_take_turns_after_one_call_of_each_that_counts_flops(interleaved, tmp_path):
    calls, cpu = [], torch.device("cpu")
    a, b = torch.ones(8, 8), torch.ones(8, 16)
    case = interleaved.Case("toy", lambda: calls.append("A") or a @ a, lambda: calls.append("B") or a @ b, items=8)

    row = interleaved.compare(case, rounds=3, device=cpu)

    assert "".join(calls) == "AB" * 4
    assert (row["theirs_gflop"], row["ours_gflop"]) == (2 * 8**3 / 1e9, 4 * 8**3 / 1e9)
    assert row["ratio_wall_min"] == row["theirs_wall_min_s"] / row["ours_wall_min_s"]
    assert row["theirs_wall_min_s"] <= row["theirs_wall_median_s"]

    interleaved.write(tmp_path / "rows.json", [row], cpu)
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["rows"] == [row] and content["device"] and list(tmp_path.iterdir()) == [tmp_path / "rows.json"]
    assert "toy" in interleaved.show(row)


def test_results_that_differ_by_more_than_rounding_are_refused(interleaved):
    expected = torch.tensor([1.0, 10.0])

    assert interleaved.near(expected + 1e-5, expected, 1e-5, "samples") < 1e-5
    with pytest.raises(ValueError, match=r"samples: differs by 0\.1 of its largest value"):
        interleaved.near(expected + torch.tensor([0.0, 1.0]), expected, 1e-5, "samples")
    with pytest.raises(ValueError, match="differs by nan"):
        interleaved.near(expected * torch.nan, expected, 1e-5, "samples")
