"""The demo's scores move the right way: on emoji, in the demo's own network, with the script behind the figure."""

import importlib.util

import pytest

from mixar.study.load import load_study


@pytest.fixture(scope="module")
def rows(request):
    root = request.config.rootpath
    spec = importlib.util.spec_from_file_location("ladders", root / "benchmarks" / "scoring" / "ladders.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.NOISE, script.CLASSES, script.DRAWINGS, script.FLOORS = (0, 32, 128), (9, 3, 2), (1, 4, 20), 3
    return script.ladders(load_study(root / "config" / "demo.yaml"), count=200)


def of(rows, ladder, metric):
    part = rows[(rows["ladder"] == ladder) & (rows["metric"] == metric)]
    return part["value"].tolist()


@pytest.mark.parametrize("ladder", ["noise", "classes", "repeats"])
def test_every_step_down_raises_the_distances_far_above_the_floor(rows, ladder):
    for metric in ("fd", "kid"):
        values = of(rows, ladder, metric)

        assert values == sorted(values)
        assert values[-1] > 5 * max(map(abs, of(rows, "floor", metric)))


def test_noise_lowers_what_fidelity_means_and_repetition_what_coverage_means(rows):
    for metric in ("is", "precision", "recall"):
        assert of(rows, "noise", metric)[-1] < min(of(rows, "floor", metric))

    assert of(rows, "repeats", "recall")[-1] == 0
    assert of(rows, "repeats", "precision")[1] > 0.8  # few drawings, each as good as before
    assert of(rows, "classes", "precision")[-1] > 0.85 and of(rows, "classes", "is")[-1] < min(of(rows, "floor", "is"))


def test_untouched_images_stay_at_the_floor(rows):
    for metric in ("fd", "kid", "is", "precision", "recall"):
        floor = of(rows, "floor", metric)
        width = max(floor) - min(floor)

        assert min(floor) - 2 * width <= of(rows, "noise", metric)[0] <= max(floor) + 2 * width
