"""What a report says in words: who leads, what a reader must know, and the caption of its table in a paper."""

from __future__ import annotations

from hdmap_mlflow.config.protocols import PROTOCOLS
from hdmap_mlflow.evaluation.intervals import Comparison, Interval
from hdmap_mlflow.evaluation.sample import FEWEST, counts
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.report.arrange import ALL_BUT, Entry, reported
from hdmap_mlflow.report.stacks import mean_over, of_targets
from hdmap_mlflow.report.tables import ALPHA, Adapted, Standing, Tables, told_apart

SAMPLED = {"recordings": "recordings", "order": "stretches of neighbouring files", "maps": "maps"}


def headline(tables: Tables) -> list[str]:
    """What the report says first: whether more sources help, what adapting gains, who leads source only, with whom."""
    return [*_more_sources(tables), *_adapting(tables), *_leading(tables)]


def _more_sources(tables: Tables) -> list[str]:
    """Whether a second source helps more than k maps of the target, of the entry that reaches most with more sources.

    Nothing where there are no runs on all domains but one.
    """
    if not tables.several:
        return []
    best = max(tables.several, key=lambda one: one.all_but.value)
    sure = _more_or_less(best.gain, "it helps", "it harms", "that it helps or harms is not shown")
    lines = [
        f"Does a second source help? Trained on all domains but the target, **{best.label}** has a mean target AUROC "
        f"of {best.all_but.value:.3f}, trained on one domain {best.one.value:.3f}: {_difference(best.gain)}; {sure}."
    ]
    for one in best.helped:
        words = _more_or_less(one.by_sources, "help more", "help less", "are not told apart from them")
        maps = f"{one.k} healthy map{'s' if one.k > 1 else ''} of the target"
        lines.append(
            f"More sources or {maps} beside one source ({one.chain}: {one.reached.value:.3f})? More sources {words}: "
            f"{_difference(one.by_sources)}."
        )
    return lines


def _difference(found: Comparison) -> str:
    return f"{found.difference:+.3f}" + ("" if found.few else f" ({found.low:+.3f} to {found.high:+.3f})")


def _more_or_less(found: Comparison, more: str, less: str, neither: str) -> str:
    return neither if found.few else more if found.low > 0 else less if found.high < 0 else neither


def _adapting(tables: Tables) -> list[str]:
    """The entry that healthy maps of the targets bring furthest, and what it gains; nothing where none was given."""
    board = [one for one in tables.adapted if one.standing.target and not one.standing.lacks]
    if not board:
        return []
    best = max(board, key=_repaired)
    reached, gain = best.standing.target, best.gain.auroc
    assert reached
    maps = f"{best.k} healthy map{'s' if best.k > 1 else ''} of each target"
    line = (
        f"With {maps}, **{best.standing.label}** has the highest mean target AUROC: {reached.value:.3f}"
        f"{_within(reached)}"
    )
    if gain and gain.low == gain.high == 0:
        line += ", that of source only: its adapters move scores, not the order of a target's maps"
    elif gain:
        sure = "" if gain.low > 0 and not gain.few else "; that it gains at all is not shown"
        ends = "" if gain.few else f" ({gain.low:+.3f} to {gain.high:+.3f})"
        line += f", {gain.difference:+.3f} over source only{ends}{sure}"
    lines = [line + "."]
    shares = [*best.gain.beside["FPR at 1 %"], *best.gain.beside["TPR at 1 %"]]
    percent = [f"{100 * share:.0f} %" for share in shares if share is not None]
    if len(percent) == len(shares):
        fpr, fpr_k, tpr, tpr_k = percent
        lines.append(
            f"At the threshold that allows 1 % it raises {fpr_k} false alarms on the targets (source only: {fpr}) and "
            f"finds {tpr_k} of the faults (source only: {tpr})."
        )
    return [*lines, "Source only, which is another protocol and never ranked with it:"]


def _within(reached: Interval) -> str:
    return "" if reached.few else f" (95 % interval {reached.low:.3f} to {reached.high:.3f})"


def _repaired(one: Adapted) -> tuple[float, bool, float, int]:
    """How far an entry was brought: its AUROC, then whether alarms ring, false ones near 1 %, and the fewest maps."""
    (_, fpr), (_, tpr) = one.gain.beside["FPR at 1 %"], one.gain.beside["TPR at 1 %"]
    reached = one.standing.target.value if one.standing.target else 0.0
    return round(reached, 9), bool(tpr), -round(abs((fpr or 0.0) - 0.01), 2), -one.k


def _leading(tables: Tables) -> list[str]:
    """Who leads source only, who cannot be told apart from it, what is beaten, what is missing."""
    board = [standing for standing in tables.leaderboard if standing.target]
    if not board:
        return ["No target has both good and fault maps: nothing can be compared."]
    best = max(board, key=lambda s: s.target.value if s.target else 0)
    assert best.target
    lines = [f"**{best.label}** has the highest mean target AUROC: {best.target.value:.3f}{_within(best.target)}."]
    if not tables.grid.common:
        lines.append("It is not ranked: no (source, seed) is shared by all entries.")
    else:
        apart = {other for one, other, found, p in tables.pairs if one == best.label and told_apart(found, p)}
        tied = [s.label for s in board if s is not best and s.label not in apart]
        if best.rank is None:
            lines.append("It is not ranked: its maps are not those of every other entry.")
        if tied:
            lines.append(f"Not told apart from it by a paired test: {', '.join(tied)}.")
        elif len(board) == 1 and tables.incomplete:
            lines.append("It is the only entry that is complete, so it is compared with none.")
        elif len(board) > 1:
            lines.append("A paired test on the same maps tells it apart from every other entry.")
    if best.worst:
        lines.append(f"Its worst transfer is {best.worst[0]}: {best.worst[1]:.3f}.")
    if tables.incomplete:
        names = ", ".join(f"{s.label} ({runs_of(s, tables)} runs)" for s in tables.incomplete)
        lines.append(f"Incomplete, and so below the ranking: {names}.")
    beaten = [s.label for s in board if not s.beats_trivial]
    lines.append(
        f"Not shown to beat the trivial scores: {', '.join(beaten)}."
        if beaten
        else f"Every entry beats the trivial scores ({', '.join(tables.trivial)})."
    )
    return lines


def runs_of(standing: Standing, tables: Tables) -> str:
    """`1 of 16`: how many of the runs that are compared an entry has."""
    common = len(tables.grid.common)
    return f"{common - len(standing.lacks)} of {common}"


def caption(tables: Tables) -> str:
    """What the leaderboard shows, as a paper says it below a table."""
    seeds = sorted({seed for _, seed in tables.grid.common})
    runs = f" with {len(seeds)} seed{'s' if len(seeds) > 1 else ''} each" if seeds else ""
    sources = sorted({source for source, _ in tables.grid.common}) or tables.grid.sources
    several = any("," in source for source in sources)
    rows = [f"all domains {row.removeprefix('all ')}" if row == ALL_BUT else row for row in tables.grid.rows]
    trained_on, named = ("one domain or several", "; ".join(rows)) if several else ("one domain", ", ".join(sources))
    how = "DeLong" if tables.sample == "maps" else "Obuchowski"
    kind = "simulated health data maps" if tables.simulated else "health data maps"
    return (
        f"Image AUROC under domain shift on {kind}: each model is trained on healthy maps of {trained_on} "
        f"({named}){runs} and tested unchanged on the others. Target mean: mean over the targets with "
        f"its 95 % interval over {SAMPLED[tables.sample]} ({how}); worst target: the lowest mean of a source and a "
        "target; over trivial: target mean less that of the best training-free score on the same maps; rank: 1 + the "
        "number of models that "
        f"are better by a paired test (Holm-adjusted p < {ALPHA:g}). Data {tables.data_digest}, "
        f"protocol {tables.validation}."
    )


def remarks(tables: Tables) -> list[str]:
    """What a reader must know to read the figures."""
    learned = {name for name, entry in REGISTRY.items() if entry.from_scratch}  # random weights are where these start
    entries = [entry for entry in tables.grid.entries if entry.first.tag("model") not in learned]
    random = [entry.label for entry in entries if weights_of(entry) == "random"]
    sizes = {entry.first.params.get("data.max_train", "null") for entry in tables.grid.entries}
    lines = ["The maps are SIMULATED: these figures say nothing about a real gearbox."] if tables.simulated else []
    lines += sorted({built for run in tables.grid.runs if (built := run.tag("built"))})
    protocol = PROTOCOLS.get(tables.validation)  # another version's may be unknown here
    lines.append(protocol.rule if protocol else f"Protocol {tables.validation}.")
    lines.append("Target maps chose nothing. Figures are from raw scores, never normalised or clamped.")
    if tables.adapted:
        lines.append(
            "Adapted entries got healthy training maps of each target, drawn at random and reported nowhere; no label "
            "of a target was read before the metrics. Their figures are means over the draws."
        )
    lines += _sample(tables)
    if random:
        lines.append(f"Random backbone weights, so not the method's quality: {', '.join(random)}.")
    lines += _saturation(tables)
    if len(sizes) > 1:
        lines.append("Training sets differ in size (data.max_train): budgets are not equal.")
    if unequal := budgets(tables):
        lines.append(unequal)
    if tables.grid.superseded:
        count = tables.grid.superseded
        lines.append(f"{count} older repeat{'s' if count > 1 else ''} of the same run left out; the newest stands.")
    return lines


def budgets(tables: Tables) -> str:
    """Who trained on how much, where the entries that train at all differ by more than a tenth."""
    fitted = {name for name, entry in REGISTRY.items() if entry.trains is False}
    models = {entry.label: entry.first.tag("model") for entry in tables.grid.entries}
    board = [s for s in (*tables.leaderboard, *tables.incomplete) if models[s.label] not in fitted]
    seen = {s.label: s.train_maps for s in board if s.train_maps}
    if len(seen) < 2 or max(seen.values()) <= 1.1 * min(seen.values()):
        return ""
    told = "; ".join(f"{label} on {count:,.0f} maps" for label, count in sorted(seen.items(), key=lambda one: -one[1]))
    return f"Budgets are not equal: {told} (a map counts each time it was in a batch); --budget gives all the same."


def _sample(tables: Tables) -> list[str]:
    """How many recordings stand behind the figures; or that files in their order resemble one another."""
    if tables.sample == "maps":
        alike = sorted({domain for run in tables.grid.runs for domain in run.cards.get("dependence", {})})
        return [
            f"Intervals and tests take maps for independent, but neighbouring files of {', '.join(alike)} resemble one "
            "another: they are too sure. Name the recordings in metadata.csv, or hdmap rescore --sample order."
        ] * bool(alike)
    told, few = [], []
    for domain in tables.grid.domains:
        table = next(reported(run, domain) for run in tables.grid.runs if domain in run.scores)
        found = counts(table["label"].to_numpy(int), table["unit"].to_numpy())
        told.append(f"{domain} {found.get(0, 0)} healthy and {found.get(1, 0)} fault")
        few += [domain] if min(found.values()) < FEWEST else []
    lines = [f"Intervals and tests take {SAMPLED[tables.sample]} for independent: {'; '.join(told)}."]
    if few:
        lines.append(
            f"Fewer than {FEWEST} of a class in {', '.join(few)}: too few for an interval or a test with these domains."
            f"{_as_if_independent(tables)}"
        )
    return lines


def _as_if_independent(tables: Tables) -> str:
    """What the interval of the best entry would be, were its maps independent; nothing where it has one of its own."""
    best = max(
        (s for s in tables.leaderboard if s.target), key=lambda s: s.target.value if s.target else 0, default=None
    )
    if best is None or best.target is None or not best.target.few:
        return ""
    (entry,) = (entry for entry in tables.grid.entries if entry.label == best.label)
    of = mean_over(of_targets(entry, tables.grid.compared(entry)), independent=True)
    return f" Were all maps independent, the mean of {best.label} would have {of.low:.3f} to {of.high:.3f}."


def weights_of(entry: Entry) -> str:
    return entry.first.tag("weights").partition(":")[0]


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
