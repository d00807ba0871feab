"""Logs of failed jobs on the terminal; of long logs, only the end."""

from __future__ import annotations

import itertools
import logging
import os
from pathlib import Path

from snakemake_executor_plugin_submitit.node.printed import tail
from snakemake_executor_plugin_submitit.records.files import private

SHOWN_BYTES = 16 * 1024


class OnlyTails(logging.Filter):
    """Shows only the end of a failed job's long log.

    Snakemake prints the files that a record names, so a file with the end takes a long one's place.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.numbers = folder, itertools.count(1)

    def filter(self, record: logging.LogRecord) -> bool:
        for holder in (vars(record), *(getattr(record, "job_error_info", None) or ())):
            for name in ("log", "aux_logs"):
                if isinstance(holder.get(name), list):
                    holder[name] = [self._short(path) for path in holder[name]]
        return True

    def _short(self, log: str) -> str:
        try:
            size = os.stat(log).st_size
            if size <= SHOWN_BYTES:
                return log
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{next(self.numbers)}.log"
            end = tail(log, SHOWN_BYTES)
            with open(path, "w", encoding="utf-8", opener=private) as f:
                f.write(f"[the last {SHOWN_BYTES // 1024} KiB of {log}, {size / 1e6:.1f} MB]\n{end}")
        except (OSError, TypeError):
            return log
        return str(path)
