"""Names that sbatch, file systems and terminals do not take as they are: wildcards, and the working directory."""

import json
from pathlib import Path

import pytest
from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.utils import TargetSpec

from driver import Study as RealStudy
from snakemake_executor_plugin_submitit.driver.jobs import check_targets, folder_of, safe, shown
from snakemake_executor_plugin_submitit.records.files import private_folder
from stand_in import Job, Study

LONG = ["x" * 221 for _ in range(6)]
BAD = [["a\nb"], ["a\tb"], ["a/b"], ["."], [".."], ["../../up"], ["-rf"], [""], ["%j"], ["ä"], ["\udcff"], LONG]
BAD += [LONG[:-1] + ["y" * 221], ["%j|x y'z\"#$(rm)"], ["e" * 300] * 30]


@pytest.mark.parametrize("wildcards", BAD, ids=range(len(BAD)))
def test_any_wildcards_give_names_that_everything_takes(tmp_path, wildcards):
    folder, line, name = folder_of("rule", wildcards), shown("rule", wildcards), safe(" ".join(wildcards))

    (tmp_path / folder).mkdir(parents=True)
    assert (tmp_path / folder).resolve().is_relative_to(tmp_path / "rule")
    assert (tmp_path / folder).resolve() != tmp_path / "rule"
    assert line.encode().isascii() or wildcards == ["ä"] or len(line) > 200
    assert "\n" not in line and len(line) < 230
    assert name.isascii() and "%" not in name and " " not in name and 0 < len(name) < 100


def test_different_jobs_keep_different_names():
    for name in (folder_of, shown):
        assert len({str(name("rule", wildcards)) for wildcards in BAD}) == len(BAD)
    assert len({safe(" ".join(wildcards)) for wildcards in BAD}) == len(BAD)
    assert safe("a/b") != safe("a:b") != safe("a_b")


def test_plain_wildcards_stay_as_they_are():
    assert folder_of("train", ["mar_b", "seed=0"]) == Path("train/mar_b/seed=0")
    assert shown("train", ["mar_b", "0"]) == "train mar_b 0"
    assert safe("train.mar_b-0+1") == "train.mar_b-0+1"


def test_a_wildcard_that_would_not_reach_the_node_is_refused():
    check_targets([TargetSpec("sample", {"n": "a=b;c d"}), TargetSpec("all", {})])

    with pytest.raises(ValueError, match="wildcard n: found 'a,n=b', .* rule sample, or name the rule in `localrules`"):
        check_targets([TargetSpec("sample", {"n": "a,n=b"})])


def test_sbatch_gets_plain_words_whatever_the_wildcards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study(tmp_path, [Job("sample", "a\nb"), Job("sample", "good"), Job("train", *LONG)])
    driver = study.driver()

    driver.run_jobs(study.jobs)

    (shards, array), (_, plain) = study.cluster.arrays
    assert len(shards) == 2
    assert array["slurm_comment"].startswith("sample snakemake-")
    for parameters in (array, plain):
        assert len(parameters["name"]) < 100
        assert len(parameters["slurm_comment"]) < 150
        assert parameters["slurm_comment"].isprintable()
    assert all(Path(live.entry.log).is_symlink() for live in driver.live.values())


@pytest.mark.parametrize("name", ["%j", "50%test", "%3a", "%b", "a\nb", "a\\b", "%%"])
def test_a_working_directory_that_slurm_would_not_take_is_refused_with_the_remedy(tmp_path, monkeypatch, name):
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)

    with pytest.raises(
        WorkflowError, match="in it as more than a name; rename .* or give another folder with --submitit-f"
    ):
        Study(Path(), [Job("train")]).driver()

    Study(tmp_path / "elsewhere", [Job("train")]).driver()


def test_a_percent_sign_that_says_nothing_to_slurm_is_taken(tmp_path):
    private_folder(tmp_path / "50%" / "100%good" / "a b'c")


SNAKEFILE = """
W = ["".join(map(str, range(200)))[:221]] * 6  # Snakemake refuses one letter, again and again

rule all:
    input: "a\\nb.txt", "good.txt", "/".join([*W, "end"])
    localrule: True

rule plain:
    output: "{name}.txt"
    wildcard_constraints: name="[^/]*"
    shell: "echo made > {output:q}"

rule long:
    output: "{a}/{b}/{c}/{d}/{e}/{f}/end"
    shell: "echo made > {output}"
"""


@pytest.mark.slurm
def test_bad_names_run_beside_good_ones_and_in_a_folder_with_a_percent_sign(cluster, tmp_path):
    study = RealStudy(cluster, tmp_path / "%j 'quoted'", SNAKEFILE)

    driver = study.run("--submitit-folder", tmp_path / "it's here #1")

    assert driver.process.returncode == 0, driver.output
    assert (study.folder / "a\nb.txt").read_text() == (study.folder / "good.txt").read_text() == "made\n"
    lines = [json.loads(line) for line in (tmp_path / "it's here #1" / "finished.jsonl").read_text().splitlines()]
    assert sorted(line["outcome"] for line in lines) == ["done"] * 3
    assert all(Path(line["log"]).is_file() for line in lines)
