"""YAML text -> plain values that remember where they stood. YAML 1.2's core types only.

Contract
    Never raises on any octets: what is wrong becomes a Fault with file:line:column.
    `no`, `on`, `22:22`, `0755` and dates are text; numbers are decimal integers; true, false and null as in JSON.
    Duplicate keys, tags, aliases, several documents, and whatever is too large or too deep are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_OCTETS = 4 * 1024 * 1024
MAX_DEPTH = 20
MAX_NODES = 500_000

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_QUOTED = frozenset("'\"|>")
_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))
_CONSTANTS = {"true": True, "false": False, "null": None, "~": None, "": None}

Path = tuple[str | int, ...]
"""The way to a value: keys and list indexes from the top of the document."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """`line` and `column` count from 1. `message` says what is wrong and what was expected."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


@dataclass(slots=True)
class Document:
    """`value` is the top mapping; `places` gives (line, column) of each value, `key_places` of each mapping key."""

    file: str
    value: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    places: dict[Path, tuple[int, int]] = field(default_factory=dict)
    key_places: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def fault(self, at: tuple[int, int], message: str) -> None:
        self.faults.append(Fault(self.file, *at, message))

    def place(self, path: Path) -> tuple[int, int]:
        """Where `path` stands, or its nearest parent that stands anywhere."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))


def parse_document(file: str, content: bytes) -> Document:
    """Parse one file; look at `.faults` before using `.value`."""
    document = Document(file)
    if len(content) > MAX_OCTETS:
        document.fault((1, 1), f"{len(content)} octets; expected at most {MAX_OCTETS}")
        return document
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        document.fault(_position(content, wrong.start), "not UTF-8 text; expected a YAML file")
        return document
    _compose(document, text)
    return document


def _compose(document: Document, text: str) -> None:
    loader = None
    try:
        loader = yaml.CBaseLoader(text)
        node = loader.get_single_node()  # composes without making any object
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark or wrong.context_mark
        at = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        document.fault(at, f"not YAML: {wrong.problem or wrong.context}; expected keys and values, such as `port: 25`")
        return
    except (yaml.YAMLError, ValueError) as wrong:
        document.fault((1, 1), f"not YAML: {str(wrong).splitlines()[0]}; expected plain text")
        return
    except RecursionError:
        document.fault((1, 1), f"nested too deep; expected at most {MAX_DEPTH} levels")
        return
    finally:
        if loader is not None:
            loader.dispose()
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        document.fault(_at(node), "expected a mapping of sections: site, flows, mail, routes, devices")
        return
    _Reader(document).read_top(node)


class _Reader:
    """Turns composed nodes into values, noting each one's place; anchors show as nodes met twice."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._seen: set[int] = set()

    def read_top(self, node: yaml.Node) -> None:
        value = self._read(node, ())
        if isinstance(value, dict):
            self._document.value = value

    def _read(self, node: yaml.Node, path: Path) -> Any:
        document, at = self._document, _at(node)
        document.places[path] = at
        if len(path) > MAX_DEPTH:
            return document.fault(at, f"nested too deep; expected at most {MAX_DEPTH} levels")
        if id(node) in self._seen:
            return document.fault(at, "an alias (*name); expected the value itself, or a named set (@name)")
        self._seen.add(id(node))
        if node.tag not in _TAGS:
            return document.fault(at, f"a tag ({node.tag}); expected a plain value")
        if len(self._seen) > MAX_NODES:
            return None if document.faults else document.fault(at, f"more than {MAX_NODES} values in one file")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._read(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        document = self._document
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                document.fault(_at(key_node), "a key that is no text; expected a name")
                continue
            key = str(key_node.value)
            if key in mapping:
                line, column = document.key_places[(*path, key)]
                document.fault(_at(key_node), f"key '{key}' stands twice; the first is at {line}:{column}")
                continue
            document.key_places[(*path, key)] = _at(key_node)
            mapping[key] = self._read(value_node, (*path, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = str(node.value)
        if node.style in _QUOTED:  # always text
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        return int(text) if _INTEGER.fullmatch(text) else text


def _at(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _position(content: bytes, offset: int) -> tuple[int, int]:
    before = content[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1
