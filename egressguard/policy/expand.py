"""What a document takes from elsewhere: included files, `${variables}`, sets listed in files of their own.

Contract
    Names of files are relative to the rules directory and stay below it; each file is read once.
    `${name}` alone is the variable's value, of whatever type; inside other text it is its text.
    A set's entry "file:PATH" stands for the entries in that file, one a line, `#` starts a comment.
    Secrets are never read here: `secret: "file:..."` is a name that the relay opens when it needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from egressguard.policy.document import MAX_VALUES, Document, Fault, Path, Place, parse_document
from egressguard.policy.words import did_you_mean, one_of, quote, show

FILE = "file:"
OVERLAYS = "sites"
"""The folder of overlays: sites/NAME/*.yaml."""
MAX_TOTAL_OCTETS = 16 * 1024 * 1024
MAX_VARIABLE_OCTETS = 65536
MAX_FILLED_OCTETS = 16 * 1024 * 1024  # what variables and lists may grow to; an item of a list counts as ITEM_OCTETS
ITEM_OCTETS = 16
MAX_INCLUDES = 50  # one inside another
MAX_FAULTS = 1000
HINTED_FAULTS = 100  # looking for what may have been meant takes milliseconds each
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(slots=True)
class Reader:
    """The rule files by name, each parsed at most once, and the faults found on the way.

    `octets` were read, `filled` have variables and lists grown to: both end at their limits."""

    files: Mapping[str, bytes]
    faults: list[Fault] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    octets: int = 0
    filled: int = 0
    lists: dict[str, list[tuple[int, str]]] = field(default_factory=dict)

    def open(self, name: str) -> bytes:
        """A file's octets; nothing once all files together are too large (load tells)."""
        if name not in self.used:
            self.used.add(name)
            self.octets += len(self.files[name])
        return self.files[name] if self.octets <= MAX_TOTAL_OCTETS else b""

    def fault(self, file: str, at: Place, message: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(file, *at, message))

    def hint(self, word: str, known: Iterable[str]) -> str:
        return did_you_mean(word, known) if len(self.faults) < HINTED_FAULTS else ""

    def fill(self, document: Document, at: Place, value: Any) -> bool:
        """Whether there is room for one more copy of `value`; the first time there is none is a fault."""
        fitted = self.filled <= MAX_FILLED_OCTETS
        self.filled += len(value) * ITEM_OCTETS if isinstance(value, list) else len(str(value))
        fits = self.filled <= MAX_FILLED_OCTETS
        if fitted and not fits:
            words = f"variables and lists grow to more than {MAX_FILLED_OCTETS} octets; expected less"
            self.fault(document.file, at, words)
            document.broken = True
        return fits

    def documents(self, names: Sequence[str]) -> list[Document]:
        """The documents of these files; what a file includes stands in front of it."""
        return [document for name in names for document in self._with_included(name, 0)]

    def _with_included(self, name: str, depth: int) -> Iterator[Document]:
        if name in self.used:
            return
        document = parse_document(name, self.open(name))
        self.faults += document.faults
        included = document.value.get("include")
        listed = included if isinstance(included, list) else [] if included is None else [included]
        for index, other in enumerate(listed):
            path: Path = ("include", index) if isinstance(included, list) else ("include",)
            at = document.place(path)
            found = self.find(other, document.file, at, "include a rule file")
            if found is not None and depth >= MAX_INCLUDES:
                words = f"files include one another over {MAX_INCLUDES} steps; expected at most that"
                self.fault(document.file, at, words)
                found = None
            if found is not None:
                yield from self._with_included(found, depth + 1)
            else:
                document.broken = True
        yield document

    def lines(self, name: str) -> list[tuple[int, str]]:
        """The entries of a list and the numbers of their lines."""
        if name not in self.lists:
            text = self.open(name).decode("utf-8", "replace")
            lines = ((number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), start=1))
            self.lists[name] = [(number, entry) for number, entry in lines if entry]
        return self.lists[name]

    def find(self, name: object, file: str, at: Place, purpose: str) -> str | None:
        """The file's name as `files` has it; None with a fault when there is none."""
        if not isinstance(name, str) or not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            found = quote(name) if isinstance(name, str) else show(name)
            self.fault(file, at, f"{found} cannot be read to {purpose}; expected a name below the rules directory")
            return None
        plain = str(PurePosixPath(name))
        if plain not in self.files:
            words = f"no file {quote(plain)} to {purpose}{self.hint(plain, self.files)}; expected one that is there"
            self.fault(file, at, words)
            return None
        return plain

    def text(self, name: str, file: str, at: Place) -> str | None:
        """A small file as text, less the line end at its end."""
        content = self.open(name)
        try:
            if len(content) <= MAX_VARIABLE_OCTETS:
                return content.decode("utf-8").rstrip("\r\n")
            words = f"{quote(name)} has {len(content)} octets; expected at most {MAX_VARIABLE_OCTETS}"
        except UnicodeDecodeError:
            words = f"{quote(name)} is not UTF-8; expected text"
        self.fault(file, at, words)
        return None


def read_variables(reader: Reader, documents: Sequence[Document]) -> dict[str, Any]:
    """The `variables` of all documents; a later document's win. "file:PATH" is the file's text."""
    values: dict[str, Any] = {}
    for document in documents:
        section = document.value.get("variables")
        if section is None:
            continue
        if not isinstance(section, dict):
            words = f"found {show(section)}, expected a mapping of names to values"
            reader.fault(document.file, document.place(("variables",)), words)
            continue
        for name, value in section.items():
            values[name] = _variable(reader, document, name, value)
    return values


def _variable(reader: Reader, document: Document, name: str, value: Any) -> Any:
    at = document.place(("variables", name))
    if isinstance(value, str) and value.startswith(FILE):
        found = reader.find(value.removeprefix(FILE), document.file, at, f"fill ${{{name}}}")
        return reader.text(found, document.file, at) if found else ""
    if isinstance(value, dict) or _mentions_variable(value):
        words = f"found {show(value)}, expected text without ${{...}}, a number, true, false or a list of these"
        reader.fault(document.file, at, words)
        return ""
    return value


def _mentions_variable(value: Any) -> bool:
    if isinstance(value, list):
        return any(isinstance(item, dict | list) or _mentions_variable(item) for item in value)
    return isinstance(value, str) and _VARIABLE.search(value) is not None


def expand(reader: Reader, document: Document, variables: Mapping[str, Any]) -> None:
    """Fill in variables and listed sets, in place."""
    for section, value in document.value.items():
        if section not in {"include", "variables"}:
            document.value[section] = _filled(reader, document, (section,), value, variables)
    site = document.value.get("site")
    for key in ("sets", "mac_sets"):
        sets = site.get(key) if isinstance(site, dict) else None
        if isinstance(sets, dict):
            for name, entries in sets.items():
                sets[name] = _listed(reader, document, ("site", key, name), entries)


def _filled(reader: Reader, document: Document, path: Path, value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(reader, document, (*path, key), item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(reader, document, (*path, i), item, variables) for i, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def value_of(name: str, *, text: bool) -> Any:
        found = variables.get(name, "")
        at = document.place(path)
        if name not in variables:
            known = f"expected {one_of(variables)}"
            words = f"unknown variable {quote(name)}{reader.hint(name, variables)}; {known}"
        elif text and isinstance(found, list):
            words = f"the variable {quote(name)} is a list and stands inside text; expected it to stand alone"
        else:
            return found if reader.fill(document, at, found) else ""
        reader.fault(document.file, at, words)
        document.broken = True
        return ""

    if (whole := _VARIABLE.fullmatch(value)) is not None:
        return value_of(whole[1], text=False)
    return _VARIABLE.sub(lambda match: _as_text(value_of(match[1], text=True)), value)


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _listed(reader: Reader, document: Document, path: Path, entries: Any) -> Any:
    """`entries` with each "file:PATH" replaced by what the file lists."""
    items = entries if isinstance(entries, list) else [entries]
    if not any(isinstance(item, str) and item.startswith(FILE) for item in items):
        return entries
    filled: list[Any] = []
    origins: dict[Path, tuple[str, Place]] = {}
    for index, item in enumerate(items):
        at = document.place((*path, index))
        if not (isinstance(item, str) and item.startswith(FILE)):
            origins[(*path, len(filled))] = (document.file, at)
            filled.append(item)
            continue
        name = reader.find(item.removeprefix(FILE), document.file, at, "fill the set")
        listed = reader.lines(name) if name else []
        if name is None or not reader.fill(document, at, listed):
            document.broken = True
            continue
        for number, entry in listed:
            origins[(*path, len(filled))] = (name, (number, 1))
            filled.append(entry)
    if len(filled) > MAX_VALUES:
        words = f"a set of {len(filled)} entries; expected at most {MAX_VALUES}"
        reader.fault(document.file, document.place(path), words)
        return []
    document.elsewhere.update(origins)
    return filled
