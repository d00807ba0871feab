"""The records of metrics and feature networks: every reference in them resolves, and what they derive."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mixar.scoring.catalogue import (
    FURTHER,
    LISTED,
    METRICS,
    NETWORKS,
    Metric,
    Minimum,
    metric_of,
    network_of,
    shortages,
)
from mixar.study import choices

SCORING = SimpleNamespace(jackknife_groups=10, is_splits=5, kid_subset_size=50, neighbours=3)


def test_the_catalogue_imports_neither_torch_nor_anything_of_mixar_beyond_its_folder():
    code = (
        "import sys, mixar.scoring.catalogue; print(*(n for n in sys.modules if n.split('.')[0] in ('mixar', 'torch')))"
    )

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=True)

    assert found.stdout.split() == ["mixar", "mixar.scoring", "mixar.scoring.catalogue"]


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda m: m.name)
def test_every_function_that_a_metric_names_exists(metric):
    for where in (metric.function, metric.jackknife):
        assert where is None or callable(choices.load_function(where, metric.name))


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda m: m.name)
def test_a_metric_names_only_networks_and_metrics_of_the_catalogue(metric):
    assert metric.network in (None, *FURTHER)
    assert metric.checks in (None, *LISTED)
    assert metric.bounds[0] < metric.bounds[1]


def test_a_further_network_brings_metrics_and_each_metric_has_one_way_into_a_study():
    brought = [metric.name for network in NETWORKS.values() for metric in network.metrics]

    assert all(NETWORKS[name].metrics for name in FURTHER)
    assert not set(brought) & set(LISTED)
    others = {name for name, metric in METRICS.items() if metric.checks or not metric.function}
    others |= {name for name, metric in METRICS.items() if metric.source == "reconstruct"}
    assert {*brought, *LISTED} | others == set(METRICS)


def test_given_statistics_are_the_ground_of_what_needs_no_images():
    assert METRICS["fd"].ground == ("statistics", "reference")
    assert METRICS["sfid"].ground == ("statistics_inception-spatial", "reference")
    assert METRICS["kid"].ground == METRICS["precision_vgg"].ground == ("reference",)
    assert METRICS["fd_held_out"].ground == ("reference_held_out",)
    assert METRICS["is"].ground == ()


def test_only_inception_under_a_protocol_of_fid_is_called_fid():
    named = {name for name, network in NETWORKS.items() if "FID" in network.distance_name(is_fid=True)}

    assert named == {"inception-v3", "inception-spatial"}
    assert not any("FID" in network.distance_name(is_fid=False) for network in NETWORKS.values())


def test_a_heading_names_the_distance_in_the_metrics_own_network():
    assert METRICS["fd_infinity"].heading("gFID", is_fid=True) == "gFID∞ ↓"
    assert METRICS["sfid"].heading("gFID", is_fid=True) == "sFID ↓"
    assert METRICS["fd_dinov2"].heading("gFID", is_fid=True) == "FD-DINOv2 ↓"
    assert METRICS["is"].heading("gFID", is_fid=True) == "IS ↑"


def test_a_studys_own_metric_has_a_record_without_any_row_in_the_catalogue():
    found = metric_of("my_module:sharpness")

    assert found == Metric("sharpness", function="my_module:sharpness")
    assert found.is_listed
    assert found.heading("gFID", is_fid=True) == "sharpness"
    assert metric_of("kid") is METRICS["kid"]


def test_a_studys_own_network_brings_its_frechet_distance():
    own = network_of("my_module:Colours")

    (metric,) = own.metrics
    assert (metric.name, metric.network) == ("fd_Colours", "my_module:Colours")
    assert metric_of("fd_Colours", further=["my_module:Colours", "vgg16"]) == metric
    assert own.distance_name(is_fid=True) == "FD-Colours" and not own.needs_images


@pytest.mark.parametrize("metric", [METRICS[name] for name in LISTED], ids=lambda m: m.name)
def test_one_image_fewer_than_the_least_number_is_a_shortage(metric):
    def short(count):
        return any(True for _ in shortages([metric], SCORING, count, count))

    least = next(count for count in range(1, 1000) if not short(count))

    assert least > 1
    assert short(least - 1)
    assert not any(short(count) for count in range(least, least + 50))


def test_an_unknown_number_of_reference_images_is_no_shortage():
    found = list(shortages([METRICS["kid"]], SCORING, 100, 49))

    assert [(minimum.key, count) for _, minimum, count in found] == [("kid_subset_size", 49)]
    assert not list(shortages([METRICS["kid"]], SCORING, 100))


def test_a_minimum_counts_what_its_setting_says_and_what_it_adds():
    minimum = Minimum("neighbours", ("sample",), spare=1)

    assert minimum.needed(SCORING) == 4
    assert replace(minimum, least=2).needed(SCORING) == 3
