"""YAML text -> plain values that remember where they stood. YAML 1.2's core types only.

Contract
    Never raises on any octets: what is wrong becomes a Fault with file:line:column.
    `no`, `on`, `22:22`, `0755` and dates are text; numbers are decimal integers; true, false and null as in JSON.
    Duplicate keys, tags, aliases, several documents, and whatever is too large or too deep are refused.
    Time and memory are bounded: events are read one by one and reading stops at the first limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_OCTETS = 4 * 1024 * 1024
MAX_DEPTH = 16  # the schema itself needs 8
MAX_VALUES = 200_000  # a set of 100,000 prefixes fits
MAX_FAULTS = 100  # per file: nobody reads on after that

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_QUOTED = frozenset("'\"|>")
_CONSTANTS = {"true": True, "false": False, "null": None, "~": None, "": None}

# What YAML 1.2 s5.1 calls printable, less U+0085, U+2028 and U+2029: they break lines here, but in no editor.
_UNPRINTABLE = re.compile("[^\\t\\n\\r\\x20-\\x7e\\xa0-\u2027\u202a-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Path = tuple[str | int, ...]
"""The way to a value: keys and list indexes from the top of the document."""

Place = tuple[int, int]
"""(line, column), both from 1; columns count characters."""


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
    """`value` is the top mapping; `places` gives the place of each value, `key_places` of each mapping key.

    `elsewhere` has the file and place of values that stand in another file (lists of a set's entries).
    `broken`: reading stopped before the end, so that what stands behind is not known.
    """

    file: str
    value: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    places: dict[Path, Place] = field(default_factory=dict)
    key_places: dict[Path, Place] = field(default_factory=dict)
    elsewhere: dict[Path, tuple[str, Place]] = field(default_factory=dict)
    broken: bool = False

    def fault(self, at: Place, message: str) -> None:
        self.faults.append(Fault(self.file, *at, message))

    def fault_at(self, path: Path, message: str, *, key: bool = False) -> Fault:
        """A fault at the value that `path` names, or at its key."""
        if (found := self.elsewhere.get(path)) is not None:
            return Fault(found[0], *found[1], message)
        line, column = self.key_places.get(path, (0, 0)) if key else (0, 0)
        return Fault(self.file, *((line, column) if line else self.place(path)), message)

    def place(self, path: Path) -> Place:
        """Where `path` stands, or its nearest parent that stands anywhere."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (1, 1))


class _Halt(Exception):
    """Reading cannot go on: the fault is (place, message)."""

    def __init__(self, at: Place, message: str) -> None:
        super().__init__(message)
        self.at, self.message = at, message


def parse_document(file: str, content: bytes) -> Document:
    """Parse one file; look at `.faults` before trusting `.value`."""
    document = Document(file)
    try:
        _read(document, _text(content))
    except _Halt as halt:
        document.broken = True
        document.fault(halt.at, halt.message)
    return document


def _text(content: bytes) -> str:
    if len(content) > MAX_OCTETS:
        raise _Halt((1, 1), f"{len(content)} octets; expected at most {MAX_OCTETS}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        before = content[: wrong.start].decode("utf-8-sig", "replace")
        raise _Halt(_end_of(before), f"the octet 0x{content[wrong.start]:02x} is not UTF-8; expected text") from None
    if found := _UNPRINTABLE.search(text):
        words = f"the character U+{ord(found[0]):04X} stands here; expected printable text"
        raise _Halt(_end_of(text[: found.start()]), words)
    return text


def _end_of(text: str) -> Place:
    """The place just behind `text`."""
    lines = f"{text}.".splitlines()
    return len(lines), len(lines[-1])


def _read(document: Document, text: str) -> None:
    loader = yaml.CBaseLoader(text)
    try:
        document.value = _Reader(document, loader).read()
    except yaml.MarkedYAMLError as wrong:
        raise _Halt(*_syntax(wrong, text)) from None
    except yaml.YAMLError as wrong:
        raise _Halt((1, 1), f"not YAML: {str(wrong).splitlines()[0]}; expected plain text") from None
    finally:
        loader.dispose()


def _syntax(wrong: yaml.MarkedYAMLError, text: str) -> tuple[Place, str]:
    """libyaml's complaint in place, with the three slips that rule files invite named as such."""
    mark = wrong.problem_mark or wrong.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    lines = text.splitlines()
    start = lines[line][max(column - 1, 0) : column + 1] if line < len(lines) else ""
    if "@" in start or "*" in start or "`" in start:
        hint = "a value that starts with '@', '*' or '`' needs quotes; expected it written like \"@name\""
    elif "\t" in start:
        hint = "expected spaces, not tabs, at the start of a line"
    else:
        hint = "expected keys and values, such as `port: 25`"
    return (line + 1, column + 1), f"not YAML: {wrong.problem or wrong.context}; {hint}"


class _Reader:
    """Events -> values, by descent. Composing nodes first would let a deep file overrun the C stack."""

    def __init__(self, document: Document, loader: yaml.CBaseLoader) -> None:
        self._document = document
        self._loader = loader
        self._values = 0

    def read(self) -> dict[str, Any]:
        self._next()  # the stream starts
        if isinstance(self._next(), yaml.StreamEndEvent):
            return {}
        top = self._next()
        if not isinstance(top, yaml.MappingStartEvent):
            if isinstance(top, yaml.ScalarEvent) and not top.value:
                return {}
            found = "a list" if isinstance(top, yaml.SequenceStartEvent) else "a lone value"
            raise _Halt(_at(top), f"found {found}, expected a mapping of sections such as `site:` and `flows:`")
        value = self._value(top, ())
        self._next()  # the document ends
        if not isinstance(second := self._next(), yaml.StreamEndEvent):
            raise _Halt(_at(second), "a second document ('---'); expected one document a file")
        return value if isinstance(value, dict) else {}

    def _next(self) -> yaml.Event:
        event = self._loader.get_event()
        assert event is not None  # only behind the stream's end, where nobody reads
        return event

    def _fault(self, at: Place, message: str) -> None:
        if len(self._document.faults) >= MAX_FAULTS:
            raise _Halt(at, f"more than {MAX_FAULTS} faults in one file; the rest was not read")
        self._document.fault(at, message)

    def _value(self, event: yaml.Event, path: Path) -> Any:
        at = _at(event)
        self._document.places[path] = at
        self._values += 1
        if self._values > MAX_VALUES:
            raise _Halt(at, f"too many values; expected at most {MAX_VALUES} in one file")
        if len(path) > MAX_DEPTH:
            raise _Halt(at, f"nested too deep; expected at most {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            self._fault(at, f'an alias (*{event.anchor}); expected the value itself, or a named set ("@name")')
            return None
        assert isinstance(event, yaml.ScalarEvent | yaml.SequenceStartEvent | yaml.MappingStartEvent)
        if event.tag is not None:
            self._fault(at, f"a tag ({event.tag}); expected a plain value")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return _scalar(event)

    def _sequence(self, path: Path) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._key(event, path, mapping)
            value_path = (*path, "" if key is None else key)
            before = self._document.places.get(value_path)
            value = self._value(self._next(), value_path)
            if key is not None and key not in mapping:
                mapping[key] = value
            elif before is not None:
                self._document.places[value_path] = before
        return mapping

    def _key(self, event: yaml.Event, path: Path, mapping: dict[str, Any]) -> str | None:
        """The key's text; None for a key that is no text. A second one of the same text is a fault."""
        at = _at(event)
        if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
            self._fault(at, "a key that is not plain text; expected a name")
            self._value(event, (*path, ""))
            return None
        key = str(event.value)
        if key in mapping:
            line, column = self._document.key_places[(*path, key)]
            shown = "".join(c if c.isprintable() else "?" for c in key[:60])
            self._fault(at, f"the key '{shown}' stands twice; the first is at {line}:{column}, expected one")
        else:
            self._document.key_places[(*path, key)] = at
        return key


def _scalar(event: yaml.ScalarEvent) -> Any:
    text = str(event.value)
    if event.style in _QUOTED:  # always text
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    return int(text) if _INTEGER.fullmatch(text) else text


def _at(event: yaml.Event) -> Place:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
