"""What a report says in words: who leads, what a reader must know, and the caption of its table in a paper."""

from __future__ import annotations

from hdmap_mlflow.config.protocols import PROTOCOLS
from hdmap_mlflow.evaluation.sample import FEWEST, counts
from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.report.arrange import Entry, reported
from hdmap_mlflow.report.tables import ALPHA, Standing, Tables

SAMPLED = {"recordings": "recordings", "order": "stretches of neighbouring files", "maps": "maps"}


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
    how = "DeLong" if tables.sample == "maps" else "Obuchowski"
    kind = "simulated health data maps" if tables.simulated else "health data maps"
    return (
        f"Image AUROC under domain shift on {kind}: each model is trained on healthy maps of one domain "
        f"({', '.join(sources)}){runs} and tested unchanged on the others. Target mean: mean over the targets with "
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
    protocol = PROTOCOLS.get(tables.validation)  # another version's may be unknown here
    lines.append(protocol.rule if protocol else f"Protocol {tables.validation}.")
    lines.append("Target maps chose nothing. Figures are from raw scores, never normalised or clamped.")
    lines += _sample(tables)
    if random:
        lines.append(f"Random backbone weights, so not the method's quality: {', '.join(random)}.")
    lines += _saturation(tables)
    if len(sizes) > 1:
        lines.append("Training sets differ in size (data.max_train): budgets are not equal.")
    if tables.grid.superseded:
        count = tables.grid.superseded
        lines.append(f"{count} older repeat{'s' if count > 1 else ''} of the same run left out; the newest stands.")
    return lines


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
        lines.append(f"Fewer than {FEWEST} of a class in {', '.join(few)}: intervals and tests there say little.")
    return lines


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
