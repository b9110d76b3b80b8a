"""The report from plain records: no MLflow, no torch, no model."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from records import grid, record, retagged

from hdmap_mlflow.errors import BadInput
from hdmap_mlflow.evaluation.metrics import image_metrics, thresholds
from hdmap_mlflow.report import charts as drawing
from hdmap_mlflow.report.arrange import arrange, reported
from hdmap_mlflow.report.charts import charts
from hdmap_mlflow.report.page import html, markdown, shade
from hdmap_mlflow.report.selection import SELECTION_RULES, Pick
from hdmap_mlflow.report.stacks import mean_over, of_targets
from hdmap_mlflow.report.summary import headline, remarks
from hdmap_mlflow.report.tables import long_table, tabulate

GOLDEN = Path(__file__).with_name("report.golden.md")
SMALL = grid(sources="A", seeds=(0,))


@pytest.fixture(scope="module")
def full():
    """The tables of two models, two sources and two seeds."""
    return tabulate(arrange(grid()))


def test_the_text_of_a_report_is_the_golden_one():
    text = markdown(tabulate(arrange(grid()[:-1]), ["lost/s9 (abc): failed: no weights"]))
    if not GOLDEN.exists():  # delete the file to write it anew, and read what changed
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_a_better_model_leads_alone_and_an_equal_one_ties(full):
    assert [(s.label, s.rank) for s in full.leaderboard] == [("good/quick", 1), ("poor/quick", 2)]
    twin = [retagged(replace(r, run_id=r.run_id + "x"), model="twin", fingerprint=r.run_id + "x") for r in grid()[:4]]
    tied = tabulate(arrange([*grid(), *twin]))
    assert {s.label: s.rank for s in tied.leaderboard} == {"good/quick": 1, "twin/quick": 1, "poor/quick": 3}
    assert "Not told apart from it by a paired test: twin/quick." in headline(tied)
    assert ("good/quick", "twin/quick") in [(one, other) for one, other, *_ in tied.pairs]


def test_what_a_study_chose_on_targets_stands_apart(full):
    oracle = retagged(record("chosen", "A", 0, 3, metrics={"target_mean/image_AUROC": 0.987}), study="s", oracle="true")
    tables = replace(full, oracles=tabulate(arrange(SMALL), oracles=[oracle]).oracles)
    page = html(tables, charts(tables), {}, "now")
    assert "Oracle studies" in page and "0.987" in page and "ranked nowhere" in page
    assert "chosen/quick" not in markdown(tables).split("## Oracle studies")[0]
    assert "Oracle" not in markdown(full).replace("oracle", "")


@pytest.mark.parametrize(("tag", "flag"), [("data_digest", "--data-digest"), ("validation", "--validation")])
def test_runs_of_differing_data_or_protocol_are_not_ranked(tag, flag):
    mixed = [*grid(), retagged(record("odd", "A", 0, 2), **{tag: "other"})]
    with pytest.raises(BadInput, match=f"cannot be ranked together: choose one with {flag}"):
        arrange(mixed)
    chosen = arrange(mixed, **({"validation": "other"} if tag == "validation" else {"data_digest": "oth"}))
    assert [entry.label for entry in chosen.entries] == ["odd/quick"]
    with pytest.raises(BadInput, match="no finished run is of that"):
        arrange(mixed, validation="none")


def test_what_is_missing_is_listed_and_never_filled():
    tables = tabulate(arrange(grid()[:-1]))
    assert "poor/quick: no run from B with seed 1" in tables.missing and "no run was trained on C" in tables.missing
    assert tables.grid.common == [("A", 0), ("A", 1), ("B", 0)]
    assert ("C", "A") not in tables.matrices["good/quick"]


def test_without_a_common_run_there_is_no_rank():
    tables = tabulate(arrange([record("good", "A", 0, 2), record("poor", "B", 0, 1)]))
    assert [s.rank for s in tables.leaderboard] == [None, None] and tables.pairs == []
    assert "not ranked" in " ".join(headline(tables))


def test_a_cell_is_the_mean_over_seeds_and_its_interval_holds_it(full):
    cell = full.matrices["good/quick"]["A", "C"]
    assert cell.n == 2 and cell.sd is not None and cell.interval[0] < cell.mean < cell.interval[1]


def test_a_domain_of_one_class_is_absent_and_said():
    records = []
    for one in grid():
        good = {d: t[t["label"] == 0].reset_index(drop=True) if d == "C" else t for d, t in one.scores.items()}
        records.append(replace(one, scores=good))
    tables = tabulate(arrange(records))
    assert not any(domain == "C" for _, domain in tables.matrices["good/quick"])
    assert "C: one class of maps only, so it has no AUROC" in tables.missing
    assert "nan" not in markdown(tables)


def test_the_oracle_never_does_worse_than_the_pick_by_validation(full):
    picks = full.picks
    assert {pick.source for pick in picks} == {"A", "B"}
    assert all(pick.regret >= 0 for pick in picks) and all(p.regret == 0 for p in picks if p.rule == "oracle")


def test_a_repeat_of_a_run_is_counted_once_and_other_settings_are_another_entry():
    again = replace(grid()[0], run_id="later", started=99)
    deeper = replace(record("good", "A", 0, 2), params={"train.seed": "0", "model.depth": "5"}, run_id="deep")
    found = arrange([*grid(), again, retagged(deeper, fingerprint="deep")])
    assert found.superseded == 1
    assert next(e for e in found.entries if "depth=3" in e.label).runs["A", 0].run_id == "later"
    assert [e.label for e in found.entries] == ["good/quick (depth=3)", "good/quick (depth=5)", "poor/quick"]


@pytest.mark.slow
def test_the_page_is_one_small_file_that_says_simulated(full):
    tables = full
    page = html(tables, charts(tables), {"a picture": "AAAA"}, "today")
    assert len(page) < 300_000 and "SIMULATED maps" in page and page.count("<svg") == 3
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert 'src="data:image/png;base64,AAAA"' in page and "<script" not in page
    shown = re.findall(r'<td style="background:(rgb[^"]+)"( class="own")?><span class="auroc">([\d.]+)<', page)
    cells = [(s == d, cell.mean) for found in tables.matrices.values() for (s, d), cell in found.items()]
    assert [(bool(own), float(mean)) for _, own, mean in shown] == [(own, float(f"{m:.3f}")) for own, m in cells]
    assert [colour for colour, _, _ in shown] == [shade(mean) for _, mean in cells]


def test_the_shade_of_a_cell_goes_from_white_at_chance_to_blue():
    assert [shade(value) for value in (0.2, 0.5, 0.75, 1)] == [
        "rgb(247,249,252)",
        "rgb(247,249,252)",
        "rgb(156,187,226)",
        "rgb(64,125,200)",
    ]


@pytest.mark.parametrize(
    ("change", "facts", "not_said"),
    [
        ({}, ["SIMULATED", "half of the source's test maps"], ["Random", "Training sets", "older"]),
        ({"weights": "random"}, ["Random backbone weights", "good/quick, poor/quick"], []),
        ({"simulated": "false"}, [], ["SIMULATED", "HDMAP-style"]),
        ({"built": "HDMAP-style maps, built from x"}, ["HDMAP-style maps, built from x"], []),
        ({"validation": "source_test"}, ["source_test", "optimistic"], ["half of"]),
        ({"validation": "synthetic"}, ["held-out healthy source maps"], ["half of", "optimistic"]),
        ({"validation": "of my own"}, ["Protocol of my own."], ["half of", "optimistic"]),
    ],
)
def test_the_remarks_say_how_to_read_the_figures(change, facts, not_said):
    told = " ".join(remarks(tabulate(arrange([retagged(r, **change) for r in SMALL]))))
    assert all(fact in told for fact in facts) and not any(fact in told for fact in not_said)


@pytest.mark.parametrize(("repeats", "fact"), [(1, "1 older repeat of"), (2, "2 older repeats of")])
def test_repeats_and_unequal_training_sets_are_remarked(repeats, fact):
    again = [replace(SMALL[0], run_id=f"again{i}", started=9 + i) for i in range(repeats)]
    fewer = replace(SMALL[1], params={**SMALL[1].params, "data.max_train": "10"})
    told = remarks(tabulate(arrange([SMALL[0], fewer, *again])))
    assert any(fact in line for line in told) and any("differ in size" in line for line in told)


def recorded(one, count):
    """A run whose maps are of so many recordings of each class."""
    tables = one.scores.items()
    names = {d: [f"r{label}{i % count}" for i, label in enumerate(table["label"])] for d, table in tables}
    scores = {domain: table.assign(recording=names[domain]) for domain, table in tables}
    return replace(retagged(one, sample="recordings"), scores=scores)


@pytest.mark.parametrize("count", [5, 6])
def test_of_too_few_recordings_no_interval_and_no_test_is_shown(count):
    tables = tabulate(arrange([recorded(one, count) for one in SMALL]))
    best, few = tables.leaderboard[0], count < 6
    assert [standing.rank for standing in tables.leaderboard] == ([1, 1] if few else [1, 2])
    text, page = markdown(tables), html(tables, charts(tables), {}, "today")
    ends = f"{best.target.low:.3f} to {best.target.high:.3f}"
    for shown in (text, page):
        assert (ends in shown) != few and ("95 % interval " + ends in shown) != few
    assert ("tells it apart from every other" in text) != few
    assert ("Fewer than 6 of a class in A, B, C: too few for an interval or a test" in text) == few
    independent = mean_over(of_targets(tables.grid.entries[0], tables.grid.common), independent=True)
    assert (f"Were all maps independent, the mean of {best.label} would have {independent.low:.3f} to" in text) == few


def test_the_cards_of_runs_bring_the_shift_and_the_saturation_alarm():
    cards = {
        "shift": {"B": {"intensity": 0.5, "feature_MMD": 0.25}},
        "saturation": {"B": {"alarm": True, "image_AUROC": 0.9, "clamped_AUROC": 0.5}},
    }
    records = [replace(r, cards=cards) if r.source == "A" else r for r in grid()]
    tables = tabulate(arrange(records))
    text, cells = markdown(tables), tables.matrices["good/quick"]
    assert f"| A to B | 0.500 | 0.250 | {cells['A', 'A'].mean - cells['A', 'B'].mean:+.3f} |" in text
    assert "Saturation alarm in 4 of 4 tests" in text and "0.500 instead of 0.900" in text


def test_the_csv_has_a_row_a_run_and_domain():
    table = long_table(arrange(grid()))
    assert len(table) == 8 * 3 and table["image_AUROC"].between(0, 1).all()
    assert set(table["role"]) == {"source", "target"}


@pytest.mark.slow
def test_a_report_needs_neither_mlflow_nor_torch():
    code = "import sys, hdmap_mlflow.report.page, hdmap_mlflow.report.charts, hdmap_mlflow.report.write\n"
    code += "print([m for m in ('mlflow', 'torch', 'anomalib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_regret_of_choosing_by_validation_is_the_mean_over_sources():
    picks = [Pick("A", "source validation", "x", 0.7, 0.3), Pick("A", "oracle", "y", 1.0, 0.0)]
    picks += [Pick("B", "source validation", "y", 0.9, 0.1), Pick("B", "oracle", "y", 1.0, 0.0)]
    text = markdown(replace(tabulate(arrange(grid())), picks=picks))
    assert "Mean regret of choosing by source validation: 0.200." in text


def test_one_row_of_the_table_is_a_selection_rule_in_tables_and_text(monkeypatch):
    monkeypatch.setitem(SELECTION_RULES, "its name", lambda runs: float(runs[0].tag("model") == "poor"))
    tables = tabulate(arrange(grid()))
    by_name = [pick for pick in tables.picks if pick.rule == "its name"]
    best = {pick.source: pick.value for pick in tables.picks if pick.rule == "oracle"}
    assert [(pick.source, pick.label) for pick in by_name] == [("A", "poor/quick"), ("B", "poor/quick")]
    assert all(pick.regret == best[pick.source] - pick.value > 0.1 for pick in by_name)
    text = markdown(tables)
    assert "| source | picked by source validation | its target mean | picked by its name | its target mean |" in text
    assert f"Mean regret of choosing by its name: {sum(p.regret for p in by_name) / 2:.3f}." in text
    monkeypatch.setitem(SELECTION_RULES, "its name", lambda runs: None if runs[0].source == "A" else 1.0)
    assert {pick.source for pick in tabulate(arrange(grid())).picks} == {"B"}, "a rule that cannot judge picks nothing"


def test_the_points_of_the_charts_are_every_runs_figures(full, monkeypatch):
    drawn = []
    monkeypatch.setattr(drawing, "_svg", lambda figure: drawn.append(figure.axes[0]) or "svg")
    charts(full)
    val, after, alarms = [], [], []
    for run in full.grid.runs:
        cuts = thresholds(run.part("val", run.source))
        found = [image_metrics(reported(run, domain), cuts) for domain in run.targets]
        val.append(image_metrics(run.part("val", run.source))["image_AUROC"])
        after.append(sum(one["image_AUROC"] for one in found) / len(found))
        alarms += [one["FPR_at_normal_q99"] for one in found]
    shown = [[line.get_xydata() for line in axis.lines if line.get_marker() == "o"] for axis in drawn[1:]]
    foretells, realised = ([tuple(point) for line in lines for point in line] for lines in shown)
    np.testing.assert_allclose(sorted(foretells), sorted(zip(val, after, strict=True)))
    assert [y for _, y in realised] == pytest.approx(alarms) and len({x for x, _ in realised}) == 2 * 3
