"""User-defined metrics: what `check` refuses, which names are reserved, and the page's example."""

import re

import pytest
import torch
import yaml

from mixar.scoring.catalogue import METRICS
from mixar.scoring.values import metrics_of, value_of
from mixar.stages.check import problems
from mixar.study.choices import check_metric
from mixar.study.load import parse_study
from mixar.study.sections import Scoring


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no_such_module:f", "scoring.metrics 'no_such_module:f': No module named"),
        ("toy_metrics:shift", "toy_metrics has no shift"),
        ("toy_metrics:__doc__", "expected 'module:function', found a str"),
    ],
)
def test_check_refuses_a_function_that_cannot_be_loaded(smoke, where, message):
    smoke["scoring"]["metrics"] = ["fd", where]

    assert [message in found for found in problems(parse_study(smoke))] == [True]


def test_no_metric_of_ours_can_be_replaced():
    for name in METRICS:
        with pytest.raises(ValueError, match=f"result rows already use the name '{name}'"):
            check_metric(f"my_metrics:{name}")


def test_the_pages_example_is_a_metric(smoke, tmp_path, root, monkeypatch):
    text = (root / "docs" / "how-to" / "metric.md").read_text()
    code, lines = re.search(r"```python\n(# my_metric\.py.*?)```\n\n```yaml\n(.*?)```", text, re.DOTALL).groups()
    (tmp_path / "my_metric.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    smoke["scoring"] |= yaml.safe_load(lines)["scoring"]
    study = parse_study(smoke)

    assert not problems(study)
    one, two = (type("Features", (), {"features": torch.full((3, 4), value)}) for value in (0.0, 1.0))
    assert value_of(metrics_of(study.scoring)[-1], one, two, study.scoring) == 2.0
    assert Scoring.model_validate(study.scoring.model_dump()) == study.scoring
