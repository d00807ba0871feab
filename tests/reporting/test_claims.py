"""Claims: held, did not hold or undecided, by one rule."""

import pytest
from toy_rows import FD, all_rows, reported_study, score_rows, summary_of

from mixar.reporting.claims import (
    RULE,
    claims_markdown,
    claims_of,
    compared_runs,
    inequality,
)

# As many seeds as a verdict needs.
FD3 = {
    "mar": {0: 208.0, 1: 219.0, 2: 212.0},
    "dc_mix": {0: 161.0, 1: 166.0, 2: 162.0},
    "dc_sa": {0: 158.0, 1: 159.0, 2: 157.0},
    "dc_ca": {0: 171.0, 1: 172.0, 2: 170.0},
    "long": {0: 150.0, 1: 155.0, 2: 152.0},
    "timix": {0: 131.0, 1: 138.0, 2: 134.0},
    "maskbit": {0: 190.0},
}


def claims(fd: dict = FD3, seeds=(0, 1, 2), **changes) -> dict:
    study = reported_study(seeds=seeds, **changes)
    return {claim.title: claim for claim in claims_of(summary_of(study, all_rows(study, fd)))}


def test_replicates_of_rows_are_averaged_over_seeds():
    study = reported_study()
    rows = [
        row | {"replicates": [1.0 + seed, 3.0]} for seed in (0, 1) for row in score_rows(study, "dc_mix", seed, 9.0)
    ]

    assert summary_of(study, rows).of("dc_mix", "fd").replicates == (1.5, 3.0)
    rows[0]["replicates"] = None
    assert summary_of(study, rows).of("dc_mix", "fd").replicates == ()


def test_each_claim_of_the_paper_gets_its_verdict():
    found = claims()

    assert {title: claim.verdict for title, claim in found.items()} == {
        "DC-Mix is better than MAR": "held",
        "DC-Mix, continued with TI-Mix is better than MaskBit's own images": "held",
        "DC-Mix is close to DC-SA at fewer tokens": "undecided",
        "Continued training is better with TI-Mix": "held",
    }


def test_claims_from_too_few_seeds_are_undecided_and_say_why():
    found = claims(FD, seeds=(0, 1))

    assert {claim.verdict for claim in found.values()} == {"undecided"}
    for claim in found.values():
        assert "fewer than 3 training seeds per arm: at least" in claim.summary and "at least" in claim.line()


def test_a_claim_names_the_runs_that_the_study_compares():
    runs = {"mar": {"label": "Released MAR", "model": "s", "seeds": [0, 1, 2]}}

    assert "DC-Mix is better than Released MAR" in claims(runs=runs)


def test_the_outcome_is_printed_even_if_it_contradicts_the_paper():
    found = claims({**FD3, "dc_mix": {0: 300.0, 1: 310.0, 2: 305.0}})

    assert found["DC-Mix is better than MAR"].line().startswith("DID NOT HOLD")
    assert found["DC-Mix is close to DC-SA at fewer tokens"].verdict == "did not hold"


def test_close_needs_fewer_tokens():
    same = {"report": {"claims": {"baseline": "mar", "guided": "dc_mix", "self_attention": "mar"}}}

    for fd, seeds in ((FD3, (0, 1, 2)), (FD, (0, 1))):  # the count of tokens has no seeds
        claim = claims({**fd, "dc_mix": dict.fromkeys(seeds, 1.0)}, seeds, **same)
        claim = claim["DC-Mix is close to MAR at fewer tokens"]
        assert claim.verdict == "did not hold" and "seeds per arm" not in claim.summary


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": {"mar": {"label": "MAR", "model": "s", "training": {"epochs": 80}}}}, "40 and 80 epochs"),
        (
            {
                "runs": {"mar": {"label": "MAR", "model": "wide"}},
                "models": {"wide": {"width": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "head_depth": 1,
                                    "head_width": 16}},
            },
            "models s and wide",
        ),
    ],
)  # fmt: skip
def test_unequal_arms_are_not_judged_whatever_the_numbers(changes, words):
    found = claims(**{"runs": {}, **changes})
    claim = found["DC-Mix is better than MAR"]

    assert claim.verdict == "unequal" and f"unequal arms: {words}" in claim.summary
    assert claim.line().startswith("UNEQUAL")
    assert found["Continued training is better with TI-Mix"].verdict == "held"


def test_own_parameters_of_a_strategy_and_images_without_a_training_are_no_inequality():
    study = reported_study()

    assert [inequality(study, *pair) for pair in compared_runs(study)] == [None, None, None]
    assert inequality(study, "timix", "maskbit") is None


def test_a_claim_tells_every_seed_the_difference_the_interval_n_and_kid():
    claim = claims()["DC-Mix is better than MAR"]
    text = claims_markdown([claim])

    for expected in (
        "161.0, 166.0, 162.0",
        "208.0, 219.0, 212.0",
        "−50.0",
        "−53.0 to −47.0",
        "± 11.3",
        "n = 72",
        "KID",
        RULE,
    ):
        assert expected in text, expected


def test_sides_under_different_protocols_are_not_compared():
    study = reported_study()
    rows = score_rows(study, "dc_mix", 0, 1.0) + score_rows(study, "mar", 0, 2.0, protocol="other")

    with pytest.raises(ValueError, match="cannot mix"):
        claims_of(summary_of(study, rows))


def test_a_claim_without_rows_names_the_run():
    study = reported_study()
    summary = summary_of(study, score_rows(study, "dc_mix", 0, 1.0))

    assert claims_of(summary)[0].line() == "UNDECIDED    DC-Mix is better than MAR: no rows of MAR"


def test_a_study_without_claims_says_so():
    study = reported_study(report={"claims": None, "figure8": None})

    assert "names no runs" in claims_markdown(claims_of(summary_of(study, all_rows(study))))
