"""What a dry run closes with: how many jobs of each rule would run, and why, in one short table."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

# Prefixes of Snakemake's reasons. A job with several is counted under the first of these.
FOLLOWS = "Input files updated by another job"
WORDS = {
    "Forced execution": "forced",
    "Params have changed since last execution": "settings changed",
    "Code has changed since last execution": "code changed",
    "Software environment definition has changed since last execution": "environment changed",
    "Set of input files has changed since last execution": "other inputs",
    "Updated input files": "newer inputs",
    "Missing output files": "not made yet",
    "Incomplete output files": "interrupted",
    FOLLOWS: "follows from the others",
}


@dataclass
class Plan:
    """Rules in the order in which they are first planned; counts without reasons where Snakemake was told --quiet."""

    counts: Counter = field(default_factory=Counter)  # rule -> jobs, from Snakemake's own table
    reasons: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))  # rule -> reason -> jobs

    def add(self, rule: str, reason: str) -> None:
        self.reasons[rule][in_words(reason)] += 1

    def lines(self) -> list[str]:
        """The table; empty where no job would run."""
        counts = dict(self.counts) or {rule: found.total() for rule, found in self.reasons.items()}
        counts.pop("total", None)
        if not counts:
            return []
        rows = [(rule, str(count), _why(self.reasons.get(rule, Counter()))) for rule, count in counts.items()]
        rows = [("rule", "jobs", "why" if self.reasons else ""), *rows, ("total", str(sum(counts.values())), "")]
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        return [f"{rule:<{first}}  {jobs:>{second}}  {why}".rstrip() for rule, jobs, why in rows]


def in_words(reason: str) -> str:
    """The first of a job's reasons in few words, with the first file of those that are newer."""
    for beginning, words in WORDS.items():
        for part in reason.split("; "):
            if part.startswith(beginning):
                files = part.removeprefix(beginning).lstrip(": ").split(", ")
                return f"{words}: {files[0]}" if words == "newer inputs" and files[0] else words
    return reason


def _why(reasons: Counter) -> str:
    """One reason alone, or the most frequent ones with their counts."""
    if len(reasons) == 1:
        return next(iter(reasons))
    said = [f"{count} {words}" for words, count in reasons.most_common(3)]
    rest = reasons.total() - sum(count for _, count in reasons.most_common(3))
    return ", ".join(said + ([f"{rest} for other reasons"] if rest else []))
