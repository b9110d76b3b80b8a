"""The report's tables as rows of text, for every form in which it is written."""

from __future__ import annotations

from collections.abc import Mapping

from hdmap_mlflow.evaluation.intervals import Interval
from hdmap_mlflow.evaluation.metrics import TRIVIAL
from hdmap_mlflow.names import MEAN_AUROC, SOURCE_AUROC, WORST_AUROC, sources_of
from hdmap_mlflow.report.adapted import BESIDE
from hdmap_mlflow.report.arrange import mean, settings_of
from hdmap_mlflow.report.curves import FALSE_ALARMS, FOUND, POINT
from hdmap_mlflow.report.section import Section, cell_text, difference, number, p_value, percent
from hdmap_mlflow.report.selection import ORACLE, SELECTION_RULES
from hdmap_mlflow.report.summary import SAMPLED, runs_of, weights_of
from hdmap_mlflow.report.tables import ALPHA, Standing, Tables

NEEDED = "How many healthy maps does a machine need?"
REACHED = ("reached", "other_reached")
COMMIT = "mlflow.source.git.commit"  # a tag of MLflow's own


def sections(tables: Tables) -> list[Section]:
    """All tables but the matrices, in order."""
    return [
        _leaderboard(tables),
        _incomplete(tables),
        adapted_board(tables),
        _tests(tables),
        _travels(tables),
        _needed(tables),
        _picks(tables),
        _agreement(tables),
        _cost(tables),
        _shift(tables),
        _oracles(tables),
    ]


def _leaderboard(tables: Tables) -> Section:
    header = [
        "entry",
        "rank",
        "target mean",
        "95 % interval",
        "sd",
        "with seeds",
        "worst target",
        "source",
        "ratio",
        "gap",
        "skill",
        "over trivial",
    ]
    rows = [_standing(standing) for standing in tables.leaderboard]
    for name, (average, (domain, worst)) in tables.trivial.items():
        rows.append([f"trivial: {name}", "", number(average), *[""] * 3, f"{worst:.3f} ({domain})", *[""] * 5])
    notes = [
        "rank = 1 + the number of entries that are better by a paired test on the same maps "
        f"(Holm-adjusted p < {ALPHA:g}); entries of one rank are tied.",
        f"The interval takes the {SAMPLED[tables.sample]} as the sample and the fitted models as given; the sd is over "
        "seeds (ddof 1); the interval with seeds holds both.",
        "over trivial = target mean less that of the best trivial score on the same maps [95 % interval].",
        "ratio = target mean / source, gap = source - target mean, skill = (target mean - .5) / (source - .5).",
    ]
    if lacking := [name for name in TRIVIAL.values() if name not in tables.trivial]:
        notes.append(
            f"Not known of every domain, so not compared: {', '.join(lacking)}; hdmap verify adds it to old runs."
        )
    for why in dict.fromkeys(s.unproven for s in tables.leaderboard if s.unproven):
        names = ", ".join(s.label for s in tables.leaderboard if s.unproven == why)
        notes.append(f"{names}: no ratio and no skill, for on the source {why}.")
    count = len(tables.grid.common)
    if len({len(entry.runs) for entry in tables.grid.entries} | {count}) > 1:
        who = "that all of them have" if not tables.incomplete else "that all of these have; the incomplete stand below"
        notes.insert(
            0,
            f"Entries are compared on the {count} (source, seed) pairs {who}."
            if count
            else "No (source, seed) pair is shared by all entries: there is no ranking.",
        )
    return Section("Leaderboard", header, rows, notes)


def _standing(s: Standing) -> list[str]:
    return [
        s.label,
        "-" if s.rank is None else str(s.rank),
        number(s.target.value if s.target else None),
        _ends(s.target),
        number(s.target_sd),
        _ends(s.with_seeds),
        f"{s.worst[1]:.3f} ({s.worst[0]})" if s.worst else "-",
        number(s.source),
        number(s.ratio),
        number(s.gap, sign=True),
        number(s.skill),
        difference(s.over_trivial),
    ]


def _ends(interval: Interval | None) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}" if interval and not interval.few else "-"


def short_board(tables: Tables) -> Section:
    """The leaderboard as it fits a page of a paper."""
    header, rows = ["entry", "rank", "source", "target mean", "95 % interval", "worst target", "over trivial"], []
    for row in _leaderboard(tables).rows:
        label, rank, target, interval, _, _, worst, source, *_, over = row
        rows.append([label, rank, source, target, interval, worst, over])
    return Section("Summary", header, rows)


def adapted_board(tables: Tables) -> Section:
    """Entries that were adapted with healthy maps of each target: another protocol, and so a leaderboard of its own."""
    header = ["entry", "k", "rank", "target mean", "95 % interval", "gain over source only", *BESIDE, "worst target"]
    rows = []
    for one in tables.adapted:
        label, rank, target, interval, _, _, worst, *_ = _standing(one.standing)
        beside = [f"{number(after)} ({number(before)})" for before, after in one.gain.beside.values()]
        rows.append([label, str(one.k), rank, target, interval, difference(one.gain.auroc), *beside, worst])
    notes = [
        f"Protocol k_normals: each target gave k healthy training maps, none of them reported and no label read; means "
        f"over draws. It is never ranked with source only; the rank (paired tests, Holm-adjusted p < {ALPHA:g}) is "
        "within a k.",
        "gain = target mean less that of the same runs source only, on the same maps [95 % interval]; in brackets what "
        "source only reaches. FPR and TPR: mean over targets at the threshold that allows 1 % on the source.",
    ]
    return Section("Leaderboard with healthy maps of the target", header, rows, notes)


def _incomplete(tables: Tables) -> Section:
    """What the entries lack that are not ranked, and what they reach on the runs that they have."""
    rows = []
    for s in tables.incomplete:
        seeds: dict[str, list[str]] = {}
        for source, seed in s.lacks:
            seeds.setdefault(source, []).append(str(seed))
        lacks = "; ".join(f"{source}: seed{'s' * (len(of) > 1)} {', '.join(of)}" for source, of in seeds.items())
        own = _standing(s)
        rows.append([s.label, runs_of(s, tables), lacks, own[2], own[3], own[6]])
    header = ["entry", "runs", "lacks", "target mean", "95 % interval", "worst target"]
    note = "Not ranked: these figures are of the runs that there are, and of other ones than those of the leaderboard."
    return Section("Incomplete entries", header, rows, [note])


def _tests(tables: Tables) -> Section:
    rows = [
        [
            f"{one} over {other}",
            f"{c.difference:+.3f}",
            *(["-"] * 3 if c.few else [f"{c.low:+.3f} to {c.high:+.3f}", p_value(p), number(c.detectable)]),
        ]
        for one, other, c, p in tables.pairs
    ]
    note = (
        f"detectable = the smallest true difference that these {SAMPLED[tables.sample]} tell in four studies of five "
        "(test at 5 %, not adjusted): what lies below it may be there and not show."
    )
    return Section("Paired tests", ["pair", "difference", "95 % interval", "adjusted p", "detectable"], rows, [note])


def _travels(tables: Tables) -> Section:
    header = [
        "entry",
        "healthy maps",
        "expected",
        "FPR on the source",
        "mean FPR on targets",
        "mean TPR on targets",
        "worst FPR",
    ]
    rows = [
        [
            t.label,
            "-" if t.normals is None else str(t.normals),
            f"{t.expected[0]:.0%} to {t.expected[1]:.0%}" if t.expected else "-",
            percent(t.source_fpr),
            percent(t.fpr),
            percent(t.tpr),
            f"{t.worst_fpr[1]:.0%} ({t.worst_fpr[0]})" if t.worst_fpr else "-",
        ]
        for t in tables.travels
    ]
    notes = [
        "Each run's threshold is set on its source's healthy validation maps, so that at most 1 % of them raise an "
        "alarm, and is applied unchanged to every domain. Where the FPR on targets is far above that on the source, "
        "scores shift with the domain: the model may rank the maps well, but its alarms need a threshold of their own.",
        "healthy maps = how many set the threshold (of the run with the fewest); expected = the bounds, 95 %, of the "
        "FPR that such a threshold shows on the source's reported maps: so few maps cannot set 1 % any more exactly.",
    ]
    return Section("Thresholds that travelled", header, rows, notes)


def _needed(tables: Tables) -> Section:
    """How many healthy maps a machine needs: false alarms over k by entry and chain, and from which k on they stay."""
    counts, rows = sorted({k for curve in tables.curves for k in curve.points}), []
    for curve in tables.curves:
        points, need = list(curve.points.values()), curve.enough
        alarms = [percent(curve.points.get(k, {}).get(FALSE_ALARMS)) for k in counts]
        ends = [f"{number(points[0].get(n))} to {number(points[-1].get(n))}" for n in ("image_AUROC", "pooled_AUROC")]
        there = None if need is None else curve.points[need].get(FOUND)
        rows.append([curve.label, curve.chain, *alarms, number(need, 0), percent(there), *ends])
    header = ["entry", "adapters", *(f"k = {k}" for k in counts), "enough", "TPR there", "AUROC", "pooled AUROC"]
    notes = [
        "k = how many healthy maps each target gave (0: source only); below it the false alarms on the targets at the "
        "threshold that allows 1 % on the source, mean over runs, targets and draws.",
        f"enough = the smallest k after which more maps save less than {POINT:.0%} of false alarms; TPR = faults found "
        "with so many (-: even the largest k raises no alarm); AUROC of each target, and pooled over all domains, "
        "from the smallest k to the largest.",
    ]
    return Section(NEEDED, header, rows, notes)


def _picks(tables: Tables) -> Section:
    """One row per source: what each rule picks, what the oracle would, and the regret of each rule."""
    picks = {(pick.source, pick.rule): pick for pick in tables.picks}
    rules = [rule for rule in SELECTION_RULES if rule != ORACLE]
    rows = []
    for source in dict.fromkeys(source for source, _ in picks):
        chosen = [picks[source, rule] for rule in (*rules, ORACLE)]
        cells = [cell for pick in chosen for cell in (pick.label, number(pick.value))]
        rows.append([source, *cells, *(number(pick.regret) for pick in chosen[:-1])])
    notes = ["The oracle looks at the targets: it is what could have been had, not a result."]
    for rule in rules if picks else ():
        regrets = [pick.regret for pick in tables.picks if pick.rule == rule]
        notes.append(f"Mean regret of choosing by {rule}: {sum(regrets) / len(regrets):.3f}.")
    header = ["source", *(word for rule in rules for word in (f"picked by {rule}", "its target mean"))]
    header += ["oracle pick", "its target mean", *(["regret"] * len(rules))]
    return Section("Choosing a model without target labels", header, rows, notes)


def _agreement(tables: Tables) -> Section:
    """Whether another validation strategy would have chosen the same, and what that costs on the targets."""
    rows, notes = [], []
    for one in tables.agreements:
        chosen = [one.own, number(one.reached), one.other, number(one.other_reached)]
        regrets = [number(one.best - value) for value in (one.reached, one.other_reached)]
        rows.append([one.source, one.strategy, str(one.entries), *chosen, *regrets, number(one.tau, 2, sign=True)])
    for strategy in dict.fromkeys(one.strategy for one in tables.agreements):
        some = [one for one in tables.agreements if one.strategy == strategy]
        same = sum(one.own == one.other for one in some)
        own, other = (sum(one.best - getattr(one, name) for one in some) / len(some) for name in REACHED)
        notes.append(
            f"`{strategy}` chooses as `{tables.validation}` does on {same} of {len(some)} "
            f"source{'s' * (len(some) > 1)}; mean regret {other:.3f}, of `{tables.validation}` {own:.3f}."
        )
    notes.append(
        f"Both choose by validation AUROC; target means are those of the `{tables.validation}` runs. tau = Kendall's "
        "tau-b between the validation AUROCs of both over the entries."
    )
    header = ["source", "other strategy", "entries", f"picked by {tables.validation}", "its target mean"]
    header += ["picked by the other", "its target mean", "regret", "regret of the other", "tau"]
    return Section("Agreement of validation strategies", header, rows, notes)


def _cost(tables: Tables) -> Section:
    seeds = {e.label: sorted({seed for _, seed in e.runs}) for e in tables.grid.entries}
    weights = {entry.label: weights_of(entry) or "-" for entry in tables.grid.entries}
    rows = [
        [
            s.label,
            weights[s.label],
            str(s.runs),
            ", ".join(map(str, seeds[s.label])),
            "-" if s.train_maps is None else f"{s.train_maps:,.0f}",
            number(s.fit_seconds, 1),
            number(s.evaluate_seconds, 1),
            number(s.peak_mb, 0),
        ]
        for s in (*tables.leaderboard, *tables.incomplete)
    ]
    header = ["entry", "weights", "runs", "seeds", "maps trained on", "fit, mean s", "evaluate, mean s"]
    note = "maps trained on = how many maps were in a batch, each as often as it was; the mean over runs."
    return Section("Runs and cost", [*header, "peak memory of fit, MB"], rows, [note])


def _shift(tables: Tables) -> Section:
    """Label-free distances beside the drop of every entry, from the runs' cards."""
    found: dict[tuple[str, str], Mapping[str, float]] = {}
    for run in tables.grid.runs:
        cards = run.cards.get("shift", {})
        found |= {(run.source, domain): card for domain, card in cards.items() if "feature_MMD" in card}
    rows, columns = [], list(tables.matrices)
    for (source, domain), card in sorted(found.items()):
        row = [f"{source} to {domain}", number(card["intensity"]), number(card["feature_MMD"])]
        for label in columns:
            cells = tables.matrices[label]
            own = mean(cell.mean for to in sources_of(source) if (cell := cells.get((source, to))))
            there = cells.get((source, domain))
            row.append("-" if own is None or there is None else number(own - there.mean, sign=True))
        rows.append(row)
    note = "Without labels: Wasserstein distance of pixels in units of the source's mean; squared MMD of features."
    header = ["shift", "intensity", "feature MMD", *(f"AUROC drop, {label}" for label in columns)]
    return Section("Domain shift against the drop", header, rows, [note])


def _oracles(tables: Tables) -> Section:
    """Runs whose settings a study chose on target data: what could have been had, never a result."""
    rows = [
        [
            run.name,
            run.tag("study"),
            number(run.metrics.get(SOURCE_AUROC)),
            number(run.metrics.get(MEAN_AUROC)),
            number(run.metrics.get(WORST_AUROC)),
        ]
        for run in sorted(tables.oracles, key=lambda one: one.name)
    ]
    note = "These settings were chosen on the targets that they are measured on. They are ranked nowhere."
    return Section("Oracle studies", ["run", "study", "source", "target mean", "worst target"], rows, [note])


def details(tables: Tables) -> list[Section]:
    """For those who want to look closer: every run with its id and commit, and the settings of every entry."""
    runs, settings = [], []
    for entry in tables.grid.entries:
        for (source, seed), run in entry.runs.items():
            commit = run.tags.get(COMMIT, "")[:10] or "-"
            runs.append([entry.label, source, str(seed), number(run.metrics.get(MEAN_AUROC)), commit, run.run_id])
        told = [f"{k.removeprefix('model.')}={v}" for k, v in settings_of(entry.first).items() if v != "null"]
        settings.append([entry.label, ", ".join(told)])
    note = "Settings that are not named are not set; source, targets and seeds are those of each run."
    return [
        Section("Settings", ["entry", "settings"], settings, [note]),
        Section("Runs", ["entry", "source", "seed", "target mean", "commit", "run"], runs),
    ]


def matrix_rows(tables: Tables, label: str) -> list[list[str]]:
    """Source x domain, one row per source."""
    grid = tables.grid
    return [[row, *(cell_text(tables.cell(label, row, d)) for d in grid.domains)] for row in grid.rows]
