"""The committed ladder of the small study's distance rises at every step."""

import re


def test_every_step_of_noise_and_of_dropped_classes_raises_the_distance(root):
    text = (root / "benchmarks" / "scoring" / "drawings_ladder.md").read_text()
    rows = re.findall(r"^\| (noise|classes) +\| +(\d+) +\| +([\d.]+) \|$", text, re.M)

    for ladder, levels in (("noise", [0, 4, 8, 16]), ("classes", [9, 7, 5, 3, 2])):
        found = [(int(level), float(value)) for name, level, value in rows if name == ladder]
        values = [value for _, value in found]
        assert [level for level, _ in found] == levels
        assert all(before < after for before, after in zip(values, values[1:], strict=False))
