"""The real Slurm of the executor's own tests."""

from slurm_fixtures import running  # noqa: F401
