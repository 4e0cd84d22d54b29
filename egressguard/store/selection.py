"""Which recipients of which messages somebody means, and what is done with them: as SQL for every engine.

Contract
    All that a Selection names must hold; one that names nothing means all. Letters' case does not count.
    `pick` looks at WINDOW_MESSAGES at a time, in the order in which they came, so that every look is short however
    many wait. `change` asks once more, in its own transaction, whether the selection and the state still fit: what is
    being tried by then is left alone, but by DELETE.
    See store.statements for the dialect.
"""

# ruff: noqa: S608 -- statements are put together from our own words only; values are parameters

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from egressguard.store.statements import Database

WINDOW_MESSAGES = 5_000
_ANY = 2**31 - 1
_STATES = {
    "incoming": ("queued", 0, 0),
    "deferred": ("queued", 1, _ANY),
    "active": ("trying", 0, _ANY),
    "held": ("held", 0, _ANY),
}
STATES = tuple(_STATES)
"""As the metrics call them: never tried, tried before, being tried now, held."""

END = sys.maxsize
"""Behind every message."""


@dataclass(frozen=True, slots=True)
class Selection:
    """`sender` and `recipient` are addresses or "*@domain"; the null reverse-path is "". `destination` is as in
    recipient.destination, or the domain of one. `received_*`: seconds since the epoch; `state`: one of STATES."""

    queue_ids: tuple[str, ...] | None = None
    sender: str | None = None
    recipient: str | None = None
    destination: str | None = None
    state: str | None = None
    received_before: float | None = None
    received_after: float | None = None

    @property
    def is_whole_messages(self) -> bool:
        """Whether it names nothing of recipients."""
        return self.recipient is None and self.destination is None and self.state is None


class Move(enum.Enum):
    """What is done with the recipients selected (docs/queue.md)."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    REROUTE = "reroute"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Change:
    """`now` is when they are due from; `via` counts for REROUTE: names of smart hosts or mx, () = by the routes."""

    move: Move
    now: float
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picked:
    """A message with `recipients` that are selected, `trying` of them being tried at that moment."""

    number: int
    queue_id: str
    recipients: int
    trying: int
    size_octets: int


@dataclass(frozen=True, slots=True)
class Page:
    """`after`: where the next page begins; None: this was the last one."""

    picked: tuple[Picked, ...]
    after: int | None


@dataclass(frozen=True, slots=True)
class Changed:
    """What came of a Change: `recipients` by the message they belong to; `trying` of them were being tried.

    `files`: messages that have left the queue and whose content lies in a file."""

    recipients: dict[str, int] = field(default_factory=dict)
    trying: int = 0
    files: tuple[str, ...] = ()


_OF_MESSAGE = (
    " (CAST(? AS TEXT) IS NULL OR lower(reverse_path) LIKE ? ESCAPE '\\')"
    " AND (CAST(? AS TEXT) IS NULL OR received_at <= ?) AND (CAST(? AS TEXT) IS NULL OR received_at >= ?)"
)
_OF_RECIPIENT = (
    " (CAST(? AS TEXT) IS NULL OR lower(forward_path) LIKE ? ESCAPE '\\')"
    " AND (CAST(? AS TEXT) IS NULL OR lower(destination) IN (?, ?))"
    " AND (CAST(? AS TEXT) IS NULL OR (state = ? AND attempts BETWEEN ? AND ?))"
)
_GROUPED = (
    "SELECT number, id, COUNT(*), SUM(CASE WHEN state = 'trying' THEN 1 ELSE 0 END), size_octets"
    " FROM message JOIN recipient ON message_id = id WHERE number > ? AND number <= ? AND"
    f"{_OF_MESSAGE} AND{_OF_RECIPIENT}"
)
# An index that would be used for the numbers could not be used for the ids.
_ORDER = " GROUP BY number ORDER BY number LIMIT ?"  # it is the primary key: the order in which they are read
_PICK = _GROUPED + _ORDER
_PICK_NAMED = _GROUPED.replace("number ", "number + 0 ") + f" AND id IN (SELECT value FROM json_each(?)){_ORDER}"
_CHOSEN = f" message_id IN (SELECT value FROM json_each(?)) AND{_OF_RECIPIENT}"
# The cast keeps SQLite from walking over all that is queued, by the index of states, instead of the messages named.
_CHANGES = {
    Move.RETRY: f"UPDATE recipient SET next_at = ? WHERE CAST(state AS TEXT) = 'queued' AND{_CHOSEN}",
    Move.HOLD: f"UPDATE recipient SET state = 'held' WHERE CAST(state AS TEXT) = 'queued' AND{_CHOSEN}",
    Move.RELEASE: f"UPDATE recipient SET state = 'queued', next_at = ? WHERE CAST(state AS TEXT) = 'held' AND{_CHOSEN}",
    Move.REROUTE: "UPDATE recipient SET via = ?, destination = '', next_at ="
    f" CASE state WHEN 'queued' THEN ? ELSE next_at END WHERE state <> 'trying' AND{_CHOSEN}",
    Move.DELETE: f"DELETE FROM recipient WHERE{_CHOSEN}",
}
_WAITING = (
    "SELECT message_id, forward_path, attempts, via, notify, orcpt FROM recipient"
    f" WHERE state <> 'trying' AND{_CHOSEN} ORDER BY message_id, forward_path"
)
_DELETE_EMPTY = (
    "DELETE FROM message WHERE id IN (SELECT value FROM json_each(?))"
    " AND NOT EXISTS (SELECT 1 FROM recipient WHERE message_id = id) RETURNING number, id, front IS NOT NULL"
)


def pick(db: Database, selection: Selection, after: int, limit: int) -> Page:
    """The next messages behind `after` (0 = the first), at most `limit`."""
    if selection.queue_ids is not None:
        named = json.dumps(selection.queue_ids)
        rows = db.execute(_PICK_NAMED, (after, END, *_of_message(selection), *_of_recipient(selection), named, limit))
        return _page(rows.fetchall(), limit, None)
    window = db.execute(
        "SELECT number FROM message WHERE number > ? ORDER BY number LIMIT 1 OFFSET ?", (after, WINDOW_MESSAGES - 1)
    ).fetchone()
    until = END if window is None else int(window[0])
    rows = db.execute(_PICK, (after, until, *_of_message(selection), *_of_recipient(selection), limit))
    return _page(rows.fetchall(), limit, None if window is None else until)


def _page(rows: Sequence[tuple[Any, ...]], limit: int, after: int | None) -> Page:
    picked = tuple(Picked(*row) for row in rows)
    return Page(picked, picked[-1].number if len(picked) == limit else after)


def newest(db: Database) -> int:
    """The number of the message that came last: what comes later is not meant by an order given now."""
    (number,) = db.execute("SELECT COALESCE(MAX(number), 0) FROM message").fetchone()
    return int(number)


def change(db: Database, selection: Selection, queue_ids: Sequence[str], change: Change) -> Changed:
    """Do it to the selected recipients of these messages, as far as their state allows it."""
    before: tuple[Any, ...] = {
        Move.RETRY: (change.now,),
        Move.RELEASE: (change.now,),
        Move.REROUTE: (" ".join(change.via), change.now),
    }.get(change.move, ())
    statement = f"{_CHANGES[change.move]} RETURNING message_id, state"
    changed: dict[str, int] = {}
    trying = 0
    for queue_id, state in db.execute(
        statement, (*before, json.dumps(queue_ids), *_of_recipient(selection))
    ).fetchall():
        changed[queue_id] = changed.get(queue_id, 0) + 1
        trying += state == "trying"
    files = _delete_empty(db, changed) if change.move is Move.DELETE else ()
    return Changed(changed, trying, files)


def _delete_empty(db: Database, queue_ids: dict[str, int]) -> tuple[str, ...]:
    files = []
    for number, queue_id, in_file in db.execute(_DELETE_EMPTY, (json.dumps(list(queue_ids)),)).fetchall():
        if in_file:
            files.append(queue_id)
        else:
            db.execute("DELETE FROM body WHERE number = ?", (number,))
    return tuple(files)


def waiting(db: Database, selection: Selection, queue_ids: Sequence[str]) -> list[tuple[Any, ...]]:
    """(message_id, forward_path, attempts, via, notify, orcpt) of those selected that nobody is trying."""
    return db.execute(_WAITING, (json.dumps(queue_ids), *_of_recipient(selection))).fetchall()


def _of_message(selection: Selection) -> tuple[Any, ...]:
    sender = _pattern(selection.sender)
    before, after = selection.received_before, selection.received_after
    return (sender, sender, _text(before), before, _text(after), after)


def _of_recipient(selection: Selection) -> tuple[Any, ...]:
    recipient, place = _pattern(selection.recipient), selection.destination
    place = place.lower() if place is not None else None
    state, least, most = _STATES[selection.state] if selection.state is not None else (None, 0, 0)
    return (recipient, recipient, place, place, f"mx:{place}", state, state, least, most)


def _text(number: float | None) -> str | None:
    return None if number is None else str(number)


def _pattern(address: str | None) -> str | None:
    if address is None:
        return None
    escaped = address.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped[1:]}" if escaped.startswith("*@") else escaped
