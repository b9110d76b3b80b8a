"""The report's tables as text: Markdown, HTML and CSV from the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hdmap_mlflow.config.protocols import PROTOCOLS
from hdmap_mlflow.console import markdown_table
from hdmap_mlflow.names import MEAN_AUROC, SOURCE_AUROC, WORST_AUROC
from hdmap_mlflow.report.arrange import Entry
from hdmap_mlflow.report.selection import ORACLE, SELECTION_RULES
from hdmap_mlflow.report.tables import ALPHA, Cell, Standing, Tables


@dataclass(frozen=True)
class Section:
    """A heading, a table (its first column is text), and what must be said below it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def cell_text(cell: Cell | None) -> str:
    """`0.812 ± 0.010 (n=2) [0.771, 0.846]`, without what is undefined."""
    if cell is None:
        return "-"
    spread = "" if cell.sd is None else f" ± {cell.sd:.3f}"
    bounds = "" if cell.interval is None else f" [{cell.interval[0]:.3f}, {cell.interval[1]:.3f}]"
    return f"{cell.mean:.3f}{spread} (n={cell.n}){bounds}"


def headline(tables: Tables) -> list[str]:
    """What the report says first: who leads, who cannot be told apart from it, what is beaten, what is missing."""
    board = [standing for standing in tables.leaderboard if standing.target]
    if not board:
        return ["No target has both good and fault maps: nothing can be compared."]
    best = max(board, key=lambda s: s.target.value if s.target else 0)
    assert best.target
    lines = [
        f"**{best.label}** has the highest mean target AUROC: {best.target.value:.3f} "
        f"(95 % interval {best.target.low:.3f} to {best.target.high:.3f})."
    ]
    if not tables.grid.common:
        lines.append("It is not ranked: no (source, seed) is shared by all entries.")
    else:
        apart = {other for one, other, _, p in tables.pairs if one == best.label and p < ALPHA}
        tied = [s.label for s in board if s is not best and s.label not in apart]
        if best.rank is None:
            lines.append("It is not ranked: its maps are not those of every other entry.")
        if tied:
            lines.append(f"Not told apart from it by a paired test: {', '.join(tied)}.")
        elif len(board) > 1:
            lines.append("A paired test on the same maps tells it apart from every other entry.")
    if best.worst:
        lines.append(f"Its worst transfer is {best.worst[0]}: {best.worst[1]:.3f}.")
    beaten = [s.label for s in board if not s.beats_trivial]
    lines.append(
        f"Not shown to beat the trivial scores: {', '.join(beaten)}."
        if beaten
        else "Every entry beats both trivial scores (image maximum, image mean)."
    )
    return lines


def remarks(tables: Tables) -> list[str]:
    """What a reader must know to read the figures."""
    weights = {entry.label: weights_of(entry) for entry in tables.grid.entries}
    random = [label for label, of in weights.items() if of == "random"]
    sizes = {entry.first.params.get("data.max_train", "null") for entry in tables.grid.entries}
    lines = ["The maps are SIMULATED: these figures say nothing about a real gearbox."] if tables.simulated else []
    protocol = PROTOCOLS.get(tables.validation)  # another version's may be unknown here
    lines.append(protocol.rule if protocol else f"Protocol {tables.validation}.")
    lines.append("Target maps chose nothing. Figures are from raw scores, never normalised or clamped.")
    if random:
        lines.append(f"Random backbone weights, so not the method's quality: {', '.join(random)}.")
    lines += _saturation(tables)
    if len(sizes) > 1:
        lines.append("Training sets differ in size (data.max_train): budgets are not equal.")
    if tables.grid.superseded:
        count = tables.grid.superseded
        lines.append(f"{count} older repeat{'s' if count > 1 else ''} of the same run left out; the newest stands.")
    return lines


def weights_of(entry: Entry) -> str:
    return entry.first.tag("weights").partition(":")[0]


def sections(tables: Tables) -> list[Section]:
    """All tables but the matrices, in order."""
    return [
        _leaderboard(tables),
        _tests(tables),
        _travels(tables),
        _picks(tables),
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
        "worst target",
        "source",
        "ratio",
        "gap",
        "skill",
        "over trivial",
    ]
    rows = [_standing(standing) for standing in tables.leaderboard]
    for name, (mean, (domain, worst)) in tables.trivial.items():
        rows.append([f"trivial: {name}", "", number(mean), *[""] * 2, f"{worst:.3f} ({domain})", *[""] * 5])
    notes = [
        "rank = 1 + the number of entries that are better by a paired DeLong test on the same maps "
        f"(Holm-adjusted p < {ALPHA:g}); entries of one rank are tied.",
        "The interval takes the maps as the sample and the fitted models as given; the sd is over seeds (ddof 1).",
        "over trivial = target mean less that of the better trivial score on the same maps [95 % interval].",
        "ratio = target mean / source, gap = source - target mean, skill = (target mean - .5) / (source - .5).",
    ]
    count = len(tables.grid.common)
    if len({len(entry.runs) for entry in tables.grid.entries} | {count}) > 1:
        notes.insert(
            0,
            f"Entries are compared on the {count} (source, seed) pairs that all of them have."
            if count
            else "No (source, seed) pair is shared by all entries: there is no ranking.",
        )
    return Section("Leaderboard", header, rows, notes)


def _standing(s: Standing) -> list[str]:
    over = s.over_trivial
    return [
        s.label,
        "-" if s.rank is None else str(s.rank),
        number(s.target.value if s.target else None),
        f"{s.target.low:.3f} to {s.target.high:.3f}" if s.target else "-",
        number(s.target_sd),
        f"{s.worst[1]:.3f} ({s.worst[0]})" if s.worst else "-",
        number(s.source),
        number(s.ratio),
        number(s.gap, sign=True),
        number(s.skill),
        f"{over.difference:+.3f} [{over.low:+.3f}, {over.high:+.3f}]" if over else "-",
    ]


def _tests(tables: Tables) -> Section:
    rows = [
        [f"{one} over {other}", f"{c.difference:+.3f}", f"{c.low:+.3f} to {c.high:+.3f}", _p(p)]
        for one, other, c, p in tables.pairs
    ]
    return Section("Paired tests", ["pair", "difference", "95 % interval", "adjusted p"], rows)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _travels(tables: Tables) -> Section:
    header = ["entry", "FPR on the source", "mean FPR on targets", "mean TPR on targets", "worst FPR"]
    rows = [
        [
            t.label,
            percent(t.source_fpr),
            percent(t.fpr),
            percent(t.tpr),
            f"{t.worst_fpr[1]:.0%} ({t.worst_fpr[0]})" if t.worst_fpr else "-",
        ]
        for t in tables.travels
    ]
    note = "The threshold allows 1 % false alarms on the source's validation maps and is applied unchanged everywhere."
    return Section("Thresholds that travelled", header, rows, [note])


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


def _cost(tables: Tables) -> Section:
    seeds = {e.label: sorted({seed for _, seed in e.runs}) for e in tables.grid.entries}
    weights = {entry.label: weights_of(entry) or "-" for entry in tables.grid.entries}
    rows = [
        [
            s.label,
            weights[s.label],
            str(s.runs),
            ", ".join(map(str, seeds[s.label])),
            number(s.fit_seconds, 1),
            number(s.evaluate_seconds, 1),
            number(s.peak_mb, 0),
        ]
        for s in tables.leaderboard
    ]
    header = ["entry", "weights", "runs", "seeds", "fit, mean s", "evaluate, mean s", "peak memory of fit, MB"]
    return Section("Runs and cost", header, rows)


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
            own, there = (tables.matrices[label].get((source, to)) for to in (source, domain))
            row.append(number(own.mean - there.mean, sign=True) if own and there else "-")
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


def _saturation(tables: Tables) -> list[str]:
    cards = [card for run in tables.grid.runs for card in run.cards.get("saturation", {}).values()]
    ringing = [card for card in cards if card["alarm"]]
    if not ringing:
        return []
    worst = max(ringing, key=lambda card: abs(card["image_AUROC"] - card["clamped_AUROC"]))
    return [
        f"Saturation alarm in {len(ringing)} of {len(cards)} tests (run x domain): with scores clamped as anomalib "
        f"does, the worst AUROC would read {worst['clamped_AUROC']:.3f} instead of {worst['image_AUROC']:.3f}."
    ]


def matrix_rows(tables: Tables, label: str) -> list[list[str]]:
    """Source x domain, one row per source."""
    cells, domains = tables.matrices[label], tables.grid.domains
    return [[source, *(cell_text(cells.get((source, d))) for d in domains)] for source in tables.grid.sources]


def markdown(tables: Tables) -> str:
    """The whole report without its pictures."""
    lines = ["# Transfer report", "", *headline(tables), "", *(f"- {line}" for line in remarks(tables)), ""]
    lines += [f"Data {tables.data_digest}, protocol `{tables.validation}`, {len(tables.grid.runs)} runs.", ""]
    found = sections(tables)
    lines += _table(found[0])
    lines += ["## AUROC from source (rows) to domain (columns)", ""]
    lines += ["mean ± sd over n seeds [95 % interval]; on the diagonal the source's own reported maps.", ""]
    for label in tables.matrices:
        title = Section(label, ["source", *tables.grid.domains], matrix_rows(tables, label))
        lines += _table(title, "###")
    for section in found[1:]:
        lines += _table(section)
    lines += ["## Missing", "", *(f"- {line}" for line in tables.missing or ["nothing"])]
    return "\n".join(lines) + "\n"


def _table(section: Section, mark: str = "##") -> list[str]:
    if not section.rows:
        return []
    lines = [f"{mark} {section.title}", "", *markdown_table(section.header, section.rows)]
    return [*lines, "", *(f"- {note}" for note in section.notes), *([""] if section.notes else [])]


def html(tables: Tables, charts: Mapping[str, str], pictures: Mapping[str, str], made: str) -> str:
    """One self-contained page. `charts` are captions to inline SVG, `pictures` captions to base64 PNG."""
    import re

    from jinja2 import Environment, FileSystemLoader, select_autoescape
    from markupsafe import Markup, escape

    def rich(text: str) -> Markup:
        bold = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text)))
        return Markup(re.sub(r"`(.+?)`", r"<code>\1</code>", bold))

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    environment.filters |= {"rich": rich, "shade": shade, "number": number}
    template = environment.get_template("report.html.j2")
    return template.render(
        tables=tables,
        headline=headline(tables),
        remarks=remarks(tables),
        made=made,
        charts=charts,
        sections=sections(tables),
        pictures=pictures,
    )


def shade(auroc: float) -> str:
    """Background of a matrix cell: white at chance and below, blue towards 1."""
    strength = max(0.0, min(1.0, (auroc - 0.5) / 0.5))
    light, deep = (247, 249, 252), (64, 125, 200)
    return "rgb(" + ",".join(str(round(a + (b - a) * strength)) for a, b in zip(light, deep, strict=True)) + ")"
