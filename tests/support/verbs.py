"""The command line inside this process: what `mixar` does with its arguments, without the seconds that imports take."""

import io
import os
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple
from unittest.mock import patch

from mixar.__main__ import main


class Ended(NamedTuple):
    """How a process ended, named as `subprocess` names it."""

    returncode: int
    stdout: str
    stderr: str


def mixar(*arguments, encoding: str = "utf-8", **environment) -> Ended:
    """Run a verb with these variables set and both streams in this encoding."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors) for errors in ("strict", "backslashreplace"))
    code: int | str | None = 0
    with patch.dict(os.environ, environment), redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
        except Exception:  # what Python prints of it
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
    return Ended(code or 0, *(stream.buffer.getvalue().decode(encoding) for stream in (out, err)))


def mixar_process(*arguments, **environment) -> subprocess.CompletedProcess:
    """The same in a separate process, for tests about the process itself."""
    command = [sys.executable, "-m", "mixar", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **environment})
