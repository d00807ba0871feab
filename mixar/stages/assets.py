"""What `mixar assets` prints: the table of external files, one row of it, checks and downloads."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

from mixar.assets import fetch
from mixar.assets.check import asset_named, damage, facts, locate, state_of, way_to_get
from mixar.assets.table import ASSETS, PREFIX, Asset, folder
from mixar.process.progress import Progress
from mixar.study import external
from mixar.study.sections import Study

WIDTH = 110  # of the table where it is not printed to a terminal


def list_all(study: Study | None) -> None:
    """Print the table of all assets, then what is damaged and how to get what is missing.

    study: mark what it needs, name ways to get only that, and list the files that it names by path.
    """
    needed = set(external.references(study).values()) if study else set()
    states = {asset.name: state_of(asset) for asset in ASSETS.values()}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), expand=True)
    for column in ("asset", "state", "size", "SHA-256"):
        table.add_column(column, no_wrap=True, justify="right" if column == "size" else "left")
    table.add_column("licence", width=14)
    table.add_column("file", overflow="fold", ratio=1)
    for asset in ASSETS.values():
        name = f"{asset.name} *" if PREFIX + asset.name in needed else asset.name
        file = f"{asset.file_name}/" if asset.is_folder else asset.file_name
        table.add_row(name, states[asset.name][0], asset.size, _short_hash(asset), asset.licence, file)
    Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False).print(table)
    print(f"\nLooked for in {folder()} (MIXAR_ASSETS).{' * The study needs it.' if study else ''}")
    for value in sorted(v for v in needed if not v.startswith(PREFIX)):
        print(f"The study names {value}: {'there' if locate(value).exists() else 'missing'}.")
    _print_what_to_do({name: found for name, found in states.items() if not study or PREFIX + name in needed})


def _short_hash(asset: Asset) -> str:
    """The beginning of the known hash; of one that git computes, after its name."""
    if asset.known_hash is None:
        return ""
    name, value = asset.known_hash
    return f"{'git ' if name == 'git_blob' else ''}{value[:8]}…"


def _print_what_to_do(states: dict[str, tuple[str, str]]) -> None:
    if notes := [f"  {name}: {why}" for name, (_, why) in states.items() if why]:
        print("\n".join(["\nDamaged:", *notes]))
    lost = [ASSETS[name] for name, (state, _) in states.items() if state in ("missing", "damaged")]
    if lost:
        ways = [f"  {f'{a.name}: ' if a.is_folder else ''}{way_to_get(a)}" for a in lost]
        print("\n".join(["\nTo get what is missing or damaged:", *ways]))
    print(f"\n{_HINT}")


_HINT = "More: mixar assets show [NAME] (whole hashes, sources); mixar assets check [NAME] (compute the hashes)."


def show(names: list[str]) -> None:
    """Print every fact of these assets, or of all. Raises ValueError for an unknown name."""
    for asset in [asset_named(name) for name in names] or ASSETS.values():
        state, why = state_of(asset)
        print(f"{asset.name}: {asset.what}")
        for label, text in {"state": f"{state}{f': {why}' if why else ''}", **facts(asset)}.items():
            print(f"  {label:<14}{text}")


def check(names: list[str]) -> None:
    """Compare size and hash of these assets, which must exist, or of all that exist.

    Raises ValueError naming those that are missing or damaged.
    """
    chosen = [asset_named(name) for name in names] or [a for a in ASSETS.values() if a.is_there]
    if not chosen:
        print(f"{folder()}: no assets yet")
    failed = []
    for asset in chosen:
        problem = damage(asset) if asset.is_there else "missing"
        failed += [f"{asset.path}: {problem}; mixar assets get {asset.name}"] if problem else []
        is_known = asset.is_folder or asset.known_hash
        print(f"{asset.name}: {problem or ('intact' if is_known else 'there; its hash is not known')}", flush=True)
    if failed:
        raise ValueError("\n".join(failed))


def get(names: list[str], study: Study | None) -> None:
    """Download these assets, and those of the study that are missing or damaged. A failure does not stop the others.

    Raises ValueError at once for an unknown name, and at the end for everything that could not be downloaded.
    """
    chosen = {asset.name: asset for asset in map(asset_named, names)}
    for value in external.references(study).values() if study else ():
        if value.startswith(PREFIX) and state_of(asset := asset_named(value))[0] != "there":
            chosen[asset.name] = asset
    if not chosen and not study:
        raise ValueError("mixar assets get: give the names of assets, or --study FILE for all that a study lacks")
    if not chosen:
        print("nothing to download: every asset of the study is there")
    failed = []
    for asset in chosen.values():
        try:
            is_new = fetch.get(asset, _report(asset))
            print(f"{asset.name}: {'downloaded to' if is_new else 'already at'} {asset.path}", flush=True)
        except ValueError as error:
            failed.append(str(error))
    if failed:
        raise ValueError("\n".join(failed))


def _report(asset: Asset) -> fetch.Report:
    progress, mib = Progress(asset.name, "MiB"), 2**20

    def report(done: int, total: int) -> None:
        if total:  # without a size from the server there is no estimate
            last = -(-total // mib)
            progress(last if done == total else min(done // mib, last - 1), last)

    return report
