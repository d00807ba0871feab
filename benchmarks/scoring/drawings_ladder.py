"""Does the small study's Fréchet distance rise with faint noise and with dropped classes? Writes drawings_ladder.md.

    python benchmarks/scoring/drawings_ladder.py

Half of the drawings are the reference, 1,000 of the other half the sample: the steps are those of ladders.py.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from ladders import CLASSES, ROOT, Emoji, degraded

from mixar.scoring.metrics.frechet import fd
from mixar.storage.files import write_text
from mixar.study.load import load_study

COUNT = 1000
STEPS = {"noise": (0, 4, 8, 16), "classes": CLASSES}


def main() -> None:
    drawings = Emoji(load_study(ROOT / "config" / "emoji.yaml"))
    reference = drawings.reference()
    rows = [
        {"ladder": ladder, "level": level, "FD": fd(degraded(drawings, ladder, level, COUNT), reference, None)}
        for ladder, levels in STEPS.items()
        for level in levels
    ]
    table = pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f")
    write_text(Path(__file__).with_suffix(".md"), table + "\n")


if __name__ == "__main__":
    main()
