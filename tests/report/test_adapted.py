"""Runs adapted with healthy maps of their targets: a leaderboard of their own, and what they gain in words."""

import re
from dataclasses import replace

import pytest
from records import adapted, grid

from hdmap_mlflow.adaptation.adapter import Adapter
from hdmap_mlflow.adaptation.table import ADAPTERS
from hdmap_mlflow.report.adapted import view, views_of
from hdmap_mlflow.report.arrange import arrange, auroc
from hdmap_mlflow.report.curves import Curve
from hdmap_mlflow.report.latex import latex
from hdmap_mlflow.report.page import markdown
from hdmap_mlflow.report.sections import adapted_board
from hdmap_mlflow.report.summary import headline
from hdmap_mlflow.report.tables import long_table, tabulate

pytestmark = [pytest.mark.slow, pytest.mark.mutants]


@pytest.fixture(scope="module", autouse=True)
def _an_adapter_of_models():
    """`merge`, whatever the package's own needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ADAPTERS, "merge", Adapter("merge", "made", "features", None))
        yield


def tables_of(runs):
    views, left_out = views_of(runs)
    return tabulate(arrange(runs), left_out, views={k: arrange(some) for k, some in views.items()})


@pytest.fixture(scope="module")
def both():
    """Two models, each adapted by two chains with 16 maps and by one of them with 4."""
    runs = [adapted(adapted(adapted(one, "z"), "merge-z"), "z", 4, fpr=0.1) for one in grid()]
    return tables_of(runs)


def test_source_only_and_adapted_entries_are_never_ranked_together(both):
    plain = tabulate(arrange(grid()))
    assert [(s.label, s.rank, s.target) for s in both.leaderboard] == [
        (s.label, s.rank, s.target) for s in plain.leaderboard
    ]
    assert [(one.k, one.standing.label, one.standing.rank) for one in both.adapted] == [
        (4, "good/quick, z", 1),
        (4, "poor/quick, z", 2),
        (16, "good/quick, merge+z", 1),
        (16, "good/quick, z", 2),
        (16, "poor/quick, merge+z", 3),
        (16, "poor/quick, z", 4),
    ]
    names = {label for one, other, *_ in both.pairs for label in (one, other)}
    assert names == {"good/quick", "poor/quick"}


def test_the_gain_is_paired_with_the_same_run_source_only(both):
    gains = {(one.k, one.standing.label): one.gain for one in both.adapted}
    best, idle = gains[16, "good/quick, merge+z"], gains[16, "good/quick, z"]
    plain = next(s for s in both.leaderboard if s.label == "good/quick")
    reached = next(one.standing for one in both.adapted if one.standing.label == "good/quick, merge+z")
    assert best.auroc.difference == pytest.approx(reached.target.value - plain.target.value)
    assert best.auroc.low > 0 and best.auroc.high < 1
    assert idle.auroc.difference == 0 and idle.auroc.p == 1, "z does not move the order of a target's maps"
    assert best.beside == {"pooled AUROC": (0.6, 0.7), "FPR at 1 %": (0.36, 0.04), "TPR at 1 %": (0.5, 0.6)}


def test_the_first_lines_say_which_model_adapted_how_with_how_many_maps_and_what_it_gains(both):
    first, second, third, *rest = headline(both)
    assert re.search(
        r"^With 16 healthy maps of each target, \*\*good/quick, merge\+z\*\* has .* AUROC: 0\.\d{3} \(95 % interval "
        r"0\.\d{3} to 0\.\d{3}\), \+0\.\d{3} over source only \(\+0\.\d{3} to \+0\.\d{3}\)\.$",
        first,
    )
    assert second == (
        "At the threshold that allows 1 % it raises 4 % false alarms on the targets (source only: 36 %) and finds 60 % "
        "of the faults (source only: 50 %)."
    )
    assert "another protocol" in third and rest == headline(tabulate(arrange(grid())))


def test_where_adapters_leave_every_ranking_alone_the_fewest_maps_lead_and_it_is_said():
    found = tables_of([adapted(adapted(one, "z", 16), "z", 4) for one in grid()])
    assert headline(found)[0].startswith("With 4 healthy maps of each target, **good/quick, z** has")
    assert headline(found)[0].endswith(
        "that of source only: its adapters move scores, not the order of a target's maps."
    )


def test_of_adapters_that_leave_every_ranking_alone_the_one_with_the_fewest_false_alarms_leads():
    found = tables_of([adapted(adapted(one, "robust_z", 4, fpr=0.3), "z", 16, fpr=0.03) for one in grid()])
    assert headline(found)[0].startswith("With 16 healthy maps of each target, **good/quick, z** has")


def test_a_report_of_runs_that_were_never_adapted_reads_as_before():
    plain = tabulate(arrange(grid()))
    assert plain.adapted == [] and "k_normals" not in markdown(plain) + latex(plain)
    assert "healthy maps of the target" not in markdown(plain)


def test_an_adapted_entry_that_lacks_runs_is_told_and_not_ranked():
    runs = [adapted(one) for one in grid()]
    runs[0] = adapted(grid()[0], "z")
    found = {one.standing.label: one.standing for one in tables_of(runs).adapted}
    ranks = {label: one.rank for label, one in found.items()}
    assert ranks == {"good/quick, merge+z": 1, "poor/quick, merge+z": 2, "good/quick, z": None}
    assert found["good/quick, z"].lacks == [("A", 1), ("B", 0), ("B", 1)]


def test_every_form_of_the_report_holds_the_second_leaderboard(both):
    board = adapted_board(both)
    assert board.rows[2][:3] == ["good/quick, merge+z", "16", "1"] and board.rows[2][6:9] == [
        "0.700 (0.600)",
        "0.040 (0.360)",
        "0.600 (0.500)",
    ]
    assert "## Leaderboard with healthy maps of the target" in markdown(both)
    assert r"\label{tab:hdmap-leaderboard-k-normals}" in latex(both)
    table = long_table(both.grid, both.views)
    assert table.groupby(["protocol", "adapters", "k"]).size().to_dict() == {
        ("source_only", "", 0): 24,
        ("k_normals", "z", 4): 16,
        ("k_normals", "z", 16): 16,
        ("k_normals", "merge+z", 16): 16,
    }
    rows = table[table["protocol"] == "k_normals"]
    assert set(rows["role"]) == {"target"} and set(rows["image_AUROC"]) == {0.9}


def test_each_draw_counts_in_the_figure_and_the_scores_of_before_stay_beside():
    one = adapted(grid()[0])
    seen = view(one, 16, ("merge", "z"))
    table, plain = seen.scores["B"], one.scores["B"].query("split == 'test'")
    assert list(table["plain"]) == list(plain["score"]) and {"score", "score@1"} <= set(table)
    assert "score@3" not in table and set(table["split"]) == {"test"}
    assert list(table["score@1"]) == pytest.approx(list(plain["score"] + 1.1 * plain["label"]))
    alone = table[["label", "score"]]
    each = [auroc(alone), auroc(table, "score@1"), auroc(table, "score@2")]
    assert auroc(table) == pytest.approx(sum(each) / 3) and each[0] < each[2]


def test_z_moves_the_scores_of_a_target_and_never_their_order():
    one = adapted(grid()[0], "z")
    seen = view(one, 16, ("z",)).scores["B"]
    assert seen["score"].rank().equals(seen["plain"].rank()) and not (seen["score"] == seen["plain"]).all()
    assert {"score@1", "score@2"} <= set(seen), "one column per draw"
    assert not seen["score"].equals(seen["score@1"])


def test_maps_that_a_draw_took_out_of_the_reported_ones_count_in_neither_figure():
    one = adapted(grid()[0], "z", 4)
    one = replace(one, params={**one.params, "adapt.from": "test"})
    seen = view(one, 4, ("z",)).scores["B"]
    assert 20 - 12 <= (seen["label"] == 0).sum() < 20 - 4 and (seen["label"] == 1).sum() == 20
    assert seen[["plain", "score", "score@1", "score@2"]].notna().all(axis=None)


def test_a_run_whose_adapted_scores_are_not_there_is_left_out_by_name():
    one = adapted(grid()[0])
    lost = {d: t[[name for name in t if "/" not in name]] for d, t in one.scores.items()}
    views, left_out = views_of([replace(one, scores=lost)])
    assert views == {} and left_out == [
        "good/A/s0 (goodA0), merge+z with k = 16: no scores of merge+z with k=16 are kept"
    ]


def test_enough_maps_are_those_after_which_more_save_less_than_a_point_of_false_alarms(both):
    alarms = {0: 0.36, 1: 0.2, 4: 0.045, 16: 0.04, 64: 0.036}
    curve = Curve("a", "z", {k: {"FPR_at_normal_q99": rate} for k, rate in alarms.items()})
    assert curve.enough == 4
    flat = Curve("a", "z", {k: {"FPR_at_normal_q99": 0.01 + k / 10_000} for k in alarms})
    assert flat.enough == 0, "a machine whose threshold travels needs none"
    silent = {k: {"FPR_at_normal_q99": 0.4 if k < 1 else 0.0, "TPR_at_normal_q99": float(k < 1)} for k in alarms}
    assert Curve("a", "conformal", silent).enough is None, "no alarm ever rings"
    late = {**silent, 64: {"FPR_at_normal_q99": 0.01, "TPR_at_normal_q99": 0.4}}
    assert Curve("a", "conformal", late).enough == 64
    assert Curve("a", "z", {0: {"FPR_at_normal_q99": 0.4}, 1: {"FPR_at_normal_q99": 0.3}}).enough == 1


def test_the_panel_shows_the_mean_of_the_runs_curves_and_how_many_maps_are_enough():
    runs = [adapted(one, fpr=0.04 if one.source == "A" else 0.06) for one in grid()]
    found = tables_of(runs)
    merge = next(one for one in found.curves if (one.label, one.chain) == ("good/quick", "merge+z"))
    assert merge.points[16]["FPR_at_normal_q99"] == pytest.approx(0.05) and merge.points[16]["image_AUROC_sd"] == 0.02
    assert merge.points[64]["pooled_AUROC"] == pytest.approx(0.664) and "image_AUROC_sd" not in merge.points[0]
    text = markdown(found)
    assert "## How many healthy maps does a machine need?" in text
    line = next(line for line in text.splitlines() if line.startswith("| good/quick | merge+z | 36% |"))
    assert [cell.strip() for cell in line.split("|")[3:-1]] == [
        *("36%", "20%", "5%", "5%"),
        *("16", "50%", "0.800 to 0.800", "0.600 to 0.664"),
    ]
    assert "many healthy maps" not in markdown(tabulate(arrange(grid())))


@pytest.mark.parametrize("left_out", [[], ["16"]])
def test_a_card_without_a_point_or_of_an_older_run_leaves_the_others(left_out):
    one, old = adapted(grid()[0]), grid()[1]
    curve = one.cards["adaptation"]["curve"]["merge+z"]
    for k in left_out:
        del curve[k]
    found = tabulate(arrange([one, old])).curves
    assert [list(one.points) for one in found if one.chain == "merge+z"] == [[0, 1, *[16] * (not left_out), 64]]
