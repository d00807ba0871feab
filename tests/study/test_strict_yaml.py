"""YAML texts: a key that occurs twice is refused with both lines, and what YAML allows stays allowed."""

import json

import pytest
import yaml
from dry_runs import snakemake
from snakemake_executor_plugin_submitit.settings import read_site
from snakemake_interface_common.exceptions import WorkflowError
from verbs import mixar

from mixar.stages.parameters import count_all
from mixar.study.errors import SpecError
from mixar.study.load import load_study
from mixar.study.strict_yaml import check_config, load_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "text: key 'a' occurs twice, in lines 1 and 3; keep one"),
        ("runs:\n  mar: {seeds: [0]}\n  other: 1\n  mar: {seeds: [1]}\n", "key 'mar' occurs twice, in lines 2 and 4"),
        ("a: {b: 1, b: 2}\n", "key 'b' occurs twice, in line 1"),
        ("- {a: 1}\n- {a: 1,\n   a: 2}\n", "key 'a' occurs twice, in lines 2 and 3"),
        ("a: 1\n'a': 2\n", "key 'a' occurs twice"),
        ("1: a\n0x1: b\n", "key '0x1' occurs twice"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", "key '<<' occurs twice"),
        ("a: [1", "text: not readable as YAML"),
        ("a: 1\nb: 2024-02-31", "text: line 2: a date, which the jobs' JSON cannot hold; put it in quotes"),
        ("a: !!set {x, y}", "line 1: !!set, which the jobs' JSON cannot hold; use lists"),
        ("a: !!binary aGk=", "line 1: !!binary, which"),
        ("a: !!omap [x: 1]", "line 1: !!omap, which"),
        ("a: &a [1, *a]", "line 1: a list or section that contains itself"),
        ("a: &a\n  b: {c: *a}", "line 2: a list or section that contains itself"),
        ("a: 1\nepochs: 017", "line 2: YAML reads 017 as the number 15; write it without leading zeros"),
        ("a: -00", "reads -00 as the number 0"),
        ("a: 1:30", "line 1: YAML reads 1:30 as the number 90"),
        ("a: 1:30.5", "line 1: YAML reads 1:30.5 as the number 90.5"),
        ("a: {017: 1}", "line 1: YAML reads 017 as the number 15"),
    ],
)
def test_a_key_that_occurs_twice_and_a_broken_text_are_refused(text, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace("[", r"\[")):
        load_yaml(text, "text")


@pytest.mark.parametrize(
    "text",
    [
        "a: {c: 1}\nb: {c: 2}\n",
        "x: &x {a: 1}\ny: &y {<<: *x, a: 2}\nz: {<<: [*x, *y], a: 3}\n",
        "1: a\n'1': b\n",
        "",
        "a: [0, -1, 1_000, 0x10, 0b11, 0.5, 00.5, 1.0e-4, .inf]\nb: ['017', '1:30', '2024-02-01', 08]",
        "a: &a [1]\nb: [*a, *a]\n",
    ],
)
def test_what_yaml_allows_reads_as_before(text):
    assert load_yaml(text, "text") == yaml.safe_load(text)


def test_json_may_be_indented_with_tabs_and_has_no_key_twice_either(tmp_path):
    file = tmp_path / "study.json"
    file.write_text('{\n\t"a": {"b":\t"c\\td"},\n\t"e": [1.5, true, null]\n}')
    assert read_yaml(file) == {"a": {"b": "c\td"}, "e": [1.5, True, None]}

    file.write_text('{\n\t"a": 1,\n\t"a": 2\n}')
    with pytest.raises(ValueError, match="key 'a' occurs twice, in lines 2 and 3"):
        read_yaml(file)


@pytest.mark.parametrize("name", ["study.json", "study.JSON", "study.yaml"])
def test_what_is_json_reads_as_json_whatever_its_name(tmp_path, name):
    file = tmp_path / name
    text = r'{"smile": "\ud83d\ude00", "path": "a\/b", "rate": 1e-7, "octal": "017", "list": [1E3, -0.0, "yes"]}'
    file.write_text(text.replace(" ", "\t"))

    assert read_yaml(file) == json.loads(text) and type(read_yaml(file)["rate"]) is float


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,}', "study.json: not readable as JSON: "),
        ('{"a": 01}', "study.json: not readable as JSON: Expecting .* line 1 column 8"),
        ('{"a": NaN}', "study.json: not readable as JSON: NaN is not valid JSON; give a finite number"),
        ('{"a": -Infinity}', "-Infinity is not valid JSON"),
        ("[" * 100_000, "study.json: not readable as JSON: "),
        ('{"b": [{"a": 1,\n"\\u0061": 2}]}', "study.json: key 'a' occurs twice, in lines 1 and 2"),
        ('{"b\x7f": {"a": 1, "a": 2}}', "study.json: "),
    ],
)
def test_broken_json_is_refused_with_its_file(tmp_path, text, said):
    file = tmp_path / "study.json"
    file.write_text(text)

    with pytest.raises(ValueError, match=said):
        read_yaml(file)


def test_a_text_in_another_encoding_is_named(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_bytes("title: Größe".encode("latin-1"))

    with pytest.raises(ValueError, match=r"study\.yaml: expected text in UTF-8, .*; save it as UTF-8"):
        read_yaml(file)

    file.write_bytes("title: Größe".encode("utf-8-sig"))
    assert read_yaml(file) == {"title": "Größe"}


def test_studies_site_files_and_the_literature_are_read_strictly(tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text("title: a\ntitle: b\n")

    with pytest.raises(SpecError, match=r"file\.yaml: key 'title' occurs twice, in lines 1 and 2; keep one"):
        load_study(file)
    with pytest.raises(ValueError, match=r"file\.yaml: key 'title' occurs twice"):
        count_all(file)
    file.write_text("partition: a\nqos: x\npartition: b\n")
    with pytest.raises(WorkflowError, match=r"file\.yaml: key 'partition' occurs twice, in lines 1 and 3; keep one"):
        read_site(file)


def test_no_committed_yaml_file_has_a_key_twice(root):
    folders = ("config", "mixar", "workflow", ".github")
    files = [path for folder in folders for path in sorted((root / folder).rglob("*.yaml"))]
    assert {"smoke.yaml", "literature.yaml", "site.yaml"} <= {path.name for path in files}

    for path in files:
        read_yaml(path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--set", "options={a: 1, a: 2}"], "--set options={a: 1, a: 2}: key 'a' occurs twice"),
        (["--set", "width=1", "--set", "width=2"], "--set width: given twice; keep one"),
    ],
)
def test_a_set_text_with_a_key_twice_is_refused(settings, said):
    result = mixar("convert", "mar", "a.pth", "b.safetensors", *settings)

    assert result.returncode == 2
    assert said in result.stderr


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (["title=a", "title=b"], "--config title: given twice; keep one"),
        (["training={epochs: 1, epochs: 5}"], "--config training: key 'epochs' occurs twice, in line 1"),
        (["training='{a: {b: 1, b: 2}}'"], "--config training: key 'b' occurs twice"),
        (["title=a: b: c", "hardware={results: /x}", "replace=true", "study=017", "empty="], None),
    ],
)
def test_config_entries_have_no_key_twice(entries, said):
    if said is None:
        check_config(entries)
        return
    with pytest.raises(ValueError, match=said):
        check_config(entries)


def test_snakemake_refuses_a_key_twice_in_config(root):
    config = ["--config", "training={epochs: 1, epochs: 5}"]

    found = snakemake(root, "-n", "--configfile", "config/smoke.yaml", *config)

    assert found.returncode != 0 and "Traceback" not in found.stdout + found.stderr
    assert "--config training: key 'epochs' occurs twice" in found.stdout + found.stderr


@pytest.mark.parametrize("place", ["study", "overlay"])
def test_snakemake_refuses_a_key_twice_in_any_of_its_files(root, tmp_path, place):
    study, overlay = tmp_path / "study.yaml", tmp_path / "overlay.yaml"
    study.write_text((root / "config" / "smoke.yaml").read_text())
    overlay.write_text("training: {epochs: 1}\n")
    file = {"study": study, "overlay": overlay}[place]
    file.write_text(f"{file.read_text()}\ntraining: {{epochs: 3, batch_size: 8, learning_rate: 0.1}}\n")

    found = snakemake(root, "-n", "--configfile", study, overlay)

    assert found.returncode != 0
    assert f"{file}: key 'training' occurs twice, in lines " in found.stdout + found.stderr
    assert "Traceback" not in found.stdout + found.stderr
