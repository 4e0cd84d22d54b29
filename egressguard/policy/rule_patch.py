"""New flow rules as a patch of the rule files, for `git apply`. Pure: files are given, texts come back.

Contract
    Nothing that stands in a file is changed: lines are put in front of a rule (and of what its comment says), or a new
    file is made that comes last.
    Raises CannotPlace where a rule does not begin with "- " on a line of its own, or stands in an overlay.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from egressguard.policy.expand import OVERLAYS
from egressguard.policy.model import Policy
from egressguard.policy.suggest import Suggestion


class CannotPlace(Exception):
    """Where the rules cannot be put by a program; the message names the place."""


def with_suggestions(files: Mapping[str, str], policy: Policy, suggestions: Iterable[Suggestion]) -> dict[str, str]:
    """The files (by name) that change, as they will be. `files` has those of the policy."""
    places = {rule.name: rule.at for rule in policy.flows}
    lines = {name: text.splitlines(keepends=True) for name, text in files.items()}
    changed: dict[str, list[str]] = {}
    where = [(*_place(places[each.before]), each) for each in suggestions if each.before]
    for name, line, suggestion in sorted(where, key=lambda item: (item[0], -item[1])):  # from below: lines stay put
        changed[name] = lines[name] = _in_front(lines[name], name, line, suggestion.rules)
    behind = [rule for each in suggestions if not each.before for rule in each.rules]
    if behind:
        changed[_fresh_name(files)] = ["flows:\n", *_written(behind, "  ")]
    return {name: "".join(text) for name, text in changed.items()}


def patch(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """A unified diff, as git writes it."""
    text = ""
    for name in sorted(after):
        old = before.get(name)
        lines = difflib.unified_diff(
            [] if old is None else old.splitlines(keepends=True),
            after[name].splitlines(keepends=True),
            "/dev/null" if old is None else f"a/{name}",
            f"b/{name}",
        )
        text += "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
    return text


def _place(at: str) -> tuple[str, int]:
    """ "flows.yaml:12:5" -> (file, line)."""
    name, line, _column = at.rsplit(":", 2)
    return name, int(line)


def _in_front(lines: Sequence[str], name: str, line: int, rules: Sequence[Mapping[str, Any]]) -> list[str]:
    index = line - 1
    first = lines[index] if index < len(lines) else ""
    indent = first[: len(first) - len(first.lstrip(" "))]
    if name.startswith(f"{OVERLAYS}/") or not first.lstrip(" ").startswith("- "):
        raise CannotPlace(f"{name}:{line}: no place for rules in front of this one; expected '- ' and no overlay")
    while index and lines[index - 1].startswith(f"{indent}#"):
        index -= 1
    return [*lines[:index], *_written(rules, indent), "\n", *lines[index:]]


def _written(rules: Iterable[Mapping[str, Any]], indent: str) -> list[str]:
    lines: list[str] = []
    for rule in rules:
        for number, (key, value) in enumerate(rule.items()):
            lines.append(f"{indent}{'  ' if number else '- '}{key}: {_value(value)}\n")
    return lines


def _value(value: object) -> str:
    """On one line, as YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True).splitlines()[0]


def _fresh_name(files: Iterable[str]) -> str:
    """A name behind those of all files: rules are joined in the order of names."""
    name, last = "zz-suggested.yaml", max(files, default="")
    while name <= last:
        name = f"z{name}"
    return name
