"""What another policy changes, for people, for programs and for a merge request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from egressguard.app.cli.output import colored
from egressguard.policy.difference.change import Change
from egressguard.policy.difference.whole import Difference

CUT = "not compared to the end, for it would take too long: there may be more changes in"


def changes_json(difference: Difference) -> dict[str, Any]:
    return {"changes": [change.row() for change in difference.changes], "not_compared": list(difference.cut)}


def changes_lines(difference: Difference) -> Iterator[str]:
    """Text for a terminal: what it is about, before and after, and one packet or message of it."""
    for change in difference.changes:
        before, after = change.sides()
        yield f"{change.part}: {_clean(change.which)}"
        yield colored(f"  - {_clean(before)}", "red")
        yield colored(f"  + {_clean(after)}", "green")
        if change.witness is not None:
            yield f"    such as {witness_text(change)}"
    for part in difference.cut:
        yield colored(f"{CUT} {part}", "yellow")
    count = len(difference.changes)
    yield f"{count or 'no'} change{'' if count == 1 else 's'}"


def changes_markdown(difference: Difference) -> Iterator[str]:
    """A table for each part, for a merge request."""
    yield "## What these rules change"
    yield ""
    if not difference:
        yield "Nothing: every packet and every message is decided as before."
    for part in dict.fromkeys(change.part for change in difference.changes):
        yield f"### {part}"
        yield ""
        yield "| which | before | after | such as |"
        yield "| --- | --- | --- | --- |"
        for change in difference.changes:
            if change.part == part:
                cells = (change.which, *change.sides())
                shown = f"`{_cell(witness_text(change))}`" if change.witness is not None else ""
                yield f"| {' | '.join(map(_cell, cells))} | {shown} |"
        yield ""
    for part in difference.cut:
        yield f"{CUT} {part}."


def witness_text(change: Change) -> str:
    """As `egressguard explain given` and a file of expectations take it: JSON is YAML."""
    return json.dumps(change.witness)


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _cell(text: str) -> str:
    return _clean(text).replace("|", "\\|").replace("`", "'").replace("<", "&lt;")
