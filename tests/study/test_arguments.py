"""Arguments of commands: which runs, seeds, samplers and shards exist, and how others are refused."""

import pytest

from mixar.study.arguments import check_drawn, check_kind, check_run, check_shard
from mixar.study.load import parse_study


@pytest.mark.parametrize(
    ("check", "arguments", "said"),
    [
        (check_run, ("mra", 0), "run 'mra' is unknown; choose from mar, dc_mix@1, dc_mix"),
        (check_run, ("mar", 5), r"run 'mar' has no seed 5; it has \[0\]"),
        (check_drawn, ("mra", 0, "default"), "run 'mra' is unknown; choose from mar, .*, maskbit"),
        (check_drawn, ("mar", 0, "quick"), "sampler 'quick' is unknown; choose from default"),
        (check_shard, (-1,), "shard -1 does not exist; the study has"),
        (check_shard, (99,), "shard 99 does not exist; the study has"),
    ],
)
def test_unknown_names_are_refused_with_those_there_are(smoke, check, arguments, said):
    with pytest.raises(ValueError, match=said):
        check(parse_study(smoke), *arguments)


def test_names_that_exist_pass_and_maskbit_has_any_seed_and_sampler(smoke):
    study = parse_study(smoke)

    check_run(study, "dc_mix@1", 1)
    check_drawn(study, "mar", 0, "default")
    check_drawn(study, "maskbit", 99, "whatever")
    check_shard(study, 0)
    check_kind("discrete")
    with pytest.raises(ValueError, match="kind 'both' is unknown; choose from continuous, discrete"):
        check_kind("both")
