"""Snakemake's own tests of an executor, with processes of this machine in the place of Slurm."""

import pytest
import snakemake.common.tests

from snakemake_executor_plugin_submitit import ExecutorSettings


@pytest.mark.workflow
class TestOnThisMachine(snakemake.common.tests.TestWorkflowsLocalStorageBase):
    __test__ = True

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # Snakemake changes it, and leaves it so

    def get_executor(self):
        return "submitit"

    def get_executor_settings(self):
        return ExecutorSettings(cluster="local", poll_min_seconds=1, poll_max_seconds=1)
