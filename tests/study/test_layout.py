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


def test_sheets_are_cut_from_a_few_shards_of_the_first_seed_and_the_headlines_sampler(smoke):
    smoke["evaluation"] |= {"num_images": 100, "shard_size": 10}
    smoke["report"] |= {"grid": [4, 2], "sampler": "quick"}
    smoke["samplers"]["quick"] = smoke["samplers"]["default"]
    smoke["runs"]["mar"] |= {"seeds": [3, 1], "samplers": ["default", "quick"]}
    layout = Layout(parse_study(smoke))

    assert layout.shown_samples("mar") == [layout.samples("mar", 3, "quick", shard) for shard in (0, 3, 6, 9)]
    assert layout.shown_samples("maskbit") == [layout.samples("maskbit", 0, "default", shard) for shard in (0, 3, 6, 9)]
    first = layout.study.networks["dc_mix"].samplers[0]
    assert {path.parent.name for path in layout.shown_samples("dc_mix")} == {first}  # it is not drawn with `quick`
