"""Fixtures of every test that needs a real Slurm."""

from slurm_fixtures import cluster, cluster_with_accounting, running, running_with_accounting  # noqa: F401
