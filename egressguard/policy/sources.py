"""Several documents -> one value, with the place of each of its parts.

Contract
    The lists (flows, mail, limits, routes, tls, devices) are concatenated in the order of the documents; `site` stands
    once.
    An overlay changes what the base says: `site` key by key (lists are replaced, null takes a key away), an item of
    a list by its name; items of new names go in front of the base's, for the first match wins.
    Whatever a fault is about, its place is in the file that said it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from egressguard.policy.document import Document, Fault, Path
from egressguard.policy.words import did_you_mean, one_of, quote, show

LISTS = ("flows", "mail", "limits", "routes", "tls", "devices", "invariants")
SECTIONS = ("include", "variables", "site", *LISTS)


class Origin(NamedTuple):
    """Where a part comes from. `step` counts what was put in: a part that was put over another hides what is inside."""

    document: Document
    path: Path
    step: int


@dataclass(slots=True)
class Sources:
    """The merged value; `origins` has each part that came from somewhere else than its parent.

    `whole`: nothing is missing that rules may point to."""

    value: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    whole: bool = True
    steps: int = 0

    def locate(self, path: Path) -> tuple[Document | None, Path]:
        """The document and the path inside it for a path in the merged value."""
        found, rest = None, path
        for length in range(1, len(path) + 1):
            origin = self.origins.get(path[:length])
            if origin is not None and (found is None or origin.step > found.step):
                found, rest = origin, path[length:]
        return (found.document, (*found.path, *rest)) if found else (None, path)

    def put(self, path: Path, document: Document, inner: Path) -> None:
        """What stands at `path` comes from `inner` in `document`."""
        self.steps += 1
        self.origins[path] = Origin(document, inner, self.steps)

    def fault(self, path: Path, message: str, *, key: bool = False) -> Fault:
        """A fault at the value (or its key) that `path` names."""
        document, inner = self.locate(path)
        if document is None:
            return Fault("(rules)", 1, 1, message)
        return document.fault_at(inner, message, key=key)

    def at(self, path: Path) -> str:
        """ "file:line:column" of a rule, for comments and explanations."""
        fault = self.fault(path, "")
        return f"{fault.file}:{fault.line}:{fault.column}"

    def append(self, section: str, item: Any, document: Document, path: Path) -> None:
        merged = self.value.setdefault(section, [])
        self.put((section, len(merged)), document, path)
        merged.append(item)

    def keep(self, wanted: Iterable[tuple[str, int]]) -> Sources:
        """The same sources with these list items only."""
        rest = Sources({"site": self.value["site"]}, {p: o for p, o in self.origins.items() if p[0] == "site"})
        for section, index in wanted:
            origin = self.origins[section, index]
            rest.append(section, self.value[section][index], origin.document, origin.path)
        return rest

    def items(self) -> Iterable[tuple[str, int]]:
        return ((section, index) for section in LISTS for index in range(len(self.value.get(section, ()))))


def merge(base: Sequence[Document], overlay: Sequence[Document], faults: list[Fault]) -> Sources:
    """All documents as one value; what does not fit goes to `faults`."""
    sources = Sources(whole=not any(document.broken for document in (*base, *overlay)))
    for document in base:
        for section, value in _sections(document, sources, faults):
            if section == "site":
                _take_site(sources, document, value, faults)
            else:
                for index, item in enumerate(value):
                    sources.append(section, item, document, (section, index))
    for document in overlay:
        for section, value in _sections(document, sources, faults):
            if section == "site":
                _overlay_site(sources, document, value, faults)
            else:
                _overlay_list(sources, section, value, document)
    if "site" not in sources.value:
        if sources.whole:
            name = base[0].file if base else "(rules)"
            faults.append(Fault(name, 1, 1, "no `site:` section in any file; expected exactly one"))
        sources.whole = False
    return sources


def _sections(document: Document, sources: Sources, faults: list[Fault]) -> Iterable[tuple[str, Any]]:
    """The sections that are to be merged; include and variables have been seen to before."""
    for section, value in document.value.items():
        at = document.key_places[(section,)]
        if section not in SECTIONS:
            words = f"unknown section {quote(section)}{did_you_mean(section, SECTIONS)}; expected {one_of(SECTIONS)}"
            faults.append(Fault(document.file, *at, words))
            sources.whole = False
        elif section in LISTS and value is not None:
            if isinstance(value, list):
                yield section, value
                continue
            words = f"found {show(value)}, expected a list of {section} (lines that start with '- ')"
            faults.append(Fault(document.file, *document.place((section,)), words))
            sources.whole = False
        elif section == "site":
            yield section, value


def _take_site(sources: Sources, document: Document, value: Any, faults: list[Fault]) -> None:
    if "site" in sources.value:
        first = sources.fault(("site",), "", key=True)
        words = f"a second `site:` section; the first is at {first.file}:{first.line}:{first.column}, expected one"
        faults.append(document.fault_at(("site",), words, key=True))
        return
    sources.value["site"] = value
    sources.put(("site",), document, ("site",))


def _overlay_site(sources: Sources, document: Document, value: Any, faults: list[Fault]) -> None:
    if value is None:
        words = "found nothing, expected the keys of `site` that differ here"
        faults.append(document.fault_at(("site",), words))
        return
    for path in _overlay_mapping(sources, ("site",), value, document):
        below: Any = sources.value
        for step in path[:-1]:
            below = below[step]
        hint = did_you_mean(path[-1], below)
        words = f"{quote(path[-1])} is taken away (null), but does not stand below{hint}; expected {one_of(below)}"
        faults.append(document.fault_at(path, words, key=True))


def _overlay_mapping(sources: Sources, path: Path, value: Any, document: Document) -> Iterable[Path]:
    """Put `value` over what stands at `path` of the merged value; the paths of keys that cannot be taken away."""
    parent: Any = sources.value
    for step in path[:-1]:
        parent = parent[step]
    below = parent.get(path[-1])
    if isinstance(value, dict) and isinstance(below, dict):
        parent[path[-1]] = dict(below)
        for key, item in value.items():
            yield from _overlay_mapping(sources, (*path, key), item, document)
    elif value is not None:
        parent[path[-1]] = value
        sources.put(path, document, path)
    elif path[-1] in parent:
        del parent[path[-1]]
    else:
        yield path


def _overlay_list(sources: Sources, section: str, items: Sequence[Any], document: Document) -> None:
    """Each item in the place of the one with its name; the second one of a name is left for crosscheck to find."""
    below = [(item, *sources.origins[section, i][:2]) for i, item in enumerate(sources.value.get(section, ()))]
    places = {name: i for i, (item, *_) in reversed(list(enumerate(below))) if (name := _name_of(item)) is not None}
    fresh: list[tuple[Any, Document, Path]] = []
    for index, item in enumerate(items):
        place = places.pop(_name_of(item) or "", None)
        if place is not None:
            below[place] = (item, document, (section, index))
        else:
            fresh.append((item, document, (section, index)))
    sources.value[section] = []
    for item, its_document, its_path in (*fresh, *below):
        sources.append(section, item, its_document, its_path)


def _name_of(item: Any) -> str | None:
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else None
