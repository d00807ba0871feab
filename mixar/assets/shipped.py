"""Files that come with mixar: the committed studies, the images and weights that they name, published numbers.

In the repository, config/ and resources/ are beside the package; a wheel holds them inside it.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE if (PACKAGE / "config").is_dir() else PACKAGE.parent
CONFIG, RESOURCES = ROOT / "config", ROOT / "resources"
LITERATURE = PACKAGE / "resources" / "literature.yaml"  # what papers and repositories print


def study_file(given: Path) -> Path:
    """The path of a study file, given as itself or as the name of a committed study, such as `smoke`."""
    committed = CONFIG / f"{given}.yaml"
    return committed if len(given.parts) == 1 and not given.exists() and committed.is_file() else given
