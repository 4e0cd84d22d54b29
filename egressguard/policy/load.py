"""Rule files -> Policy, or every fault at once.

Contract
    Pure: octets in, Policy or faults out. Never raises on any input.
    A Policy comes out only when there is no fault at all; its revision is a digest of names and octets.
    Faults between rules are looked for among what is well-formed, unless a part is missing that they may point to.
    The sections flows, mail, routes and devices are concatenated in the order of file names; `site` stands once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import ValidationError

from egressguard.policy.crosscheck import crosscheck
from egressguard.policy.document import Document, Fault, Path, parse_document
from egressguard.policy.model import Policy
from egressguard.policy.words import did_you_mean, explain, one_of, quote

LISTS = ("flows", "mail", "routes", "devices")
SECTIONS = ("site", *LISTS)
MAX_TOTAL_OCTETS = 16 * 1024 * 1024
MAX_FAULTS = 1000  # over all files
SHOWN_COLUMNS = 160


@dataclass(frozen=True, slots=True)
class Loaded:
    """`policy` is None exactly when there are faults, which come sorted by file and place."""

    policy: Policy | None
    faults: tuple[Fault, ...] = ()


@dataclass(slots=True)
class Sources:
    """The merged value, and for each list item and for `site` the document and path it came from."""

    value: dict[str, Any]
    origins: dict[tuple[str, int], tuple[Document, Path]]
    site: Document | None = None

    def locate(self, path: Path) -> tuple[Document | None, Path]:
        """The document and the path inside it for a path in the merged value."""
        if len(path) >= 2 and path[0] in LISTS and isinstance(path[1], int):
            document, start = self.origins[str(path[0]), path[1]]
            return document, (*start, *path[2:])
        return self.site, path

    def fault(self, path: Path, message: str, *, key: bool = False) -> Fault:
        """A fault at the value (or its key) that `path` names."""
        document, inner = self.locate(path)
        if document is None:
            return Fault("(rules)", 1, 1, message)
        line, column = document.key_places.get(inner, (0, 0)) if key else (0, 0)
        if not line:
            line, column = document.place(inner)
        return Fault(document.file, line, column, message)

    def at(self, path: Path) -> str:
        """ "file:line:column" of a rule, for comments and explanations; the file's own name only."""
        fault = self.fault(path, "")
        return f"{fault.file.rpartition('/')[2]}:{fault.line}:{fault.column}"

    def without(self, items: Set[tuple[str, int]]) -> Sources:
        """The same sources less these list items."""
        rest = Sources({"site": self.value["site"]}, {}, self.site)
        for section in LISTS:
            for index, item in enumerate(self.value.get(section, ())):
                if (section, index) not in items:
                    rest.append(section, item, *self.origins[section, index])
        return rest

    def append(self, section: str, item: Any, document: Document, path: Path) -> None:
        merged = self.value.setdefault(section, [])
        self.origins[section, len(merged)] = (document, path)
        merged.append(item)


def parse_rules(files: Mapping[str, bytes]) -> Loaded:
    """Parse, merge and check the rule files given by name."""
    if (total := sum(map(len, files.values()))) > MAX_TOTAL_OCTETS:
        words = f"{total} octets in {len(files)} files; expected at most {MAX_TOTAL_OCTETS}"
        return Loaded(None, (Fault(max(files, key=lambda name: len(files[name])), 1, 1, words),))
    documents = [parse_document(name, files[name]) for name in sorted(files)]
    faults = [fault for document in documents for fault in document.faults]
    sources = _merge(documents, faults)
    whole = sources.site is not None and not any(document.broken for document in documents)
    policy = _checked(sources, faults, whole)
    if faults or policy is None:
        return Loaded(None, tuple(sorted(set(faults))[:MAX_FAULTS]))
    policy._revision = _revision(files)
    return Loaded(policy)


def render_faults(faults: Iterable[Fault], files: Mapping[str, bytes]) -> str:
    """Each fault with its line of source and a caret under the place."""
    lines: dict[str, list[str]] = {}
    out = []
    for fault in faults:
        if fault.file not in lines:
            lines[fault.file] = files.get(fault.file, b"").decode("utf-8-sig", "replace").splitlines()
        out += [str(fault), *_pointer(fault, lines[fault.file])]
    return "\n".join(out)


def _pointer(fault: Fault, lines: Sequence[str]) -> Sequence[str]:
    if not 0 < fault.line <= len(lines):
        return ()
    shown = "".join(c if c.isprintable() else " " for c in lines[fault.line - 1][:SHOWN_COLUMNS])
    caret = (f"    {' ' * (fault.column - 1)}^",) if fault.column <= SHOWN_COLUMNS else ()
    return (f"    {shown}", *caret)


def _revision(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(files):
        short = name.rpartition("/")[2].encode()
        digest.update(b"%d %s %d\n" % (len(short), short, len(files[name])) + files[name])
    return digest.hexdigest()[:12]


def _merge(documents: Sequence[Document], faults: list[Fault]) -> Sources:
    sources = Sources({}, {})
    for document in documents:
        for section, value in document.value.items():
            at = document.key_places[(section,)]
            if section not in SECTIONS:
                words = (
                    f"unknown section {quote(section)}{did_you_mean(section, SECTIONS)}; expected {one_of(SECTIONS)}"
                )
                faults.append(Fault(document.file, *at, words))
                document.broken = True
            elif section == "site":
                _take_site(sources, document, value, at, faults)
            elif value is not None:
                _take_list(sources, document, section, value, faults)
    if sources.site is None and not any(document.broken for document in documents):
        name = documents[0].file if documents else "(rules)"
        faults.append(Fault(name, 1, 1, "no `site:` section in any file; expected exactly one"))
    return sources


def _take_site(sources: Sources, document: Document, value: Any, at: tuple[int, int], faults: list[Fault]) -> None:
    if sources.site is not None:
        line, column = sources.site.key_places[("site",)]
        words = f"a second `site:` section; the first is at {sources.site.file}:{line}:{column}, expected one"
        faults.append(Fault(document.file, *at, words))
        return
    sources.site = document
    sources.value["site"] = value


def _take_list(sources: Sources, document: Document, section: str, value: Any, faults: list[Fault]) -> None:
    if not isinstance(value, list):
        at = document.place((section,))
        faults.append(Fault(document.file, *at, f"expected a list of {section} (lines that start with '- ')"))
        document.broken = True
        return
    for index, item in enumerate(value):
        sources.append(section, item, document, (section, index))


def _checked(sources: Sources, faults: list[Fault], whole: bool) -> Policy | None:
    """The policy, crosschecked; None when something is not well-formed. `whole`: no part is missing."""
    if sources.site is None:
        sources.value["site"] = {"zones": {}}  # so that the faults of the other sections are still found
    policy, malformed = _validate(sources, faults)
    if policy is not None:
        _crosscheck(policy, sources, faults if whole else [])
    elif whole and malformed.isdisjoint(_POINTED_TO):
        rest = sources.without({(str(path[0]), int(path[1])) for path in malformed if len(path) > 1})
        if (part := _validate(rest, [])[0]) is not None:
            _crosscheck(part, rest, faults)
    return policy


_POINTED_TO = frozenset({("site",), ("devices",)})


def _validate(sources: Sources, faults: list[Fault]) -> tuple[Policy | None, set[Path]]:
    """The policy, or None and the parts that are not well-formed."""
    malformed: set[Path] = set()
    try:
        return Policy.model_validate(sources.value), malformed
    except ValidationError as wrong:
        for error in wrong.errors(include_url=False)[:MAX_FAULTS]:
            path, key, message = explain(error, sources.value)
            faults.append(sources.fault(path, message, key=key))
            section = path[:1]
            malformed.add(section if section in _POINTED_TO else path[:2])
        return None, malformed


def _crosscheck(policy: Policy, sources: Sources, faults: list[Fault]) -> None:
    for section in LISTS:
        for index, item in enumerate(getattr(policy, section)):
            item._at = sources.at((section, index))
    faults += islice(crosscheck(policy, sources.fault), MAX_FAULTS)
