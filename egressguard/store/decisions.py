"""What the journal says of past decisions, row by row: for `backtest`, which reads a million of them.

Contract
    Rows come in the order in which they were written, at most one page of them in memory.
    A missing file has none. Raises PermissionError; sqlite3.Error for a file that is damaged.
    Reading stops nobody who writes: no transaction stays open from one page to the next.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

PAGE_ROWS = 5_000
Table = Literal["event", "flow"]
Row = tuple[float, str, str]
"""(at, kind, fields as JSON)."""

_WHICH = {"event": "kind >= 'mail.' AND kind < 'mail/'", "flow": "kind = 'flow.decided'"}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of one table: rows with `first` <= id <= `last`."""

    path: Path
    table: Table
    first: int
    last: int

    @property
    def rows(self) -> int:
        """How many there are at the most."""
        return self.last - self.first + 1


def find_span(path: Path, table: Table, since: float) -> Span | None:
    """All decisions on messages ("event") or flows ("flow") since then; None: there are none."""
    if not path.exists():
        return None
    with closing(_open(path)) as db:
        known = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
        if known is None:  # a file of an earlier program
            return None
        # Ids ascend with time but for rows that were written late: the first fresh one, from the oldest on.
        query = f"SELECT id FROM {table} WHERE +at >= ? ORDER BY id LIMIT 1"  # noqa: S608 -- our own words
        first = db.execute(query, (since,)).fetchone()
        last = db.execute(f"SELECT MAX(id) FROM {table}").fetchone()  # noqa: S608
    return None if first is None else Span(path, table, first[0], last[0])


def halved(span: Span) -> tuple[Span, Span]:
    middle = (span.first + span.last) // 2
    return (
        Span(span.path, span.table, span.first, middle),
        Span(span.path, span.table, middle + 1, span.last),
    )


def whole_since(path: Path, table: Table) -> float:
    """Since when nothing is missing; 0.0: the first row ever written stands there still; infinity: there is none."""
    if not path.exists():
        return math.inf
    with closing(_open(path)) as db:
        row = db.execute(f"SELECT id, at FROM {table} ORDER BY id LIMIT 1").fetchone()  # noqa: S608 -- our own words
    if row is None:
        return math.inf
    return 0.0 if row[0] == 1 else float(row[1])


def read_decisions(span: Span) -> Iterator[Row]:
    query = (
        f"SELECT id, at, kind, fields FROM {span.table} WHERE id BETWEEN ? AND ? AND {_WHICH[span.table]}"  # noqa: S608
        " ORDER BY id LIMIT ?"
    )
    after = span.first - 1
    with closing(_open(span.path)) as db:
        while page := db.execute(query, (after + 1, span.last, PAGE_ROWS)).fetchall():
            after = page[-1][0]
            yield from (row[1:] for row in page)


def _open(path: Path) -> sqlite3.Connection:
    with path.open("rb"):  # SQLite would say "unable to open"; this says why
        pass
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)
