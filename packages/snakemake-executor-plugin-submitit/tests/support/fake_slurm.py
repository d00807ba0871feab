"""Stand-ins for Slurm's clients, for tests that need no cluster: they note each call and answer from files.

answers/NAME is printed; with answers/NAME.error they print that instead and fail. sbatch counts its jobs.
"""

from __future__ import annotations

import os
from pathlib import Path

CLIENTS = ("sbatch", "sacct", "squeue", "scontrol", "scancel", "srun")
SHIM = """#!/bin/bash
folder={folder} name={name}
echo "$name $*" >> $folder/calls
if [ -e $folder/answers/$name.error ]; then cat $folder/answers/$name.error >&2; exit 1; fi
if [ $name = sbatch ]; then
    echo x >> $folder/submitted
    number=$(wc -l < $folder/submitted)
    cp "$1" $folder/script-$number.sh
    if [ -e $folder/answers/sbatch ]; then cat $folder/answers/sbatch; else echo "Submitted batch job $number"; fi
elif [ -e "$folder/answers/$name-$1" ]; then
    cat "$folder/answers/$name-$1"
elif [ -e $folder/answers/$name ]; then
    cat $folder/answers/$name
fi
"""


class FakeSlurm:
    """Clients in a folder that is first in `path`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "fake"
        (self.folder / "answers").mkdir(parents=True)
        (self.folder / "bin").mkdir()
        for name in CLIENTS:
            file = self.folder / "bin" / name
            file.write_text(SHIM.format(folder=self.folder, name=name))
            file.chmod(0o755)
        self.path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def answer(self, name: str, text: str) -> None:
        """What a client prints; `scontrol-show` is for `scontrol show ...` alone."""
        (self.folder / "answers" / name).write_text(text)

    def fail(self, name: str, text: str) -> None:
        self.answer(f"{name}.error", text)

    def recover(self, name: str) -> None:
        (self.folder / "answers" / f"{name}.error").unlink()

    def calls(self, name: str = "") -> list[str]:
        """All calls so far, or those of one client."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.split()[0] == name or not name]
