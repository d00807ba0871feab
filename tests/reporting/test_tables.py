"""Tables: every cell comes from rows, and what is not comparable does not share a column."""

import csv
import io

import pytest
from toy_rows import (
    FD,
    HASHES,
    PROTOCOL,
    all_rows,
    measure_rows,
    reported_study,
    score_rows,
    summary_of,
)

from mixar.reporting.numbers import MISSING
from mixar.reporting.results import make_rows
from mixar.reporting.tables import efficiency_table, quality_table
from mixar.reporting.writers import to_csv, to_html, to_latex, to_markdown, to_text

TOY = {"runs": {"toy": {"label": "Invented strategy", "model": "s", "guidance": {"strategy": "somewhere:Toy"}}}}


def cell(table, label: str, column: str) -> str:
    row = next(r for r in table.cells if r[0] == label)
    return row[table.columns.index(column)]


def test_table_1_shows_means_over_seeds_their_spread_and_interval():
    study = reported_study()

    table = quality_table(summary_of(study, all_rows(study)))

    assert cell(table, "MAR", "gFD-toy-net ↓") == "213.5 ± 7.8"
    assert table.intervals[1][:4] == ["95 % interval", "[11.50, 13.50]", "", "[200.0, 227.0]"]
    assert all(reach.startswith("[") for reach in table.intervals[1][3:8])  # of every score
    assert cell(table, "DC-SA", "gFD-toy-net ↓") == "158.0"
    assert [cell(table, "MAR", c) for c in ("seeds", "n", "protocol")] == ["2", "72", "toy-gfd"]
    assert [row[0] for row in table.cells][:2] == ["MaskBit's own images", "MAR"]


def test_the_reconstruction_column_belongs_to_the_tokenizer():
    study = reported_study()

    table = quality_table(summary_of(study, all_rows(study)))

    assert cell(table, "MaskBit's own images", "rFD-toy-net ↓") == "60.25"
    assert {cell(table, run.label, "rFD-toy-net ↓") for run in study.runs.values()} == {"12.50"}


def test_a_distance_is_called_fid_only_under_a_protocol_of_that_name():
    study, how = reported_study(), {"protocol": "adm256-gfid", "hashes": {}}

    fid = quality_table(summary_of(study, score_rows(study, "mar", 0, 2.31, 0.1, n=50_000, **how)))
    other = quality_table(summary_of(study, score_rows(study, "mar", 0, 2.31, 0.1)))

    assert "gFID ↓" in fid.columns
    assert not any("FID" in column for column in other.columns)


def test_an_own_strategy_appears_without_a_change_of_code():
    study = reported_study(**TOY)

    rows = all_rows(study, {**FD, "toy": {0: 99.0}})

    assert cell(quality_table(summary_of(study, rows)), "Invented strategy", "gFD-toy-net ↓") == "99.00"
    assert cell(efficiency_table(summary_of(study, rows)), "Invented strategy", "# Params") == "2.55 M"


def test_what_was_not_measured_is_a_dash():
    study = reported_study()

    table = quality_table(summary_of(study, score_rows(study, "mar", 0, 200.0)))

    assert cell(table, "DC-CA", "gFD-toy-net ↓") == MISSING
    assert cell(table, "MAR", "# Params") == MISSING


@pytest.mark.parametrize(
    "change",
    [{"protocol": "other"}, {"n": 50}, {"hashes": {"extractor": "0" * 64}}, {"hashes": {"reference": "0" * 64}}],
)
def test_a_column_does_not_mix_what_is_not_comparable(change):
    study = reported_study()
    rows = [r for run in ("mar", "dc_sa") for r in score_rows(study, run, 0, 200.0)]
    rows = rows + score_rows(study, "dc_mix", 0, 160.0, **change)

    with pytest.raises(ValueError, match="cannot mix"):
        quality_table(summary_of(study, rows))


def test_brought_images_are_marked_and_decide_neither_names_nor_what_may_share_a_column():
    study, how = reported_study(), {"protocol": "adm256-gfid", "hashes": {"extractor_name": "inception-v3-compat"}}
    value = [{"metric": "fd", "value": 1.5, "low": 1.4, "high": 1.6, "n": 50_000}]
    brought = [
        make_rows(study, f"own_{name}", source="sample", values=value, label=name, **{**how, **changes})
        for name, changes in (("like", {}), ("uneven", {"protocol": "adm256-gfid[labels=uneven]"}),
                              ("other", {"hashes": {"extractor": "0" * 64, "extractor_name": "other"}}))
    ]  # fmt: skip

    table = quality_table(summary_of(study, score_rows(study, "mar", 0, 2.31, 0.1, n=50_000, **how) + sum(brought, [])))

    assert "gFID ↓" in table.columns
    assert [row[0] for row in table.cells][-3:] == ["like", "other†", "uneven†"]
    assert cell(table, "like", "gFID ↓") == "1.50" and cell(table, "like", "rFD-subgroup-cnn ↓") == MISSING


def test_every_form_says_that_brought_images_of_another_protocol_have_no_fid():
    study, how = reported_study(), {"protocol": "adm256-gfid", "hashes": {"extractor_name": "inception-v3-compat"}}
    brought = make_rows(study, "own_few", source="sample", values=[{"metric": "fd", "value": 9.0, "n": 1000}],
                        label="Few", **{**how, "protocol": "adm256-gfid[n=1000]"})  # fmt: skip

    table = quality_table(summary_of(study, score_rows(study, "mar", 0, 2.31, 0.1, n=50_000, **how) + brought))
    alone = quality_table(summary_of(study, brought))

    assert cell(table, "Few†", "gFID ↓") == "9.00"
    forms = [" ".join(to(table).split()) for to in (to_markdown, to_latex, to_html, to_text)]
    assert all("not comparable; not FID." in form for form in forms)
    assert "gFD-inception-v3-compat ↓" in alone.columns and "gFID ↓" not in alone.columns


def test_brought_images_need_a_label_and_a_name_of_their_own():
    study, value = reported_study(), [{"metric": "fd", "value": 1.5}]

    for run, label in (("own_mine", None), ("mine", "Mine")):
        with pytest.raises(ValueError, match="is unknown"):
            make_rows(study, run, source="sample", values=value, label=label)


def test_rows_of_runs_that_the_study_no_longer_has_are_left_out():
    old = reported_study(**TOY)
    rows = all_rows(old, {**FD, "toy": {0: 1.0}}) + score_rows(old, "mar", 7, 1.0)

    table = quality_table(summary_of(reported_study(), rows))

    assert "Invented strategy" not in [row[0] for row in table.cells]
    assert cell(table, "MAR", "seeds") == "2"


def test_only_the_reports_sampler_counts():
    study = reported_study(runs={"mar": {"label": "MAR", "model": "s", "samplers": ["default", "quick"]}})
    rows = score_rows(study, "mar", 0, 200.0) + score_rows(study, "mar", 0, 300.0, sampler="quick")

    assert cell(quality_table(summary_of(study, rows)), "MAR", "gFD-toy-net ↓") == "200.0"


def test_a_value_that_occurs_twice_is_refused():
    study = reported_study()
    rows = score_rows(study, "mar", 0, 200.0) + score_rows(study, "mar", 0, 201.0)

    with pytest.raises(ValueError, match="several values for one seed"):
        quality_table(summary_of(study, rows))


NAMED = {"gFD-toy-net∞ ↓": "fd_infinity", "FD-DINOv2 ↓": "fd_dinov2", "sFD ↓": "sfid",
         "Precision (VGG) ↑": "precision_vgg", "Recall (VGG) ↑": "recall_vgg", "mine": "mine"}  # fmt: skip


def further_rows(study, run, seed=0, value=0.25, **how):
    values = [{"metric": m, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 72}
              for m in (*reversed(NAMED.values()), "fd_held_out")]  # fmt: skip
    how = {"protocol": PROTOCOL, "hashes": HASHES, **how}
    return make_rows(study, run, source="sample", seed=seed, sampler="default", values=values, **how)


def test_every_further_metric_has_a_column_after_recall_and_its_interval_in_the_csv():
    study = reported_study()
    rows = all_rows(study) + further_rows(study, "mar") + further_rows(study, "mar", 1, 0.35)

    without, table = quality_table(summary_of(study, all_rows(study))), quality_table(summary_of(study, rows))

    assert table.columns == (*without.columns[:8], *NAMED, *without.columns[8:])
    assert [row[:8] + row[14:] for row in table.cells] == without.cells
    assert cell(table, "MAR", "Recall (VGG) ↑") == "0.30 ± 0.07" and cell(table, "MAR", "mine") == "0.300 ± 0.071"
    assert cell(table, "DC-CA", "FD-DINOv2 ↓") == MISSING
    mar = next(r for r in csv.DictReader(io.StringIO(to_csv(table))) if r["run"] == "mar")
    for metric in ("rfd", "fd", "is", "kid", "precision", "recall", *NAMED.values()):
        assert float(mar[f"{metric}_low"]) < float(mar[metric]) < float(mar[f"{metric}_high"])
    assert "$\\infty$" in to_latex(table) and "∞" not in to_latex(table)
    assert max(map(len, to_text(table).splitlines())) <= 110
    assert any(note.startswith("All other scores use") for note in table.notes)


def test_a_further_column_does_not_mix_protocols_either():
    study = reported_study()
    rows = all_rows(study) + further_rows(study, "mar") + further_rows(study, "dc_sa", protocol="other")

    with pytest.raises(ValueError, match="column fd_infinity: a column cannot mix"):
        quality_table(summary_of(study, rows))


def test_notes_say_what_the_reconstruction_column_is_and_psnr():
    study = reported_study()
    psnr = {"metric": "psnr", "value": 24.5, "low": 24.25, "high": 24.75, "n": 30}
    rows = [r for r in all_rows(study) if r["metric"] != "psnr"]
    rows += [
        row
        for kind in ("continuous", "discrete")
        for row in make_rows(study, kind, source="reconstruct", values=[psnr], protocol="toy-rfd", hashes=HASHES)
    ]

    notes = quality_table(summary_of(study, rows)).notes

    assert (
        "The reconstruction column belongs to the tokenizer: VAE f8d32 for every run, 4-bit MaskBit tokenizer for "
        "MaskBit's own images; it has protocol toy-rfd, n = 30, not those of the row."
    ) in notes
    assert (
        "PSNR of the same reconstructions, with 95 % interval: VAE f8d32 24.50 dB [24.25, 24.75], 4-bit MaskBit "
        "tokenizer 24.50 dB [24.25, 24.75]."
    ) in notes
    assert not any(
        "PSNR" in note for note in quality_table(summary_of(study, score_rows(study, "mar", 0, 200.0))).notes
    )


def test_times_from_another_device_are_marked():
    study = reported_study()
    rows = [r for run in study.runs for r in measure_rows(study, run, "GPU" if run == "dc_ca" else "cpu")]

    table = efficiency_table(summary_of(study, rows))

    assert [row[0] for row in table.cells if "†" in row[0]] == ["DC-CA†"]
    assert "† Measured on GPU." in table.notes


RATES = ("Train / FLOP/s", "Sampling / FLOP/s", "Train / MFU", "Sampling / MFU", "Train / GiB", "Sampling / GiB")


def test_rates_and_memory_are_columns_and_the_counter_is_compared_in_a_note():
    study = reported_study()
    rows = [row for run in study.runs for row in measure_rows(study, run)]
    gpu = {"source": "measure", "protocol": rows[0]["protocol"], "sampler": "default"}
    rows += make_rows(study, "mar", values=[{"metric": "mfu_sample", "value": 0.3126}], **gpu)

    table = efficiency_table(summary_of(study, rows))

    assert [cell(table, "MAR", name) for name in RATES] == ["25.0 G", "190 G", "–", "31.3 %", "0.310", "0.120"]
    assert table.notes[0].endswith("FLOPs are computed from the settings, and torch's counter differs by 0.3% at most.")
    assert "flops_train_counted" in to_csv(table)


def test_rows_from_before_the_rates_leave_dashes():
    study = reported_study()
    names = ("_counted", "per_second", "memory_train", "memory_sample")
    rows = [row for run in study.runs for row in measure_rows(study, run)]

    table = efficiency_table(summary_of(study, [row for row in rows if not any(n in row["metric"] for n in names)]))

    assert {cell(table, "MAR", name) for name in RATES} == {"–"} and cell(table, "MAR", "Memory / GiB") == "0.840"
    assert table.notes[0].endswith("FLOPs are computed from the settings.")


def test_times_whose_repeats_spread_are_marked():
    study = reported_study()
    rows = [row for run in study.runs for row in measure_rows(study, run)]
    for row in rows:
        if row["run"] == "dc_ca" and row["metric"] == "seconds_per_image":
            row |= {"low": 0.009, "high": 0.0129, "protocol": row["protocol"] + "[spread=32%]"}

    table = efficiency_table(summary_of(study, rows))

    assert [(row[0], cell) for row in table.cells for cell in row if "‡" in cell] == [("DC-CA", "0.0121‡")]
    assert any(note.startswith("‡ The repeats spread by more than 30 % of their median") for note in table.notes)
    assert "batch 64, random weights;" in table.notes[0]
    assert r"\ddagger" in to_latex(table) and "[spread=32%]" in to_csv(table)


def test_tokenizers_of_two_protocols_share_the_reconstruction_column_with_a_mark():
    study = reported_study()
    rows = [row | {"protocol": "other-rfd"} if row["run"] == "discrete" else row for row in all_rows(study)]

    table = quality_table(summary_of(study, rows))

    assert cell(table, "MaskBit's own images", "rFD-toy-net ↓") == "60.25†"
    assert cell(table, "MAR", "rFD-toy-net ↓") == "12.50"
    notes = " ".join(table.notes)
    assert "protocol toy-rfd, n = 30" in notes and "protocol other-rfd, n = 30" in notes
    assert "† in the reconstruction column" in notes and "† Another protocol" not in notes
