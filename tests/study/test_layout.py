"""Where a study's files are."""

from pathlib import Path

from mixar.study.layout import Layout
from mixar.study.load import parse_study


def test_every_file_of_a_study_has_a_path_of_its_own(smoke):
    study = parse_study(smoke)
    layout = Layout(study, "elsewhere")
    runs = [(n, s) for n, r in study.runs.items() for s in r.seeds]

    paths = [layout.manifest, layout.generator, layout.statistics, layout.study_file, layout.extractor()]
    paths += [layout.tokenizer(kind) for kind in ("continuous", "discrete")]
    paths += [f(i) for f in (layout.token_shard, layout.generated_shard) for i in range(2)]
    paths += [f(n, s) for f in (layout.weights, layout.losses) for n, s in runs]
    images = [layout.samples(n, s, "default", 0) for n, s in runs] + [layout.reconstruction("discrete", 0)]
    paths += images + [layout.features(path) for path in images]
    paths += [layout.scores("sample", n, s, "default") for n, s in runs] + [layout.measures(n) for n in study.runs]

    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to("elsewhere/smoke") for path in paths)


def test_results_are_where_the_study_says(smoke, monkeypatch):
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    smoke["hardware"]["results"] = "$SCRATCH/results"

    assert Layout(parse_study(smoke)).root == Path("/scratch/me/results/smoke")
