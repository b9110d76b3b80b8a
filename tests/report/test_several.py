"""Runs on all domains but the target: a row of the matrix, and whether they help more than its healthy maps."""

from dataclasses import replace

import pytest
from records import DOMAINS, adapted, all_but, record, scores

from hdmap_mlflow.adaptation.adapter import Adapter
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.report.adapted import views_of
from hdmap_mlflow.report.arrange import ALL_BUT, arrange
from hdmap_mlflow.report.page import markdown
from hdmap_mlflow.report.sections import matrix_rows
from hdmap_mlflow.report.summary import headline
from hdmap_mlflow.report.tables import tabulate


@pytest.fixture(autouse=True)
def _an_adapter_of_models(monkeypatch):
    monkeypatch.setitem(ADAPTERS, "merge", Adapter("merge", "made", "features", None))


def tables_of(quality, k=()):
    singles = [record("good", source, 0, 1.0) for source in DOMAINS]
    for count in k:
        singles = [adapted(one, k=count) for one in singles]
    runs = [*singles, *(all_but(target, quality) for target in DOMAINS)]
    views, left_out = views_of(runs)
    return tabulate(arrange(runs), left_out, views={n: arrange(some) for n, some in views.items()})


def test_sources_that_are_all_but_one_domain_are_one_row_beside_single_ones():
    tables = tables_of(2.0)
    assert tables.grid.rows == ["A", "B", "C", ALL_BUT] and tables.grid.domains == ["A", "B", "C"]
    rows = {row[0]: row[1:] for row in matrix_rows(tables, "good/quick")}
    for i, target in enumerate(DOMAINS):
        source = ",".join(name for name in DOMAINS if name != target)
        cell = tables.cell("good/quick", ALL_BUT, target)
        assert cell == tables.matrices["good/quick"][source, target] and f"{cell.mean:.3f}" in rows[ALL_BUT][i]
    assert "no run was trained on" not in markdown(tables) and not tables.missing


def test_other_sources_of_several_domains_keep_a_row_of_their_own():
    runs = [record("good", source, 0, 1.0) for source in "AB"] + [all_but("C", 2.0)]
    wider = [replace(one, scores={**one.scores, "D": scores("D", 1.0, 1)}) for one in runs]
    grid = arrange(wider)
    assert grid.rows == ["A", "A,B", "B"] and "no run was trained on D" in grid.missing()


def test_the_source_of_several_is_their_mean():
    from hdmap_mlflow.report.arrange import auroc, reported

    run = all_but("C", 2.0)
    each = [auroc(reported(run, name)) for name in "AB"]
    assert auroc(reported(run, run.source)) == pytest.approx(sum(each) / 2, abs=1e-12)
    assert run.targets == ["C"] and run.sources == ["A", "B"]


@pytest.mark.parametrize(
    ("quality", "says"), [(3.0, "it helps."), (-1.0, "it harms."), (0.5, "that it helps or harms is not shown.")]
)
def test_the_first_line_says_whether_a_second_source_helps(quality, says):
    tables = tables_of(quality)
    found = tables.several[0]
    first = headline(tables)[0]
    assert first.startswith("Does a second source help?") and first.endswith(says)
    assert f"{found.all_but.value:.3f}" in first and f"{found.gain.difference:+.3f}" in first
    assert found.gain.difference == pytest.approx(found.all_but.value - found.one.value)


def test_the_next_lines_set_it_against_healthy_maps_of_the_target():
    lines = headline(tables_of(3.0, (4, 16)))
    assert lines[1].startswith("More sources or 4 healthy maps of the target beside one source (merge+z:")
    assert lines[2].startswith("More sources or 16 healthy maps") and "help more" in lines[1]
    assert "help less" in headline(tables_of(-1.0, (4,)))[1]
    assert not [line for line in headline(tabulate(arrange([record("good", "A", 0, 1.0)]))) if "second source" in line]
