"""Fixtures of every test that needs a real Slurm."""

from slurm_fixtures import (  # noqa: F401
    cluster,
    cluster_with_accounting,
    running,
    running_with_accounting,
    running_without_accounting,
)
