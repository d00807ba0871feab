"""`extractor` trains a head for the fine classes, and one for the designers where there are several."""

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mixar.scoring.extractors import load_extractor
from mixar.stages.extractor import extractor
from mixar.stages.ingest import ingest
from mixar.study.digests import seed_of
from mixar.study.layout import Layout
from mixar.study.load import parse_study
from mixar.weights import read_metadata, read_weights


@pytest.mark.parametrize(("designers", "rows"), [(["Twitter"], None), (["Mozilla FxEmoji", "Twitter"], 2)])
def test_the_network_has_a_head_for_designers_where_there_are_two(smoke, tmp_path, designers, rows):
    table = pq.read_table("resources/drawings-32.parquet")
    drawn = [designer in designers for designer in table["designer"].to_pylist()]
    table = table.filter(pc.and_(drawn, pc.less(table["label"], 2)))
    pq.write_table(table.take(list(range(0, len(table), 8))), tmp_path / "some.parquet")
    smoke["data"] = {"source": "drawings", "path": str(tmp_path / "some.parquet"), "image_size": 32, "num_classes": 2}
    study = parse_study(smoke | {"hardware": {"device": "cpu", "results": str(tmp_path)}})
    layout = Layout(study)
    ingest(study, layout)

    extractor(study, layout)

    weights = read_weights(layout.extractor())
    found = {key: list(value.shape) for key, value in weights.items() if key.startswith("designer")}
    assert found == ({"designer_head.weight": [rows, 32], "designer_head.bias": [rows]} if rows else {})
    assert read_metadata(layout.extractor())["seed"] == seed_of("extractor", "train")  # whatever the settings
    assert load_extractor(study.scoring.extractor, layout.extractor(), owner="toy").name.startswith("toy-c8-")
