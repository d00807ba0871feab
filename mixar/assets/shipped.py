"""Files that come with mixar: the committed studies and what they name.

A wheel holds config/ and resources/ inside the package; in the repository they are beside it.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE if (PACKAGE / "resources").is_dir() else PACKAGE.parent
CONFIG, RESOURCES = ROOT / "config", ROOT / "resources"
LITERATURE = RESOURCES / "literature.yaml"  # what papers and repositories print
