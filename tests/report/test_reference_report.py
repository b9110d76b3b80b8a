"""Every number of a report against the independent reference; a number that has no reference value fails."""

import dataclasses
import re
from dataclasses import replace
from functools import cache

import pandas as pd
import pytest
from records import grid, record, retagged
from reference import report as reference

from hdmap_mlflow.report.arrange import arrange
from hdmap_mlflow.report.page import markdown
from hdmap_mlflow.report.summary import headline
from hdmap_mlflow.report.tables import long_table, tabulate

THREE = (("good", 2.5), ("fair", 2.2), ("poor", 1.0))

DETECTABLE = (1.959964 + 0.841621) / 1.959964 / 2  # standard errors at 5 % and 80 % power, of an interval's width


def altered(one, change, domains="ABC"):
    return replace(one, scores={d: change(t) if d in domains else t for d, t in one.scores.items()})


def renamed(table):
    """The same maps under each other's names, and so in another order."""
    return table.assign(path=table["path"].to_numpy()[::-1]).sort_values(["split", "path"]).reset_index(drop=True)


def only(split, label):
    """Without the other class in one role."""
    return lambda table: table[(table["split"] != split) | (table["label"] == label)].reset_index(drop=True)


def one_fault(table):
    return pd.concat([table[table["label"] == 0], table[table["label"] == 1][:1]], ignore_index=True)


def other_maps(table):
    return table.assign(image_max=table["image_max"] + 1)


def perfect(table):
    return table.assign(score=table["label"] + table["score"].rank() / 1000)


def constant(table):
    return table.assign(score=0.0)


def rounded(table):
    return table.assign(score=table["score"].round())


def of(model, records, change, domains="ABC"):
    return [altered(r, change, domains) if r.tag("model") == model else r for r in records]


def real(one):
    return retagged(one, simulated="false", data_digest="d2", validation="source_test")


def halves(records):
    """Seed 1 reports on another half of its source's maps than seed 0: another split seed."""
    own = [altered(r, other_maps, r.source) if r.params["train.seed"] == "1" else r for r in records]
    return [replace(r, params={**r.params, "data.split_seed": r.params["train.seed"]}) for r in own]


COSTS = ("fit_seconds", "evaluate_seconds", "fit_peak_MB", "train_maps")


def priced(records):
    """Costs that differ, and one run without any."""
    told = [
        {f"cost/{name}": float(cost) for name, cost in zip(COSTS, (3 * i, i / 4, 100 + i, 40 * i), strict=True)}
        for i in range(len(records))
    ]
    return [replace(r, metrics=costs if i else {}) for i, (r, costs) in enumerate(zip(records, told, strict=True))]


ONE_SOURCE, SMALLEST = grid(sources="A"), grid(sources="A", seeds=(0,))
CASES = {
    "three entries, a run missing": grid(THREE, "A", (0, 1))[:-1] + grid(THREE[:2], "B", (0,)),
    "one entry of a single run": grid(THREE[:2], "AB", (0, 1)) + grid(THREE[2:], "B", (1,)),
    "one entry that lacks a run": grid(THREE, "AB", (0,))[:-1],
    "an extra seed of one entry": grid(THREE, "A", (0, 1)) + grid(THREE[:1], "A", (2,)),
    "most entries hardly begun": [*grid(THREE[:1], "AB", (0, 1)), *grid(THREE[1:], "C", (1,))],
    "runs that no other entry has": [*grid(seeds=(1,)), *grid(THREE[1:2], "BC", (1,))],
    "no run in common": [altered(record("good", "A", 0, 2), only("test", 1), "BC"), record("poor", "B", 0, 1)],
    "no run in common, and other maps": [
        *grid(THREE[:1], "A", (0, 1)),
        altered(record("good", "A", 2, 2.5), other_maps, "B"),
        altered(record("poor", "B", 0, 1), other_maps, "C"),
    ],
    "a single run, without costs": [replace(r, metrics={}) for r in grid(THREE[:1], "A", (3,))],
    "a target of one class": [altered(r, only("test", 0), "C") for r in SMALLEST],
    "no target with both classes": [altered(r, only("test", 1), "BC") for r in SMALLEST],
    "validation without faults": [real(altered(r, only("val", 0))) for r in SMALLEST],
    "validation without good maps": [altered(r, only("val", 1)) for r in SMALLEST],
    "a source of one class": [altered(r, only("test", 0), "A") for r in SMALLEST],
    "scores with ties": of("poor", [altered(r, rounded) for r in SMALLEST], constant, "A"),
    "perfect separation": of("good", SMALLEST, perfect),
    "a single fault map": [altered(r, one_fault, "B") for r in SMALLEST],
    "a model worse than chance": grid((("good", 1.2), ("poor", -1.5)), "B", (0,)),
    "renamed files of an entry": of("poor", SMALLEST, renamed),
    "renamed files of one run": [altered(ONE_SOURCE[0], renamed), *ONE_SOURCE[1:]],
    "one run without good validation maps": [altered(ONE_SOURCE[0], only("val", 1)), *ONE_SOURCE[1:]],
    "other maps of a target in an entry": of("good", grid(THREE, "A", (0,)), other_maps, "C"),
    "other maps of a target in one run": [altered(ONE_SOURCE[0], other_maps, "C"), *ONE_SOURCE[1:]],
    "other maps of every target in one run": [altered(ONE_SOURCE[0], other_maps, "BC"), *ONE_SOURCE[1:]],
    "other halves of the source, and costs that differ": priced(halves(ONE_SOURCE)),
}
# Cases whose report.csv differs in kind.
READ = [
    "a target of one class",
    "validation without faults",
    "validation without good maps",
    "scores with ties",
    "other halves of the source, and costs that differ",
]


@cache
def expected(name):
    """The runs of a case by entry, and the reference's numbers; kept, for nothing of the package moves them."""
    entries = {}
    for one in CASES[name]:
        entries.setdefault(f"{one.tag('model')}/quick", []).append(one)
    return entries, reference.report(dict(sorted(entries.items())))


def flat(value, name=""):
    """Leaves by their path; what holds nothing is no leaf. Maps are the sample here, of which there are never few."""
    if dataclasses.is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        assert not value.pop("few", False)
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{name}/{key}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), name)
    return {name: value}


def agree(found, wanted):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        if isinstance(value, float) and isinstance(found[name], float):
            assert found[name] == pytest.approx(value, abs=1e-7), name
        else:
            assert found[name] == value, name


def check_tables(tables, wanted):
    found = {f.name: getattr(tables, f.name) for f in dataclasses.fields(tables) if f.name not in ("grid", "oracles")}
    for board in ("leaderboard", "incomplete"):
        found[board] = [replace(s, unproven=bool(s.unproven)) for s in found[board]]
    pairs = {(one, other): (c.difference, c.low, c.high, c.p, p) for one, other, c, p in tables.pairs}
    left_out = ("common", "missing", "pairs")
    agree(
        flat({k: v for k, v in found.items() if k not in left_out}),
        flat({k: v for k, v in wanted.items() if k not in left_out}),
    )
    agree(flat(pairs), flat(wanted["pairs"]))


def check_missing(tables, wanted):
    """A line for each thing, and no other."""
    assert len(tables.missing) == len(wanted["missing"])
    for words in wanted["missing"]:
        assert sum(all(re.search(rf"\b{word}\b", line) for word in words) for line in tables.missing) == 1, words


def shown(cell):
    """The numbers of a cell of Markdown as (value, half a unit of the last place)."""
    found = re.findall(r"(?<!\w)([+-]?\d+(?:\.(\d+))?)(%?)(?!\w)", cell.replace("n=", ""))
    return [
        (float(n) / (100 if percent else 1), 0.5 * 10 ** -(len(digits) + 2 * bool(percent)) + 1e-9)
        for n, digits, percent in found
    ]


def says(cell, words, numbers):
    """Whether a cell holds these words and, beside them, just these numbers, rounded."""
    for word in words:
        assert word in cell, (word, cell)
        cell = cell.replace(word, "", 1)
    found, wanted = shown(cell), [number for number in numbers if number is not None]
    assert len(found) == len(wanted), (cell, wanted)
    for (value, half), number in zip(found, wanted, strict=True):
        assert abs(value - number) <= half, (cell, wanted)


def expected_cells(entries, wanted):
    """Title -> rows of cells, each as (words, numbers), of all tables in the report's text."""
    board, apart, out = [], [], {}
    for s in (*wanted["leaderboard"], *wanted["incomplete"]):
        target, over, worst = s["target"] or {}, s["over_trivial"] or {}, s["worst"] or (None, None)
        if s in wanted["incomplete"]:
            count = len(wanted["common"])
            by_source = {source: [seed for of, seed in s["lacks"] if of == source] for source, _ in s["lacks"]}
            apart.append(
                [
                    ([s["label"]], []),
                    ([], [count - len(s["lacks"]), count]),
                    ([f"{source}:" for source in by_source], [seed for own in by_source.values() for seed in own]),
                    ([], [target.get("value")]),
                    ([], [target.get("low"), target.get("high")]),
                    ([worst[0]] if worst[0] else [], [worst[1]]),
                ]
            )
            continue
        bounds = [over.get("difference"), over.get("low"), over.get("high")]
        board.append(
            [
                ([s["label"]], []),
                ([], [s["rank"]]),
                ([], [target.get("value")]),
                ([], [target.get("low"), target.get("high")]),
                ([], [s["target_sd"]]),
                ([], [s["with_seeds"]["low"], s["with_seeds"]["high"]] if s["with_seeds"] else []),
                ([worst[0]] if worst[0] else [], [worst[1]]),
                ([], [s["source"]]),
                ([], [s["ratio"]]),
                ([], [s["gap"]]),
                ([], [s["skill"]]),
                ([], bounds),
            ]
        )
    for name, (value, (domain, worst)) in wanted["trivial"].items():
        empty = ([], [])
        board.append([([name], []), empty, ([], [value]), empty, empty, empty, ([domain], [worst]), *[empty] * 5])
    out["Leaderboard"], out["Incomplete entries"] = board, apart
    runs = [run for own in entries.values() for run in own]
    sources = sorted({reference.tag(run, "source") for run in runs})
    domains = sorted({domain for run in runs for domain in run.scores})
    for label, cells in wanted["matrices"].items():
        out[label] = [[([s], []), *(matrix_cell(cells.get((s, d))) for d in domains)] for s in sources]
    out["Paired tests"] = [
        [([one, other], []), ([], [d]), ([], [low, high]), ([], [max(p, 0.001)]), ([], [(high - low) * DETECTABLE])]
        for (one, other), (d, low, high, _, p) in wanted["pairs"].items()
    ]
    out["Thresholds that travelled"] = [
        [
            ([t["label"]], []),
            ([], [t["normals"]]),
            ([], t["expected"] or []),
            ([], [t["source_fpr"]]),
            ([], [t["fpr"]]),
            ([], [t["tpr"]]),
            ([t["worst_fpr"][0]], [t["worst_fpr"][1]]) if t["worst_fpr"] else ([], []),
        ]
        for t in wanted["travels"]
    ]
    rules = {(p["source"], p["rule"]): p for p in wanted["picks"]}
    out["Choosing a model without target labels"] = [
        [
            ([source], []),
            ([p["label"]], []),
            ([], [p["value"]]),
            ([rules[source, "oracle"]["label"]], []),
            ([], [rules[source, "oracle"]["value"]]),
            ([], [p["regret"]]),
        ]
        for (source, rule), p in rules.items()
        if rule != "oracle"
    ]
    seeds = {label: sorted({reference.key(run)[1] for run in runs}) for label, runs in entries.items()}
    out["Runs and cost"] = [
        [
            ([s["label"]], []),
            (["embedded"], []),
            ([], [s["runs"]]),
            ([], seeds[s["label"]]),
            *(([], [s[name]]) for name in ("train_maps", "fit_seconds", "evaluate_seconds", "peak_mb")),
        ]
        for s in (*wanted["leaderboard"], *wanted["incomplete"])
    ]
    return {title: rows for title, rows in out.items() if rows}


def matrix_cell(one):
    return ([], [one["mean"], one["sd"], one["n"], *(one["interval"] or ())]) if one else ([], [])


def check_text(entries, tables, wanted):
    """Every table of the text shows the reference's numbers, and there is no other table."""
    found, title = {}, ""
    for line in markdown(tables).splitlines():
        title = line.lstrip("# ") if line.startswith("#") else title
        if line.startswith("| "):
            found.setdefault(title, []).append([part.strip() for part in line[1:-1].split(" | ")])
    expected = expected_cells(entries, wanted)
    assert set(found) == set(expected)
    for name, rows in expected.items():
        assert len(found[name]) == len(rows) + 1, name
        for row, told in zip(found[name][1:], rows, strict=True):
            assert len(row) == len(told) == len(found[name][0])
            for text, (words, numbers) in zip(row, told, strict=True):
                says(text.strip("| "), words, numbers)


def check_headline(tables, wanted):
    """It claims what the reference's numbers allow."""
    lines = headline(tables)
    board = [s for s in wanted["leaderboard"] if s["target"]]
    if not board:
        assert len(lines) == 1 and "nothing can be compared" in lines[0]
        return
    best = max(board, key=lambda s: s["target"]["value"])
    says(lines[0].replace("95 %", ""), [best["label"]], list(best["target"].values()))
    apart = {other for (one, other), found in wanted["pairs"].items() if one == best["label"] and found[4] < 0.05}
    tied = [s["label"] for s in board if s is not best and s["label"] not in apart]
    told = " ".join(lines[1:])
    assert ("not ranked" in told) == (best["rank"] is None)
    for s in board:
        alike = s["label"] in told.partition("Not told apart from it")[2].partition(".")[0]
        assert alike == (bool(wanted["common"]) and s["label"] in tied)
        assert (s["label"] in told.partition("Not shown to beat the trivial scores")[2]) == (not s["beats_trivial"])
    assert ("apart from every other" in told) == (len(board) > 1 and not tied)
    assert ("the only entry that is complete" in told) == (len(board) == 1 and bool(wanted["incomplete"]))
    for s in wanted["incomplete"]:
        there = len(wanted["common"]) - len(s["lacks"])
        assert f"{s['label']} ({there} of {len(wanted['common'])} runs)" in told.partition("Incomplete")[2]
    assert ("beats the trivial scores" in told) == all(s["beats_trivial"] for s in board)
    says(next(line for line in lines if "worst transfer" in line), [best["worst"][0]], [best["worst"][1]])


@pytest.mark.parametrize("name", CASES)
def test_every_number_and_claim_of_a_report_is_the_references(name):
    entries, wanted = expected(name)
    tables = tabulate(arrange(CASES[name]))
    check_tables(tables, wanted)
    check_missing(tables, wanted)
    check_text(entries, tables, wanted)
    check_headline(tables, wanted)


@pytest.mark.parametrize("name", READ)
def test_every_number_of_the_csv_is_the_references(name):
    entries, _ = expected(name)
    wanted = reference.csv(entries)
    table = long_table(arrange(CASES[name]))
    assert len(table) == len(wanted)
    for row in table.to_dict("records"):
        told = wanted[tuple(row.pop(name) for name in ("entry", "source", "seed", "domain"))]
        told["split_seed"] = told["split_seed"] or ""
        agree({k: v for k, v in row.items() if v == v}, told)
