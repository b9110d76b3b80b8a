"""What a paper cites that shows the report: the data and the models, as BibTeX."""

from __future__ import annotations

import re

from hdmap_mlflow.models.registry import REGISTRY
from hdmap_mlflow.report.tables import Tables

PAPER = re.compile(r"(?P<author>[^,]+), (?P<title>.+), (?P<place>[^,]*?),? ?(?P<year>\d{4})$")
MAPS = """@article{ha_toothwise,
  author = {Ha and Park and Na and Kim and Youn},
  title = {Toothwise Fault Identification for a Planetary Gearbox Based on a Health Data Map},
  journal = {IEEE Transactions on Industrial Electronics},
  year = {2018},
}"""


def bibtex(tables: Tables) -> str:
    """An entry for the maps of this report, one for health data maps, and one for each model, keyed by its name."""
    kind = "Simulated health data maps" if tables.simulated else "Health data maps"
    domains = ", ".join(tables.grid.domains)
    own = [("title", f"{kind} of {domains}"), ("note", f"hdmap\\_mlflow, content digest {tables.data_digest}")]
    papers = {entry.first.tag("model"): _paper(entry.first.tag("model")) for entry in tables.grid.entries}
    known = [_entry(name.replace(":", "."), _fields(paper)) for name, paper in sorted(papers.items()) if paper]
    return "\n\n".join([_entry(f"maps_{tables.data_digest}", own), MAPS, *known])


def _paper(model: str) -> str:
    """The paper of a model; empty for one of the user's own, whose class is not imported for that."""
    return REGISTRY[model].paper if model in REGISTRY else ""


def _fields(paper: str) -> list[tuple[str, str]]:
    if not (found := PAPER.match(paper)):
        return [("note", paper)]
    author = found["author"].replace(" et al.", " and others")
    place = [("howpublished", found["place"])] if found["place"] else []
    return [("author", author), ("title", f"{{{found['title']}}}"), *place, ("year", found["year"])]


def _entry(key: str, fields: list[tuple[str, str]]) -> str:
    return "\n".join([f"@misc{{{key},", *(f"  {name} = {{{value}}}," for name, value in fields), "}"])
