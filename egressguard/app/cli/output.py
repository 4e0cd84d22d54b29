"""Words for people, JSON for programs, exit codes for scripts."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import click

SCHEMA = 1
"""The version of every --json answer; it changes when a key changes its meaning or goes away."""


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    PERMISSION = 4
    NOT_FOUND = 5
    REFUSED = 6
    TEMPORARY = 75


KINDS = {
    "failed": Exit.FAILED,
    "not-found": Exit.NOT_FOUND,
    "refused": Exit.REFUSED,
    "temporary": Exit.TEMPORARY,
    "permission": Exit.PERMISSION,
}


def fail(words: str, code: Exit = Exit.FAILED) -> NoReturn:
    """Say what is wrong (and what to do next) on standard error, and end."""
    click.echo(f"egressguard: {words}", err=True)
    sys.exit(code)


def emit_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str) -> None:
    """One JSON object a line, or a table of `columns`; nothing to show says `empty` on standard error."""
    if as_json:
        for row in rows:  # there may be a million
            click.echo(json.dumps({"schema": SCHEMA, **row}, default=str))
        return
    kept = list(rows)
    if not kept:
        click.echo(empty, err=True)
    else:
        _table(kept, columns)


def emit_one(thing: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **thing}, default=str))
        return
    width = max((len(key) for key in thing), default=0)
    for key, value in thing.items():
        click.echo(f"{key:<{width}}  {_words(value)}")


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    cells = [[_words(row.get(column, "")) for column in columns] for row in rows]
    widths = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]
    click.echo(
        _bold("  ".join(c.upper().replace("_", " ").ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip())
    )
    for line in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _bold(text: str) -> str:
    wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return click.style(text, bold=True) if wanted else text


def colored(text: str, color: str) -> str:
    """The text in a colour, where a person sees it on a terminal that takes colours."""
    wanted = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return click.style(text, fg=color) if wanted else text


@contextmanager
def progress(what: str, *, shown: bool) -> Iterator[Callable[[int, int], object]]:
    """A progress bar on a terminal's standard error; gives a function that is told (done, of how many)."""
    if not (shown and sys.stderr.isatty()):
        yield lambda _done, _total: None
        return
    with click.progressbar(length=1, label=what, file=sys.stderr) as bar:

        def tick(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield tick


def _words(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={_words(item)}" for key, item in value.items())
    return "".join(c if c.isprintable() else "?" for c in str(value))


def timestamp(seconds: float | None) -> str:
    """UTC, ISO 8601."""
    return "" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
