"""Study files: one over another, all problems at once, and files that are no study."""

import copy

import pytest
import yaml
from snakemake.utils import update_config

from mixar.study.errors import SpecError
from mixar.study.load import laid_over, load_study, parse_study


def test_several_files_are_laid_over_each_other_as_snakemake_does(smoke, tmp_path):
    layers = [
        smoke,
        {"title": "B", "runs": {"mar": {"training": {"epochs": 5}}, "dc_sa": {"seeds": [3]}}},
        {"runs": {"mar": {"training": {"epochs": 6}, "ti_mix": None}}, "samplers": {"more": {"cfg": 1.0}}},
    ]
    for number, layer in enumerate(layers):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(layer))
    expected = {}
    for layer in copy.deepcopy(layers):
        update_config(expected, layer)

    found = load_study(*(tmp_path / f"{number}.yaml" for number in range(3)))

    assert found == parse_study(expected)
    assert found.title == "B" and found.training_of("mar").epochs == 6 and found.runs["dc_sa"].seeds == (3,)
    assert laid_over({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}} and laid_over({"a": {"b": 2}}, {"a": 1}) == {"a": 1}


def test_every_problem_of_form_is_listed_at_once(smoke):
    smoke["data"]["image_size"] = -1
    smoke["training"]["epochs"] = "many"

    with pytest.raises(SpecError) as caught:
        parse_study(smoke)

    assert "data.image_size" in str(caught.value)
    assert "training.epochs" in str(caught.value)


def test_files_that_are_no_study_are_named(tmp_path):
    with pytest.raises(SpecError, match="no such study file"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(SpecError, match="not readable as YAML"):
        load_study(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(SpecError, match="expected a mapping"):
        load_study(tmp_path / "list.yaml")
