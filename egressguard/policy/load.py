"""Rule files -> Policy, or every fault at once.

Contract
    Pure: octets in, Policy or faults out. Never raises on any input.
    A Policy comes out only when there is no fault at all; its revision is a digest of names and octets.
    Faults between rules are looked for among what is well-formed, unless a part is missing that they may point to.
    How files become one is told in policy.sources and policy.expand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pydantic import ValidationError

from egressguard.policy.crosscheck import crosscheck
from egressguard.policy.document import Fault, Path
from egressguard.policy.expand import MAX_FAULTS, MAX_TOTAL_OCTETS, OVERLAYS, Reader, expand, read_variables
from egressguard.policy.model import Policy
from egressguard.policy.sources import LISTS, Sources, merge
from egressguard.policy.words import did_you_mean, explain, one_of, quote

SHOWN_COLUMNS = 160
YARA_SUFFIXES = (".yar", ".yara")


@dataclass(frozen=True, slots=True)
class Loaded:
    """`policy` is None exactly when there are faults, which come sorted by file and place."""

    policy: Policy | None
    faults: tuple[Fault, ...] = ()


def parse_rules(files: Mapping[str, bytes], site: str = "") -> Loaded:
    """Parse, merge and check the rule files: names relative to the rules directory -> octets.

    Files at the top are read in the order of their names; others only when something names them. `site` chooses the
    overlay sites/SITE/*.yaml."""
    reader = Reader(files)
    base = reader.documents([name for name in sorted(files) if _is_rule_file(name, "")])
    overlay = reader.documents(_overlay_names(reader, site) if site else [])
    variables = read_variables(reader, [*base, *overlay])
    for document in (*base, *overlay):
        expand(reader, document, variables)
    faults = reader.faults
    sources = merge(base, overlay, faults)
    if reader.octets > MAX_TOTAL_OCTETS:
        words = f"{reader.octets} octets in {len(reader.used)} files; expected at most {MAX_TOTAL_OCTETS}"
        return Loaded(None, (Fault(max(reader.used, key=lambda name: len(files[name])), 1, 1, words),))
    policy = _checked(sources, faults)
    if policy is not None:
        _name_yara_rules(reader, sources, policy)
    if faults or policy is None:
        return Loaded(None, tuple(sorted(set(faults))[:MAX_FAULTS]))
    policy._revision = _revision({name: files[name] for name in reader.used}, site)
    return Loaded(policy)


def _name_yara_rules(reader: Reader, sources: Sources, policy: Policy) -> None:
    """They are part of the rules: another text is another revision. What they mean is for whoever compiles them."""
    if (yara := policy.site.scan.yara) is None:
        return
    names = yara_files(policy, reader.files)
    for name in names:
        reader.open(name)
    if not names:
        words = f"no YARA rules in {quote(yara.folder)}; expected *.yar or *.yara files there"
        reader.faults.append(sources.fault(("site", "scan", "yara", "folder"), words))


def yara_files(policy: Policy, files: Iterable[str]) -> list[str]:
    """Those of `files` (relative to the rules directory) that are YARA rules of the policy."""
    if (yara := policy.site.scan.yara) is None:
        return []
    return sorted(name for name in files if name.rpartition("/")[0] == yara.folder and name.endswith(YARA_SUFFIXES))


def _is_rule_file(name: str, folder: str) -> bool:
    rest = name.removeprefix(folder)
    return name.startswith(folder) and "/" not in rest and rest.endswith((".yaml", ".yml"))


def _overlay_names(reader: Reader, site: str) -> list[str]:
    names = [name for name in sorted(reader.files) if _is_rule_file(name, f"{OVERLAYS}/{site}/")]
    if not names:
        known = sorted({name.split("/")[1] for name in reader.files if _is_overlay(name)})
        words = f"no overlay for the site {quote(site)}{did_you_mean(site, known)}; expected {one_of(known)}"
        reader.faults.append(Fault(f"{OVERLAYS}/{site}", 1, 1, words))
    return names


def _is_overlay(name: str) -> bool:
    return name.startswith(f"{OVERLAYS}/") and _is_rule_file(name, name.rpartition("/")[0] + "/")


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


def _revision(files: Mapping[str, bytes], site: str) -> str:
    digest = hashlib.sha256(site.encode())
    for name in sorted(files):
        short = name.encode()
        digest.update(b"%d %s %d\n" % (len(short), short, len(files[name])) + files[name])
    return digest.hexdigest()[:12]


def _checked(sources: Sources, faults: list[Fault]) -> Policy | None:
    """The policy, crosschecked, less what is switched off; None when something is not well-formed."""
    if "site" not in sources.value:
        sources.value["site"] = {"zones": {}}  # so that the faults of the other sections are still found
    policy, malformed = _validate(sources, faults)
    if policy is not None:
        _crosscheck(policy, sources, faults if sources.whole else [])
        return policy if faults else _enabled(policy)
    if sources.whole and malformed.isdisjoint(_POINTED_TO):
        bad = {(str(path[0]), int(path[1])) for path in malformed if len(path) > 1}
        rest = sources.keep(item for item in sources.items() if item not in bad)
        if (part := _validate(rest, [])[0]) is not None:
            _crosscheck(part, rest, faults)
    return policy


_POINTED_TO = frozenset({("site",), ("devices",), ("limits",)})


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


def _enabled(policy: Policy) -> Policy:
    """The policy without what says `enabled: false`; it was checked like the rest."""
    kept = {section: tuple(item for item in getattr(policy, section) if item.enabled) for section in LISTS}
    return policy.replace(**kept)
