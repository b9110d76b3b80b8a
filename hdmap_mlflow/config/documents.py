"""JSON and YAML that somebody wrote, read within bounds: what nests or multiplies without end is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import yaml

from hdmap_mlflow.annotations import Content, Document

DEPTH = 50  # levels
VALUES = 1_000_000  # an alias counts as often as it is used
TOO_DEEP = f"it is nested deeper than {DEPTH} levels"
JSON5_SIZE = 1_000_000  # characters; it takes a second for every 20,000


def read_json(text: str) -> Content:
    """JSON, or JSON5 with its comments and trailing commas; no key stands twice. Raises ValueError."""
    try:
        try:
            content = json.loads(text, object_pairs_hook=_unique)
        except json.JSONDecodeError:  # json5 reads all of JSON, too, but takes a thousand times as long
            if len(text) > JSON5_SIZE:
                raise
            import json5

            content = json5.loads(text, object_pairs_hook=_unique)
        if _depth(content) > DEPTH:
            raise ValueError(TOO_DEEP)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    return content


def _unique(pairs: Iterable[tuple[str, Content]]) -> Document:
    content: Document = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"key {key!r} stands twice")
        content[key] = value
    return content


def _depth(content: Content) -> int:
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else None
    return 0 if parts is None else 1 + max(map(_depth, parts), default=0)


def read_yaml(text: str) -> Content:
    """YAML without its surprises: 010 is ten, 1:30 a text, and no key stands twice. Raises ValueError."""
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


class _Loader(yaml.SafeLoader):
    def construct_document(self, node: yaml.Node) -> Content:
        depth, values = _measure(node, {})
        if depth > DEPTH:
            raise ValueError(TOO_DEEP)
        if values > VALUES:
            raise ValueError(f"its aliases make more than {VALUES:,} values")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Content, Content]:
        keys = [key.value for key, _ in node.value]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"key {twice!r} stands twice")
        return super().construct_mapping(node, deep)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Levels and values of a node, its aliases written out."""
    if id(node) not in known:
        known[id(node)] = DEPTH + 1, 0  # what holds itself has no end
        pairs = isinstance(node, yaml.MappingNode)
        parts = [one for pair in node.value for one in pair] if pairs else node.value
        sizes = [] if isinstance(node, yaml.ScalarNode) else [_measure(one, known) for one in parts]
        levels = 0 if isinstance(node, yaml.ScalarNode) else 1 + max((depth for depth, _ in sizes), default=0)
        known[id(node)] = levels, 1 + sum(values for _, values in sizes)
    return known[id(node)]


# YAML 1.1 takes 010 for eight, 1:30 for ninety, 1_0 for ten and 2026-01-01 for a date.
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)",
    "tag:yaml.org,2002:float": r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, re.compile(f"({_NUMBERS[tag]})$") if tag in _NUMBERS else pattern)
        for tag, pattern in resolvers
        if tag != "tag:yaml.org,2002:timestamp"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
