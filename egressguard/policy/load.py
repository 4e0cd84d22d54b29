"""Rule files -> Policy, or every fault at once.

Contract
    Pure: octets in, Policy or faults out. Never raises on any input.
    A Policy comes out only when there is no fault at all; its revision is a digest of names and octets.
    The sections flows, mail, routes and devices are concatenated in the order of file names; `site` stands once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from egressguard.policy.crosscheck import crosscheck
from egressguard.policy.document import Document, Fault, Path, parse_document
from egressguard.policy.model import Policy
from egressguard.policy.words import did_you_mean, explain

LISTS = ("flows", "mail", "routes", "devices")
SECTIONS = ("site", *LISTS)


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


def parse_rules(files: Mapping[str, bytes]) -> Loaded:
    """Parse, merge and check the rule files given by name."""
    documents = [parse_document(name, files[name]) for name in sorted(files)]
    faults = [fault for document in documents for fault in document.faults]
    sources = _merge(documents, faults)
    policy = _validate(sources, faults)
    if policy is not None:
        _place(policy, sources)
        faults += crosscheck(policy, sources.fault)
    if faults or policy is None:
        return Loaded(None, tuple(sorted(set(faults))))
    policy._revision = _revision(files)
    return Loaded(policy)


def render_faults(faults: Iterable[Fault], files: Mapping[str, bytes]) -> str:
    """Each fault with its line of source and a caret under the place."""
    out = []
    for fault in faults:
        out.append(str(fault))
        lines = files.get(fault.file, b"").decode("utf-8", "replace").splitlines()
        if 0 < fault.line <= len(lines):
            shown = "".join(c if c.isprintable() else " " for c in lines[fault.line - 1][:160])
            out += [f"    {shown}", f"    {' ' * min(fault.column - 1, 160)}^"]
    return "\n".join(out)


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
                hint = did_you_mean(section, SECTIONS)
                expected = f"expected one of {', '.join(SECTIONS)}"
                faults.append(Fault(document.file, *at, f"unknown section '{section}'{hint}; {expected}"))
            elif section == "site":
                _take_site(sources, document, value, at, faults)
            elif value is not None:
                _take_list(sources, document, section, value, faults)
    if sources.site is None:
        name = documents[0].file if documents else "(rules)"
        faults.append(Fault(name, 1, 1, "no `site:` section in any file; expected exactly one"))
    return sources


def _take_site(sources: Sources, document: Document, value: Any, at: tuple[int, int], faults: list[Fault]) -> None:
    if sources.site is not None:
        line, column = sources.site.key_places[("site",)]
        words = f"a second `site:` section; the first is at {sources.site.file}:{line}:{column}"
        faults.append(Fault(document.file, *at, words))
        return
    sources.site = document
    sources.value["site"] = value


def _take_list(sources: Sources, document: Document, section: str, value: Any, faults: list[Fault]) -> None:
    if not isinstance(value, list):
        at = document.place((section,))
        faults.append(Fault(document.file, *at, f"expected a list of {section} (lines that start with '- ')"))
        return
    merged = sources.value.setdefault(section, [])
    for index, item in enumerate(value):
        sources.origins[section, len(merged)] = (document, (section, index))
        merged.append(item)


def _validate(sources: Sources, faults: list[Fault]) -> Policy | None:
    if "site" not in sources.value:
        sources.value["site"] = {"zones": {}}  # so that the faults of the other sections are still found
    try:
        return Policy.model_validate(sources.value)
    except ValidationError as wrong:
        for error in wrong.errors(include_url=False, include_context=True):
            path, key, message = explain(error, sources.value)
            faults.append(sources.fault(path, message, key=key))
        return None


def _place(policy: Policy, sources: Sources) -> None:
    for section in LISTS:
        for index, item in enumerate(getattr(policy, section)):
            item._at = sources.at((section, index))
