"""The real Slurm of the executor's own tests."""

from slurm_fixtures import running, running_without_accounting  # noqa: F401
