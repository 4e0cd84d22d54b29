"""What a document takes from elsewhere: included files, `${variables}`, sets listed in files of their own.

Contract
    Names of files are relative to the rules directory and stay below it; each file is read once.
    `${name}` alone is the variable's value, of whatever type; inside other text it is its text.
    A set's entry "file:PATH" stands for the entries in that file, one a line, `#` starts a comment.
    Secrets are never read here: `secret: "file:..."` is a name that the relay opens when it needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from egressguard.policy.document import MAX_VALUES, Document, Fault, Path, Place, parse_document
from egressguard.policy.words import did_you_mean, quote

FILE = "file:"
OVERLAYS = "sites"
"""The folder of overlays: sites/NAME/*.yaml."""
MAX_VARIABLE_OCTETS = 65536
_VARIABLE = re.compile(r"\$\{([^}]*)\}")


@dataclass(slots=True)
class Reader:
    """The rule files by name, each parsed at most once, and the faults found on the way."""

    files: Mapping[str, bytes]
    faults: list[Fault] = field(default_factory=list)
    used: set[str] = field(default_factory=set)

    def documents(self, names: Sequence[str]) -> list[Document]:
        """The documents of these files; what a file includes stands in front of it."""
        return [document for name in names for document in self._with_included(name)]

    def _with_included(self, name: str) -> Iterator[Document]:
        if name in self.used:
            return
        self.used.add(name)
        document = parse_document(name, self.files[name])
        self.faults += document.faults
        included = document.value.get("include")
        listed = included if isinstance(included, list) else [] if included is None else [included]
        for index, other in enumerate(listed):
            path: Path = ("include", index) if isinstance(included, list) else ("include",)
            found = self.find(other, document.file, document.place(path), "include a rule file")
            if found is not None:
                yield from self._with_included(found)
            else:
                document.broken = True
        yield document

    def find(self, name: object, file: str, at: Place, purpose: str) -> str | None:
        """The file's name as `files` has it; None with a fault when there is none."""
        if not isinstance(name, str) or not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            words = f"{quote(name)} cannot be read to {purpose}; expected a name below the rules directory"
            self.faults.append(Fault(file, *at, words))
            return None
        plain = str(PurePosixPath(name))
        if plain not in self.files:
            words = f"no file {quote(plain)} to {purpose}{did_you_mean(plain, self.files)}; expected one that is there"
            self.faults.append(Fault(file, *at, words))
            return None
        return plain

    def text(self, name: str, file: str, at: Place) -> str | None:
        """A small file as text, less the line end at its end."""
        self.used.add(name)
        content = self.files[name]
        try:
            if len(content) <= MAX_VARIABLE_OCTETS:
                return content.decode("utf-8").rstrip("\r\n")
            words = f"{name} has {len(content)} octets; expected at most {MAX_VARIABLE_OCTETS}"
        except UnicodeDecodeError:
            words = f"{name} is not UTF-8; expected text"
        self.faults.append(Fault(file, *at, words))
        return None


def read_variables(reader: Reader, documents: Sequence[Document]) -> dict[str, Any]:
    """The `variables` of all documents; a later document's win. "file:PATH" is the file's text."""
    values: dict[str, Any] = {}
    for document in documents:
        section = document.value.get("variables")
        if section is None:
            continue
        if not isinstance(section, dict):
            words = "expected a mapping of names to values"
            reader.faults.append(Fault(document.file, *document.place(("variables",)), words))
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
        reader.faults.append(Fault(document.file, *at, "expected plain text, a number, true, false or a list"))
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
    sets = site.get("sets") if isinstance(site, dict) else None
    if isinstance(sets, dict):
        for name, entries in sets.items():
            sets[name] = _listed(reader, document, ("site", "sets", name), entries)


def _filled(reader: Reader, document: Document, path: Path, value: Any, variables: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(reader, document, (*path, key), item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(reader, document, (*path, i), item, variables) for i, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value

    def value_of(name: str) -> Any:
        if name not in variables:
            words = f"unknown variable {quote(name)}{did_you_mean(name, variables)}; expected one from `variables`"
            reader.faults.append(Fault(document.file, *document.place(path), words))
            document.broken = True
            return ""
        return variables[name]

    if (whole := _VARIABLE.fullmatch(value)) is not None:
        return value_of(whole[1])
    return _VARIABLE.sub(lambda match: _as_text(value_of(match[1])), value)


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
        for number, entry in _lines(reader, name) if name else ():
            origins[(*path, len(filled))] = (name or "", (number, 1))
            filled.append(entry)
        if name is None:
            document.broken = True
    if len(filled) > MAX_VALUES:
        words = f"a set of {len(filled)} entries; expected at most {MAX_VALUES}"
        reader.faults.append(Fault(document.file, *document.place(path), words))
        return []
    document.elsewhere.update(origins)
    return filled


def _lines(reader: Reader, name: str) -> Iterator[tuple[int, str]]:
    reader.used.add(name)
    for number, line in enumerate(reader.files[name].decode("utf-8", "replace").splitlines(), start=1):
        if entry := line.partition("#")[0].strip():
            yield number, entry
