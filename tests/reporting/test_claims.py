"""Claims: held, did not hold or undecided, by one rule."""

import math

import pandas as pd
import pytest
from toy_rows import FD, all_rows, reported_study, score_rows

from mixar.reporting.claims import RULE, claims_markdown, claims_of, combined, differences, verdict
from mixar.reporting.results import SCHEMA
from mixar.reporting.summary import Summary, summarise


def side(*values: float, half: float | None = 1.0, replicates: tuple[float, ...] = ()) -> Summary:
    return Summary(values=dict(enumerate(values)), half_width=half, replicates=replicates)


def claims(fd: dict = FD, **changes) -> dict:
    study = reported_study(**changes)
    rows = pd.DataFrame(all_rows(study, fd), columns=SCHEMA.names)
    return {claim.title: claim for claim in claims_of(study, rows)}


def test_a_difference_beyond_interval_and_seeds_decides_by_its_sign():
    assert verdict(side(10, 11), side(20, 21)) == "held"
    assert verdict(side(20, 21), side(10, 11)) == "did not hold"


def test_a_difference_inside_the_interval_is_undecided():
    assert verdict(side(10, 11, half=8), side(20, 21, half=8)) == "undecided"


def test_seeds_that_disagree_leave_it_undecided():
    assert verdict(side(10, 30, half=0.1), side(20, 21, half=0.1)) == "undecided"


def test_one_seed_without_an_interval_decides_nothing():
    assert verdict(side(10, half=None), side(20, half=None)) == "undecided"
    assert verdict(side(10, 11, half=None), side(20, 21, half=None)) == "held"


def test_nothing_scored_is_undecided():
    assert verdict(Summary(), side(1.0)) == "undecided"


def test_equal_seeds_are_paired_and_others_compared_in_all_pairs():
    assert differences(side(10, 20), side(11, 22)) == [-1, -2]
    assert sorted(differences(side(10), side(11, 22))) == [-12, -1]


def test_the_combined_interval_is_the_root_of_the_squares():
    assert combined(side(1, half=3.0), side(1, half=4.0)) == pytest.approx(5.0)


def test_what_both_sides_share_cancels_in_the_interval():
    shared = (100.0, 130.0, 70.0, 120.0)
    ours, theirs = (side(90.0, half=50.0, replicates=tuple(v * x for v in shared)) for x in (1.0, 1.1))
    apart = side(99.0, half=50.0, replicates=tuple(reversed(shared)))

    assert combined(ours, side(100.0, half=50.0, replicates=tuple(v + 10 for v in shared))) == pytest.approx(
        0, abs=1e-9
    )
    assert combined(ours, theirs) < combined(ours, apart) / 5
    assert combined(ours, side(100.0, half=50.0)) == pytest.approx(math.hypot(50, 50))


def test_the_paired_interval_is_students_t_times_the_jackknifes_standard_error():
    ours, theirs = side(3.0, replicates=(1.0, 2.0, 6.0)), side(1.0, replicates=(1.0, 1.0, 2.0))

    spread = math.sqrt(2 / 3 * sum((x - 5 / 3) ** 2 for x in (0, 1, 4)))
    assert combined(ours, theirs) == pytest.approx(4.302653 * spread, rel=1e-5)


def test_replicates_of_rows_are_averaged_over_seeds():
    study = reported_study()
    rows = [
        row | {"replicates": [1.0 + seed, 3.0]} for seed in (0, 1) for row in score_rows(study, "dc_mix", seed, 9.0)
    ]
    table = pd.DataFrame(rows, columns=SCHEMA.names)

    assert summarise(study, table, "dc_mix", "fd").replicates == (1.5, 3.0)
    table.at[0, "replicates"] = None
    assert summarise(study, table, "dc_mix", "fd").replicates == ()


def test_each_claim_of_the_paper_gets_its_verdict():
    found = claims()

    assert {title: claim.verdict for title, claim in found.items()} == {
        "DC-Mix is better than MAR": "held",
        "MixAR is better than MaskBit's own images": "held",
        "DC-Mix is close to DC-SA at fewer tokens": "undecided",
        "TI-Mix is better than training on": "held",
    }


def test_what_comes_out_is_printed_even_against_the_paper():
    found = claims({**FD, "dc_mix": {0: 300.0, 1: 310.0}})

    assert found["DC-Mix is better than MAR"].line().startswith("DID NOT HOLD")
    assert found["DC-Mix is close to DC-SA at fewer tokens"].verdict == "did not hold"


def test_close_needs_fewer_tokens():
    same = {"report": {"claims": {"baseline": "mar", "guided": "dc_mix", "self_attention": "long"}}}

    assert claims({**FD, "dc_mix": {0: 1.0, 1: 1.0}}, **same)["DC-Mix is close to DC-SA at fewer tokens"].verdict == (
        "did not hold"
    )


def test_a_claim_tells_every_seed_the_difference_the_interval_n_and_kid():
    claim = claims()["DC-Mix is better than MAR"]
    text = claims_markdown([claim])

    for expected in ("161.0, 166.0", "208.0, 219.0", "−50.0", "−53.0 to −47.0", "± 11.3", "n = 72", "KID", RULE):
        assert expected in text, expected


def test_sides_under_different_protocols_are_not_compared():
    study = reported_study()
    rows = score_rows(study, "dc_mix", 0, 1.0) + score_rows(study, "mar", 0, 2.0, protocol="other")

    with pytest.raises(ValueError, match="cannot mix"):
        claims_of(study, pd.DataFrame(rows, columns=SCHEMA.names))


def test_a_claim_without_rows_says_whose():
    study = reported_study()
    rows = pd.DataFrame(score_rows(study, "dc_mix", 0, 1.0), columns=SCHEMA.names)

    assert claims_of(study, rows)[0].line() == "UNDECIDED    DC-Mix is better than MAR: no rows of MAR"


def test_a_study_without_claims_says_so():
    study = reported_study(report={"claims": None, "figure8": None})

    assert "names no runs" in claims_markdown(claims_of(study, pd.DataFrame(all_rows(study), columns=SCHEMA.names)))
