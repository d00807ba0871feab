"""Write the reference page of the commands, from the program itself.

python docs/scripts/commands.py            writes docs/reference/commands.md
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import typer

from mixar.__main__ import app

WIDTH = 86  # characters of code that a page of the site shows without scrolling
PAGE = Path(__file__).parents[1] / "reference" / "commands.md"
HEAD = """\
# Commands

<!-- Made by `python docs/scripts/commands.py`; edit mixar/__main__.py instead. -->

The option `--help` of each command prints the same. A *stage* has one verb: it names the command, the function in
`mixar/stages/` and the folder in `results/<study>/` (`features` writes to `score/`), and the names of its Snakemake
rules begin with it. `mixar` is short for `python -m mixar`. An error
that you can mend is one message and exit code 2; `MIXAR_DEBUG=1` shows the traceback.

| make | does |
|---|---|
| `make demo` | the small study; `FROM_SCRATCH=1 make demo` trains every run from nothing, in about an hour |
| `make env` | only the environment, in `.venv` |
| `make test` | the unit tests, in under five minutes on two cores |
| `make test-all` | every test: whole workflows, a real Slurm, full-size networks |
| `make lint` | ruff, mypy, snakefmt and Snakemake's linter |
| `make docs` | these pages, in `site/` |
| `make networks`, `make checkpoints` | the committed weights of `resources/demo`, again |

| snakemake | does |
|---|---|
| `snakemake -n` | shows what would run, and why; `-p` adds every job |
| `snakemake --configfile config/mine.yaml` | runs a study on all processors; `--cores 4` takes fewer |
| `snakemake --profile slurm` | runs it on a cluster: see [Run on a cluster](../how-to/cluster.md) |
| `snakemake --configfile config/mine.yaml --config replace=true` | replaces networks that other settings made |
"""


def page() -> str:
    """The whole page as Markdown."""
    group = typer.main.get_command(app)
    return "\n".join([HEAD, *(section(name, command) for name, command in commands(group))])


def commands(group, path: str = ""):
    """(name, command) of every command below a group, in the order of `--help`."""
    for name, command in group.commands.items():
        full = f"{path}{name}"
        yield full, command
        if hasattr(command, "commands"):
            yield from commands(command, f"{full} ")


def section(name: str, command) -> str:
    """A heading, the usage line, what it does, and a table of arguments and options."""
    shown = [p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
    usage = usage_line(name, shown)
    lines = [f"## mixar {name}", "", " ".join((command.help or "").split()), "", "```text", usage, "```", ""]
    if shown:
        lines += ["| argument | default | meaning |", "|---|---|---|", *map(row, shown), ""]
    return "\n".join(lines)


def usage_line(name: str, shown) -> str:
    """How a command is called; broken between arguments where it is wider than a page."""
    words = ["mixar", *name.split(), *(found.replace(" ", "\0") for p in shown if (found := usage_of(p)))]
    lines = textwrap.wrap(" ".join(words), WIDTH, subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def usage_of(param) -> str:
    """How a parameter appears in the usage line; optional ones in brackets."""
    name = param.name.upper()
    words = f"{name} ..." if is_argument(param) and param.nargs == -1 else name
    if not is_argument(param):
        words = param.opts[0] if param.is_flag else f"{param.opts[0]} {name}"
    return words if param.required else f"[{words}]"


def is_argument(param) -> bool:
    return not param.opts[0].startswith("-")


def row(param) -> str:
    name = param.name.upper() if is_argument(param) else param.opts[0]
    plain = param.default is None or param.default is False or callable(param.default) or param.required
    default = "required" if param.required else "" if plain else f"`{param.default}`"
    return f"| `{name}` | {default} | {' '.join((getattr(param, 'help', '') or '').split())} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
