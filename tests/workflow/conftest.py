"""The real Slurm of the executor's own tests, and the smoke study that all workers share."""

from slurm_fixtures import running, running_without_accounting  # noqa: F401
from smoke_runs import finished_smoke, shared_folder, undisturbed  # noqa: F401
