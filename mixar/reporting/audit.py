"""The paper's tables beside what their sources say: reported numbers alone, never joined with our own.

Everything comes from mixar/resources/literature.yaml. A figure carries the mark of its protocol and, in brackets, the
number of its source; the CSV form has one row a figure, with table, protocol and verdict in full.
"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from mixar.reporting.numbers import MISSING, signed
from mixar.reporting.summary import Result
from mixar.reporting.tables import Table
from mixar.reporting.verdicts import MARGIN, compare

DISAGREES, OTHER_GROUND, APPROXIMATE = "†", "‡", "≈"


def audit_tables(literature: dict) -> dict[str, Table]:
    """By file name: the audits of Table 1, of its comparisons, and of Table 2 with Figure 7's token counts; and results
    that Table 1 lacks."""
    made = {
        "audit": _quality(literature),
        "audit_claims": _claims(literature),
        "audit_costs": _costs(literature),
        "later": _later(literature),
    }
    for table in made.values():
        assert len({len(row) for row in table.cells} | {len(table.columns)}) == 1, table.title
    return made


def verdict(row: dict, metric: str) -> str:
    """What the source says of a printed figure: agrees, differs, other protocol, not in the source, or not printed.

    A figure that the file has no entry for was not looked up; one that is null there is not in the source. The paper's
    own results are called so, for nothing else can be their source. Figures agree where the one with more decimals
    rounds to the other.
    """
    printed, said = row["printed"].get(metric), row["source"].get(metric)
    if printed is None:
        return "not printed"
    if said is None:
        missing = "not in the source" if metric in row["source"] else "not looked up"
        return "own result" if row.get("own") else missing
    if not _equal(printed, said["value"]):
        return "differs"
    known = row["protocol"].get(metric)
    return "agrees" if known is None or known == said["protocol"] else "other protocol"


def _equal(a: str, b: str) -> bool:
    """Whether two figures agree to the decimals that both have; sizes such as 2.0B as text."""
    if not (_is_number(a) and _is_number(b)):
        return a == b
    places = min(len(text.partition(".")[2]) for text in (a, b))
    return abs(float(a) - float(b)) <= 0.5 * 10**-places


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def like_for_like(row: dict, metric: str, protocols: list[str]) -> dict | None:
    """The figure that a column compares: the row's own where its protocol is one of `protocols`, else one given."""
    said = row["source"].get(metric)
    return said if said and said["protocol"] in protocols else row.get("like", {}).get(metric)


def _quality(literature: dict) -> Table:
    part, cite = literature["table1"], _Citations(literature)
    compared = [metric for metric in part["columns"] if metric in part["like_for_like"]]
    columns, cells, records = ["Method", part["columns"]["params"]], [], []
    for metric in compared:
        columns += [f"{part['columns'][metric]} paper", "source", "like for like"]
    for row in part["rows"]:
        found = [row["method"], row["printed"]["params"]]
        for metric in compared:
            like = like_for_like(row, metric, part["like_for_like"][metric])
            found += [_printed(literature, row, metric), cite.figure(row["source"].get(metric))]
            found.append(cite.figure(like, part["approximate"]))
        cells.append(found)
        records += [_record(row, metric, part["like_for_like"].get(metric, [])) for metric in part["columns"]]
    marks = [
        f"{DISAGREES} Differs from its source, or is absent there.",
        f"{OTHER_GROUND} Under another protocol than the like-for-like column.",
        f"{APPROXIMATE} Validation images against themselves, as in the whole column, but under another crop and "
        "evaluator; figures with different letters are only roughly comparable.",
    ]
    remarks = [f"{row['method']}: {row['remark']}" for row in part["rows"]]
    notes = (*marks, *_legend(literature), *part["notes"], *remarks, *cite.notes())
    return Table(part["title"], tuple(columns), cells, notes, pd.DataFrame(records))


def _printed(literature: dict, row: dict, metric: str) -> str:
    """The paper's figure with the mark of its protocol, and what is wrong with it."""
    value, protocol = row["printed"].get(metric), row["protocol"].get(metric)
    if value is None:
        return MISSING
    standard = literature["table1"]["like_for_like"][metric]
    wrong = DISAGREES if verdict(row, metric) in ("differs", "not in the source") else ""
    wrong += OTHER_GROUND if protocol not in (*standard, "unknown") else ""
    return f"{value} {literature['protocols'][protocol]['mark']}{wrong}"


def _record(row: dict, metric: str, protocols: list[str]) -> dict:
    """One row of the CSV form."""
    record = {"method": row["method"], "group": row["group"], "metric": metric, "printed": row["printed"].get(metric),
              "printed_protocol": row["protocol"].get(metric), "verdict": verdict(row, metric)}  # fmt: skip
    for name, said in (("source", row["source"].get(metric)), ("like", like_for_like(row, metric, protocols))):
        record |= {f"{name}_{key}": (said or {}).get(key) for key in ("value", "source", "table", "protocol")}
    return record | {"remark": row["remark"]}


def _later(literature: dict) -> Table:
    part, cite = literature["later"], _Citations(literature)
    cells, records = [], []
    for row in part["rows"]:
        found = [cite.figure(row["source"].get(metric)) for metric in part["columns"]]
        cells.append([row["method"], row["kind"], row["params"] or MISSING, *found])
        for metric in part["columns"]:
            said = {f"source_{key}": value for key, value in row["source"].get(metric, {}).items()}
            keys = {key: row[key] for key in ("method", "kind", "params")}
            records.append({**keys, "metric": metric, **said, "remark": row.get("remark")})
    remarks = [f"{row['method']}: {row['remark']}" for row in part["rows"] if "remark" in row]
    columns = ("Method", "kind", "# Params", *part["columns"].values())
    notes = (*_legend(literature), *part["notes"], *remarks, *cite.notes())
    return Table(part["title"], columns, cells, notes, pd.DataFrame(records))


def _costs(literature: dict) -> Table:
    part = literature["table2"]
    shown = [{**row["printed"], **row["counted"]} for row in part["rows"]]
    cells = [
        [row["method"], *(str(values[metric]) for metric in part["columns"])]
        for row, values in zip(part["rows"], shown, strict=True)
    ]
    records = [
        {"method": row["method"], "metric": metric, "value": value, "from": origin}
        for row in part["rows"]
        for origin in ("printed", "counted")
        for metric, value in row[origin].items()
    ]
    return Table(part["title"], ("Method", *part["columns"].values()), cells, tuple(part["notes"]),
                 pd.DataFrame(records))  # fmt: skip


def _claims(literature: dict) -> Table:
    """The paper's comparisons, judged by `compare`; equal printed figures for each of the seeds that were reported."""
    part, rows = literature["claims"], {row["method"]: row for row in literature["table1"]["rows"]}
    beyond = f"beyond {100 * MARGIN:.1f} %"
    columns = ("Comparison", "gFID", "of the other", "difference", beyond, "trainings", "verdict")
    cells, records = [], []
    for row in part["rows"]:
        printed = [rows[row[side]]["printed"][part["metric"]] for side in ("ours", "theirs")]
        ours, theirs = (Result(values=dict.fromkeys(range(row["seeds"]), float(value))) for value in printed)
        found = compare(ours, theirs)
        share = found.mean / found.other
        name, is_beyond = f"{row['ours']} against {row['theirs']}, {row['where']}", abs(share) > MARGIN
        trainings, decided = f"{row['seeds']} per arm", found.verdict
        cells.append([name, *printed, f"{signed(100 * share, 2)} %", "yes" if is_beyond else "no", trainings, decided])
        records.append({"ours": row["ours"], "theirs": row["theirs"], "metric": part["metric"],
                        "value_ours": ours.mean, "value_theirs": theirs.mean, "difference": share,
                        "trainings": row["seeds"], "verdict": decided, "reason": found.reason})  # fmt: skip
    reasons = dict.fromkeys(f"{r['verdict'].capitalize()}: {r['reason']}." for r in records if r["reason"])
    return Table(part["title"], columns, cells, (*reasons, *part["notes"]), pd.DataFrame(records))


def _legend(literature: dict) -> list[str]:
    return [f"{p['mark']}: {p['says']} ({name})." for name, p in literature["protocols"].items()]


class _Citations:
    """Sources in the order in which they are cited, numbered from 1."""

    def __init__(self, literature: dict):
        self.literature = literature
        self.numbers: dict[str, int] = {}

    def figure(self, said: dict | None, approximate: Collection[str] = ()) -> str:
        """A source's figure with the mark of its protocol and the number of the source; a dash if there is none.

        approximate: protocols whose figures compare only roughly, which is marked, too.
        """
        if said is None:
            return MISSING
        number = self.numbers.setdefault(said["source"], len(self.numbers) + 1)
        roughly = APPROXIMATE if said["protocol"] in approximate else ""
        return f"{said['value']} {self.literature['protocols'][said['protocol']]['mark']}{roughly} [{number}]"

    def notes(self) -> list[str]:
        found = [(number, self.literature["sources"][key]) for key, number in self.numbers.items()]
        return [f"[{number}] {source['title']}; {source['how']}." for number, source in found]
