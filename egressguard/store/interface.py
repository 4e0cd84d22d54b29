"""The spool as its users see it: one interface, whatever the engine below (SQLite now, PostgreSQL by URL later).

Contract
    `put` returns only when the message is on stable storage. Every error before that is an exception.
    A `source_id` is stored at most once, ever: putting it again returns the first queue id and stores nothing.
    `claim` writes the next attempt's time and counts the attempt BEFORE it returns: nobody dials twice by a crash.
    The states and moves are the table in docs/queue.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from egressguard.mail.envelope import Envelope
from egressguard.mail.outcome import Outcome


class SpoolFull(Exception):
    """No room now: 452 4.3.1. It ends by itself when there is room again."""


class SpoolBroken(Exception):
    """Storage failed (EIO and the like): 451 4.3.0, and nothing is written until the process starts anew."""


@dataclass(frozen=True, slots=True)
class NewMessage:
    """`content` is the header section and the body as they leave; `received_at` is seconds since the epoch."""

    queue_id: str
    envelope: Envelope
    content: bytes
    received_at: float
    client: str = ""
    listener: str = ""
    user: str | None = None
    rule: str = ""
    policy_revision: str = ""
    source_id: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """One message and those of its recipients that are due. `attempts` counts this attempt already."""

    queue_id: str
    reverse_path: str
    forward_paths: tuple[str, ...]
    received_at: float
    attempts: int
    smtputf8: bool
    body_8bit: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """What an attempt came to: final recipients leave the queue, the others wait until `retry_at`.

    `notice` is a DSN to put in the same transaction.
    """

    queue_id: str
    outcomes: Mapping[str, Outcome]
    finished: frozenset[str]
    retry_at: float
    notice: NewMessage | None = None


@dataclass(frozen=True, slots=True)
class Depth:
    messages: int
    recipients_due: int
    size_octets: int
    oldest_received_at: float | None


class Spool(Protocol):
    async def put(self, message: NewMessage) -> str: ...

    async def claim(self, now: float, limit: int, lease_seconds: float) -> Sequence[Claim]: ...

    async def settle(self, settlement: Settlement) -> None: ...

    async def content(self, queue_id: str) -> bytes: ...

    async def next_due(self) -> float | None: ...

    async def rows(self, limit: int, queue_id: str | None = None) -> list[dict[str, Any]]: ...

    async def retry_now(self, queue_id: str | None, now: float) -> int: ...

    async def delete(self, queue_id: str) -> bool: ...

    async def depth(self) -> Depth: ...
