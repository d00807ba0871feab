"""The DAG of every committed study: complete, quick to build, and refused in words where the study is wrong."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from dry_runs import BIN, dry_run, jobs, jobs_with_reasons, snakemake

from mixar.stages.plan import plan
from mixar.study.digests import Digests
from mixar.study.layout import Layout
from mixar.study.load import load_study, parse_study
from mixar.weights import save_weights

STUDIES = {
    "imagenet256": ["config/imagenet256.yaml"],
    "demo": ["config/demo.yaml"],
    "demo_scratch": ["config/demo.yaml", "config/demo-scratch.yaml"],
    "mar_released": ["config/mar-released.yaml"],
    "smoke": ["config/smoke.yaml"],
}


def in_folder(folder):
    """Options that keep a study's results apart."""
    return ["--config", f"hardware={{results: {folder}}}"]


def write_changed(content, change, folder):
    """A study file of `content` with one value changed; change: the keys that lead to it, then the value."""
    *path, key, value = change
    section = content
    for part in path:
        section = section[part]
    section[key] = value
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_jobs_do_not_inherit_a_meeting_point_of_other_processes(tmp_path, root):
    left_over = dict(RANK="0", WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    asked = tmp_path / "asked.smk"
    found = f"assert not {set(left_over)} & set(os.environ)"
    asked.write_text(f"include: '{root}/workflow/Snakefile'\n{found}\n")

    dry_run(root, STUDIES["smoke"], "--snakefile", asked, *in_folder(tmp_path), **left_over)


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_complete_dag(name, root, tmp_path):
    study = load_study(root / STUDIES[name][0])
    trainings = [(name, seed) for name, r in study.networks.items() for seed in r.seeds]
    sampled = sum(len(r.seeds) * len(r.samplers) for r in study.networks.values())

    found = jobs(dry_run(root, STUDIES[name], *in_folder(tmp_path)))

    shards = study.evaluation.num_shards
    assert found["train"] == len(trainings)
    is_training = not all(run.weights for run in study.runs.values())
    assert found.get("tokenize", 0) == study.data.num_shards * is_training
    assert found["generate"] == shards
    assert found["sample"] == sampled * shards
    assert found["sample_maskbit"] == found["features_reference"] == 1  # minutes of work, whatever the shards
    assert found["score"] == sampled + 1  # and MaskBit's own images
    assert found["reconstruct"] == 2  # features are made where images are
    assert found["measure"] == len(study.runs)
    assert {"ingest", "tokenizer_continuous", "tokenizer_discrete", "generator", "extractor", "report"} <= set(found)


@pytest.mark.parametrize("name", STUDIES)
def test_a_plan_has_the_jobs_of_the_dag(root, tmp_path, name, monkeypatch):
    monkeypatch.chdir(root)
    study = load_study(*STUDIES[name])
    planned = Counter()
    for work in plan(study, Layout(study, tmp_path)).work:
        planned[work.stage] += work.jobs

    found = jobs(dry_run(root, STUDIES[name], *in_folder(tmp_path)))

    assert planned == {rule: count for rule, count in found.items() if rule not in ("all", "total")}


# Prints the CPU seconds and the peak memory in KiB of a command, below its output. A process of its own: a child's peak
# starts at its parent's, and a test process that has run for a while is larger than what is measured here.
MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stderr=subprocess.STDOUT).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("measured", code, used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def test_the_papers_dag_is_built_in_ten_seconds_without_data_or_weights(root, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, BIN / "snakemake", "-n", "--configfile", "config/imagenet256.yaml"],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"MIXAR_ASSETS": str(tmp_path / "empty")},
    )
    output, _, measured = done.stdout.rpartition("measured ")
    code, cpu_seconds, peak_kib = map(float, measured.split())

    assert code == 0, output
    # processor seconds: a busy machine must not fail this test
    assert cpu_seconds < 10
    assert peak_kib < 2**20, "more than 1 GiB"
    assert re.search(r"^imagenet256: [\d,]+ GPU-hours on .*mixar plan$", output.partition("rule ")[0], re.M)
    assert len(output.splitlines()) < 40  # one screen, with what is missing at its end
    for name in ("imagenet/train", "latents_stats.pt", "maskbit_tokenizer_14bit.bin", "adm_in256_stats.npz"):
        assert str(tmp_path / "empty" / name) in output.split("total")[1]


def test_a_training_that_exceeds_its_card_is_refused_in_one_message(root, tmp_path):
    """Before any job, and in a dry run: the message names run, need, card and what would fit."""
    (tmp_path / "hardware.yaml").write_text("hardware: {card: a100-40gb}\n")

    result = snakemake(root, "-n", "--configfile", *STUDIES["imagenet256"], tmp_path / "hardware.yaml")

    said = result.stdout + result.stderr
    assert result.returncode != 0 and "Traceback" not in said
    assert re.search(
        r"hardware: dc_mix_l: .* needs about \d+\.\d GiB, and a100-40gb has 38.5; use .*micro_batch 32", said
    )
    assert said.count("dc_mix_l: a training step") == 1 and "rule " not in said


def test_a_dry_run_writes_nothing(root, tmp_path):
    dry_run(root, STUDIES["smoke"], *in_folder(tmp_path / "results"))

    assert not (tmp_path / "results").exists()


def test_the_report_reads_the_scores_of_brought_images(root, tmp_path):
    brought = tmp_path / "smoke" / "score" / "own" / "own_mine" / "scores.parquet"
    brought.parent.mkdir(parents=True)
    brought.touch()

    output = snakemake(root, "-n", "-p", "--configfile", *STUDIES["smoke"], *in_folder(tmp_path))

    inputs = next(line for line in output.stdout.split("rule report:")[1].splitlines() if "input:" in line)
    assert str(brought) in inputs


@pytest.fixture
def copied(smoke, tmp_path):
    """A results folder with a trained network, and a copy of its study that trains longer under the same name."""
    smoke["hardware"]["results"] = str(tmp_path)
    layout = Layout(parse_study(smoke))
    layout.weights("mar", 0).parent.mkdir(parents=True)
    layout.weights("mar", 0).write_text("trained for hours")
    layout.study_file.write_text(layout.study.model_dump_json(indent=2), encoding="utf-8")
    return write_changed(smoke, ("training", "epochs", 7), tmp_path), layout


def test_a_copied_study_does_not_replace_the_networks_of_another_one(root, copied):
    file, layout = copied
    before = layout.study_file.read_text(encoding="utf-8")

    result = snakemake(root, "--cores", 1, "--configfile", file)

    said = result.stdout + result.stderr
    assert result.returncode != 0 and "Traceback" not in said
    assert "run mar seed 0" in said and "training.epochs: 2 in the folder, 7 here" in said
    assert "`study:`" in said and "--config replace=true" in said
    assert layout.weights("mar", 0).read_text() == "trained for hours"
    assert layout.study_file.read_text(encoding="utf-8") == before
    assert not layout.log("ingest").exists()


@pytest.mark.workflow
def test_a_dry_run_says_what_a_copied_study_would_replace_and_yes_can_be_said(root, copied):
    file, layout = copied

    asked = snakemake(root, "-n", "--configfile", file)
    agreed = snakemake(root, "--cores", 1, "--configfile", file, "--until", "ingest", "--config", "replace=true")

    assert asked.returncode == 0
    assert "training.epochs: 2 in the folder, 7 here" in asked.stdout.split("total")[1]
    assert agreed.returncode == 0, agreed.stderr
    assert layout.manifest.exists()
    assert '"epochs": 7' in layout.study_file.read_text(encoding="utf-8")


@pytest.fixture
def made(smoke, tmp_path, root):
    """A study of one run all of whose files are there, empty and equally old."""
    smoke["hardware"]["results"] = str(tmp_path / "results")
    smoke |= {"runs": {"mar": smoke["runs"]["mar"]}, "report": {}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(smoke))
    listed = snakemake(root, "--summary", "--configfile", file)
    assert listed.returncode == 0, listed.stderr
    outputs = [Path(line.split("\t")[0]) for line in listed.stdout.splitlines()[1:]]
    now = time.time()
    layout = Layout(parse_study(smoke))
    for path in outputs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if path == layout.weights("mar", 0):
            save_digest(layout, "mar")
        os.utime(path, (now, now))
    return file, layout


def save_digest(layout, name):
    """Weights without a tensor that say which settings made them."""
    save_weights(layout.weights(name, 0), {}, {"digest": Digests(layout.study).train(name, 0)})


def test_a_deleted_row_is_made_again_and_nothing_that_is_there(root, made):
    file, layout = made
    assert "Everything is up to date" in snakemake(root, "-n", "--configfile", file).stdout

    for lost, expected in (
        (layout.scores("sample", "mar", 0, "default"), {"score": 1}),
        (layout.scores("reconstruct", "discrete"), {"score_reconstruction": 1}),
        (layout.measures("mar"), {"measure": 1}),
    ):
        lost.unlink()
        planned = jobs_with_reasons(snakemake(root, "-n", "--configfile", file).stdout)
        assert planned == {**expected, "report": 1, "all": 1}
        lost.touch()
        shutil.copystat(layout.manifest, lost)


def test_a_milestone_is_a_job_of_its_own_and_a_longer_run_leaves_it_as_it_is(root, made):
    file, layout = made
    study = yaml.safe_load(file.read_text())
    training = study["runs"]["mar"].setdefault("training", {})

    training |= {"milestones": [1]}
    file.write_text(yaml.safe_dump(study))
    added = jobs_with_reasons(snakemake(root, "-n", "--configfile", file).stdout)
    assert added == {"train": 1, "sample": 1, "score": 1, "report": 1, "all": 1}

    save_digest(Layout(parse_study(study)), "mar@1")
    layout.losses("mar@1", 0).touch()
    assert snakemake(root, "--touch", "--forceall", "--configfile", file).returncode == 0
    training |= {"epochs": 4}
    file.write_text(yaml.safe_dump(study))
    planned = snakemake(root, "-n", "-p", "--configfile", file, "--until", "train", "--config", "replace=true").stdout
    assert "--run mar " in planned and "--run mar@1" not in planned


@pytest.mark.parametrize("changes", [{"epochs": 4}, {"learning_rate": 1.0}])
def test_a_run_that_trains_again_waits_for_a_milestone_that_is_added_at_once(root, made, changes):
    file, layout = made
    study = yaml.safe_load(file.read_text())
    study["runs"]["mar"]["training"] = {"milestones": [1], **changes}
    file.write_text(yaml.safe_dump(study))

    planned = snakemake(root, "-n", "-p", "--configfile", file, "--config", "replace=true").stdout

    (longer,) = (job for job in planned.split("rule train:")[1:] if "--run mar " in job)
    assert "--run mar@1 " in planned and str(layout.weights("mar@1", 0)) in longer.partition("output:")[0]


def test_a_deleted_row_of_brought_images_leaves_the_report(root, made):
    file, layout = made
    brought = layout.scores("own", "own_mine")
    brought.parent.mkdir(parents=True)
    brought.touch()
    assert snakemake(root, "--touch", "--forceall", "--configfile", file).returncode == 0
    assert "Everything is up to date" in snakemake(root, "-n", "--configfile", file).stdout

    brought.unlink()

    output = snakemake(root, "-n", "--configfile", file).stdout
    assert jobs_with_reasons(output) == {"report": 1, "all": 1}
    assert "settings changed" in output


def test_what_is_between_is_made_again_where_a_row_needs_it(root, made):
    file, layout = made
    features = layout.features(layout.samples("mar", 0, "default", 0))
    features.unlink()
    assert "Everything is up to date" in snakemake(root, "-n", "--configfile", file).stdout

    layout.scores("sample", "mar", 0, "default").unlink()

    assert jobs_with_reasons(snakemake(root, "-n", "--configfile", file).stdout) == {
        "sample": 1,
        "score": 1,
        "report": 1,
        "all": 1,
    }


def test_results_below_a_file_end_in_one_message(root, tmp_path, smoke):
    (tmp_path / "thesis").write_text("a thesis")
    file = write_changed(smoke, ("hardware", "results", str(tmp_path / "thesis")), tmp_path)

    result = snakemake(root, "--cores", 1, "--configfile", file)

    said = result.stdout + result.stderr
    assert result.returncode != 0 and "Traceback" not in said
    assert "hardware.results" in said and str(tmp_path / "thesis") in said
    assert (tmp_path / "thesis").read_text() == "a thesis"


def test_a_study_given_by_hand_is_not_mixed_with_the_default_one(root, tmp_path):
    output = dry_run(root, STUDIES["smoke"], *in_folder(tmp_path))

    assert jobs(output)["train"] == 9


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("runs", "dc_mix", "guidance", {"strategy": "dc_mxi"}), "did you mean 'dc_mix'?"),
        (("data", "image_sise", 32), "did you mean 'image_size'?"),
        (("runs", "dc_mix_long", "parent", "dc_mx"), "did you mean 'dc_mix'?"),
        (("runs", "dc_mix_long", "parent", "dc_mix@7"), "'dc_mix@7' is no declared milestone; choose from dc_mix@1"),
        (("runs", "dc_mix", "training", {"milestones": [1, 9]}), "no epoch reaches 9: `epochs` is 2"),
        (("continuous", "weights", "asset:vavae"), "no such asset"),
    ],
)
def test_a_wrong_study_stops_before_the_dag_with_one_message(root, tmp_path, smoke, change, said):
    file = write_changed(smoke, change, tmp_path)

    result = snakemake(root, "-n", "--configfile", file)

    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert said in output
    assert "Traceback" not in output
    assert "Building DAG" not in output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("runs", "mar", "start", "nowhere-{seed}.safetensors"), "runs.mar.start (seed 0) = nowhere-0.safetensors"),
        (("data", "path", "nowhere.parquet"), "data.path = nowhere.parquet"),
        (("runs", "dc_sa", "guidance", {"strategy": "dc_sa", "options": {"stage": "middle"}}), "'middle' is unknown"),
        (("scoring", "protocol", "emoji-gdf"), "'emoji-gdf' is unknown"),
    ],
)
def test_what_would_stop_a_run_later_stops_it_before_any_job(root, tmp_path, smoke, change, said):
    smoke["hardware"]["results"] = str(tmp_path / "results")
    file = write_changed(smoke, change, tmp_path)

    result = snakemake(root, "--profile", "workflow/profiles/local", "--configfile", file)

    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert said in output
    assert "Traceback" not in output
    assert not {p.name for p in (tmp_path / "results").rglob("*") if p.is_file()} - {"study.json"}


def test_own_code_that_ends_python_stops_a_run(root, tmp_path, smoke):
    (tmp_path / "ending_metric.py").write_text("import os\nos._exit(0)\n")
    smoke["scoring"]["metrics"] = ["fd", "ending_metric:f"]
    smoke["hardware"]["results"] = str(tmp_path / "results")
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(smoke))

    result = snakemake(root, "--cores", 1, "--configfile", file, "--until", "ingest", PYTHONPATH=str(tmp_path))

    assert result.returncode != 0
    assert "check --study" in result.stderr and "ended without output; run it by hand" in result.stderr
    assert not (tmp_path / "results" / "smoke" / "ingest").exists()


def test_a_missing_asset_stops_a_run_with_its_whole_row(root, tmp_path, smoke):
    smoke["hardware"]["results"] = str(tmp_path / "results")
    file = write_changed(smoke, ("scoring", "further", {"vgg16": "asset:vgg16"}), tmp_path)

    result = snakemake(root, "--profile", "workflow/profiles/local", "--configfile", file, MIXAR_ASSETS=str(tmp_path))

    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "scoring.further.vgg16 = asset:vgg16, looked for at" in output
    for part in ("asset 'vgg16' is missing", "recognised by", "licence", "mixar assets get vgg16"):
        assert part in output
    assert not {p.name for p in (tmp_path / "results").rglob("*") if p.is_file()} - {"study.json"}


@pytest.mark.parametrize(
    ("hardware", "command", "gpus"),
    [
        ({"nodes": 2, "gpus": 8}, "snakemake_executor_plugin_submitit.node.launch --nproc-per-node=4 mixar", 4),
        (
            {"nodes": 1, "gpus": 4},
            "torch.distributed.run --standalone --nproc-per-node=4 --shutdown-timeout=600 -m -- mixar",
            4,
        ),
        ({"nodes": 1, "gpus": 1}, "mixar", 1),
    ],
)
def test_a_training_starts_a_process_for_each_gpu_and_a_launcher_on_several_nodes(
    root, tmp_path, smoke, hardware, command, gpus
):
    smoke["hardware"] |= hardware | {"device": "cuda", "results": str(tmp_path / "results")}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(smoke))

    result = snakemake(root, "-n", "-p", "--profile", "slurm", "--configfile", file)

    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    training = re.search(r"^rule train:.*?(?=^rule |\Z)", output, re.M | re.S)[0]
    assert f"python -m {command} train --study" in training
    resources = re.search(r"resources: (.*)", training)[1]
    assert f"nodes={hardware['nodes']}" in resources and f"gpus_per_node={gpus}" in resources


def test_lint_and_format_find_nothing(root):
    lint = snakemake(root, "--lint", "--configfile", "config/smoke.yaml")
    assert lint.returncode == 0, lint.stdout + lint.stderr

    form = subprocess.run([BIN / "snakefmt", "--check", "workflow"], cwd=root, capture_output=True, text=True)
    assert form.returncode == 0, form.stdout + form.stderr


def test_every_rule_logs_and_none_retries_by_itself(root):
    for file in (root / "workflow" / "rules").glob("*.smk"):
        text = file.read_text()
        own = re.findall(r"^rule \w+:", text, re.M)
        assert text.count("\n    log:\n") >= len(own), file
        assert "retries:" not in text, file  # they would multiply with the profile's


def test_no_checkpoint_is_a_declared_output(root):
    for file in [root / "workflow" / "Snakefile", *(root / "workflow" / "rules").glob("*.smk")]:
        assert "checkpoints(" not in file.read_text(), file


def test_the_local_profile_knows_every_rule(root):
    profile = yaml.safe_load((root / "workflow" / "profiles" / "local" / "profile.yaml").read_text())
    text = "".join(file.read_text() for file in (root / "workflow" / "rules").glob("*.smk"))
    rules = set(re.findall(r"^rule (\w+):", text, re.M)) | set(re.findall(r"^use rule \w+ as (\w+) ", text, re.M))

    assert set(profile["set-resources"]) == rules
    assert set(profile["set-threads"]) == rules - {"report"}


def test_the_default_profile_holds_only_what_suits_every_machine(root):
    profile = yaml.safe_load((root / "workflow" / "profiles" / "default" / "profile.yaml").read_text())

    assert set(profile) == {"logger", "nolock", "rerun-incomplete", "rerun-triggers", "show-failed-logs"}


def test_what_only_converts_files_asks_for_no_gpu(root, tmp_path):
    output = snakemake(root, "-n", "-p", "--configfile", *STUDIES["imagenet256"], *in_folder(tmp_path)).stdout

    gpus = {
        rule: found[1]
        for rule, text in re.findall(r"^rule (\w+):(.*?)(?=^rule |\Z)", output, re.M | re.S)
        if (found := re.search(r"gpus_per_node=(\d+)", text))
    }
    assert {rule for rule, count in gpus.items() if count == "0"} == {
        "extractor",
        "generator",
        "tokenizer_continuous",
        "tokenizer_discrete",
    }
    assert gpus["train"] == "8" and gpus["sample"] == gpus["reconstruct"] == gpus["measure"] == "1"
