"""The comparison of two arms: both run equally often, in turn, and what differs is refused."""

import importlib.util
import sys

import pandas as pd
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

    interleaved.write(tmp_path / "rows.parquet", [row], cpu)
    (found,) = pd.read_parquet(tmp_path / "rows.parquet").to_dict("records")
    assert row.items() <= found.items() and found["device"] and list(tmp_path.iterdir()) == [tmp_path / "rows.parquet"]
    assert "toy" in interleaved.show(row)


def test_results_that_differ_by_more_than_rounding_are_refused(interleaved):
    expected = torch.tensor([1.0, 10.0])

    assert interleaved.near(expected + 1e-5, expected, 1e-5, "samples") < 1e-5
    with pytest.raises(ValueError, match=r"samples: differs by 0\.1 of its largest value"):
        interleaved.near(expected + torch.tensor([0.0, 1.0]), expected, 1e-5, "samples")
    with pytest.raises(ValueError, match="differs by nan"):
        interleaved.near(expected * torch.nan, expected, 1e-5, "samples")


def test_the_page_shows_ratios_shares_and_how_quiet_the_machine_was(interleaved, root, tmp_path):
    spec = importlib.util.spec_from_file_location("page", root / "benchmarks" / "speed" / "page.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.page(tmp_path) == page.NOTHING
    a = torch.ones(64, 64)
    case = interleaved.Case("a product", lambda: a @ a, lambda: a @ a, items=64)
    row = interleaved.compare(case, rounds=2, device=torch.device("cpu"))
    row |= {"ratio_wall_min": 1.256, "quiet_rounds": 1, "ours_gflop": 0.0, "load_average": 0.25}
    slope = {"axis": "width", "what": "sampling", "sizes": [128, 256], "cpu_s": [0.5, 1.75], "slope": 1.807}

    interleaved.write(tmp_path / "against_mar.parquet", [row], torch.device("cpu"))
    interleaved.write(tmp_path / "scaling.parquet", [slope], torch.device("cpu"))
    text = page.page(tmp_path)

    assert text.index("### Against MAR") < text.index("### How cost grows")
    assert "| a product, 64 items |" in text and "**1.26** (" in text and "% / –" in text
    assert (
        "at most 0.2. Rounds that count: 1 or more of 2." in text
        and "| sampling | width        | 1.81       | 128: 0.5, 256: 1.75 |" in text
    )
