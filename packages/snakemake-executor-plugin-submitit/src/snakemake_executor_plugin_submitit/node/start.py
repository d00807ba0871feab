"""What a job runs first on its node: submitit's own program, once it is certain whose pickle that will load.

A pickle can run anything as the user who loads it. submitit calls this as it would call a Python, so the arguments
are Python's, and the last one is the folder.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from snakemake_executor_plugin_submitit.records.files import check_owner, check_private

PICKLE_SECONDS = 60  # it is renamed once sbatch has returned the job's id


def check_pickle(folder: Path, pickle: Path, seconds: float = PICKLE_SECONDS) -> None:
    """Raise ValueError if the pickle belongs to another user, can be replaced by one, or does not appear in time."""
    check_private(folder)
    deadline = time.monotonic() + seconds
    while not pickle.exists():
        if time.monotonic() > deadline:
            raise ValueError(
                f"{pickle}: did not appear within {seconds:.0f} s; was snakemake killed as it submitted this?"
            )
        time.sleep(0.1)
    check_owner(pickle)


def main() -> None:
    folder = Path(sys.argv[-1])
    os.environ["SUBMITIT_FOLDER"] = str(folder)
    from submitit.core.job_environment import JobEnvironment
    from submitit.core.submission import process_job

    try:
        check_pickle(folder, JobEnvironment().paths.submitted_pickle)
    except (ValueError, OSError) as error:
        sys.exit(f"[submitit] {error}")
    process_job(folder)


if __name__ == "__main__":
    main()
