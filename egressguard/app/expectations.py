"""Expectations from disk: read them, run them, say what is red.

Contract
    rules/expect/*.yaml, and for a site rules/sites/NAME/expect/*.yaml besides; message files lie below these folders.
    A site's case takes the place of the base's case of the same name.
    Messages are looked into as the scan role would, without asking clamd.
    A folder without expectations is no fault: nothing was promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from egressguard.app.rules import EXPECTATIONS, read_files_below
from egressguard.mail.header import header_section
from egressguard.policy.document import Fault
from egressguard.policy.expand import OVERLAYS
from egressguard.policy.expect import ExpectFile, parse_expectations
from egressguard.policy.facts import ScanReport
from egressguard.policy.model import Policy
from egressguard.policy.trial import Result, Trial, run_trials, trials
from egressguard.relay.facts import header_facts
from egressguard.scan.examine import examine


@dataclass(frozen=True, slots=True)
class Loaded:
    """`trials` are ready to run when there is no fault."""

    trials: tuple[Trial, ...] = ()
    faults: tuple[Fault, ...] = ()


def load_expectations(directory: Path, policy: Policy, site: str = "") -> Loaded:
    """All expectations of a rules directory; `policy` says how messages are scanned."""
    faults: list[Fault] = []
    base = _read_folder(directory / EXPECTATIONS, faults)
    overlay = _read_folder(directory / OVERLAYS / site / EXPECTATIONS, faults) if site else []
    if faults:
        return Loaded(faults=tuple(sorted(faults)))

    def look(content: bytes) -> tuple[Mapping[str, tuple[str, ...]], ScanReport]:
        return header_facts(header_section(content)), examine(content, policy.site.scan)

    replacing = trials(overlay, look)
    replaced = {(trial.section, trial.case.name) for trial in replacing}
    kept = (trial for trial in trials(base, look) if (trial.section, trial.case.name) not in replaced)
    return Loaded((*kept, *replacing))


def _read_folder(folder: Path, faults: list[Fault]) -> list[ExpectFile]:
    if not folder.is_dir():
        return []
    files: list[ExpectFile] = []
    contents, unread = read_files_below(folder)
    faults += unread
    for name, content in contents.items():
        if "/" in name or not name.endswith((".yaml", ".yml")):
            continue
        parsed = parse_expectations(str(folder / name), content, contents)
        if isinstance(parsed, ExpectFile):
            files.append(parsed)
        else:
            faults += parsed
    return files


def red_expectations(directory: Path, policy: Policy, site: str = "") -> list[str]:
    """Why a policy should not be taken: faults of the expectations, and those that are red, in words."""
    loaded = load_expectations(directory, policy, site)
    if loaded.faults:
        return [str(fault) for fault in loaded.faults]
    return [words for result in run_trials(policy, loaded.trials) for words in difference(result)]


def difference(result: Result) -> list[str]:
    """What is red about a result, a line for each key; nothing for a green one."""
    if result.is_green:
        return []
    lines = [f"{result.at}: {result.name}"]
    for key, expected in result.expected.items():
        found = result.found.get(key)
        if found != expected:
            lines.append(f"    {key}: expected {_shown(expected)}, found {_shown(found)}")
    return [*lines, f"    decided by: {result.found.get('rule') or 'no rule'} ({result.reason})"]


def _shown(value: object) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    if value is None:
        return "nothing of the kind"
    text = "".join(c if c.isprintable() else "?" for c in str(value))
    return text or '""'
