"""The spool as its users see it: one interface, whatever the engine below.

Contract
    `put` returns only when the message is on stable storage. Every error before that is an exception.
    A `source_id` is stored once: putting it again returns the first queue id and stores nothing.
    `claim` counts the attempt and writes the time of the next one BEFORE it returns: a crash between claim and
    settle costs a wait, never a second dial at once.
    `settle` and the notices it carries are one transaction.
    The states and the moves between them are the table in docs/queue.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from egressguard.mail.envelope import NO_OPTIONS, Envelope, RecipientOptions
from egressguard.mail.outcome import Outcome
from egressguard.store.content import Content
from egressguard.store.selection import Change, Changed, Page, Selection
from egressguard.values import value


class SpoolFull(Exception):
    """No room now: 452 4.3.1. It ends by itself when there is room again."""


class SpoolAway(SpoolFull):
    """The database does not answer: 451 4.3.0. It ends by itself; what was under way may have been stored, or not."""


class SpoolBroken(Exception):
    """Storage failed (EIO and the like): 451 4.3.0; nothing is written until the process starts anew."""


class BeingTried(LookupError):
    """A recipient that was to be given up is being tried, or has gone: nothing was changed."""


@value(frozen=True, slots=True)
class NewMessage:
    """`content` is header section and body as they leave; `received_at` is seconds since the epoch.

    `via` has the way out of recipients whose rule names one; `held`: nobody tries it until it is released.
    `destinations` says for each recipient where it will go, as far as that is known ("" = not yet): a hint by which
    `claim` passes over those that wait. `leased_until`: its recipients are claimed by whoever puts it, this being the
    time of their next try should nothing be heard of the first. `verdict` is the scan's, "" = not known.
    `head_start_seconds`: so much earlier than it came it counts as due, among what waits for the same destination."""

    queue_id: str
    envelope: Envelope
    content: Content
    received_at: float
    client: str = ""
    listener: str = ""
    user: str | None = None
    rule: str = ""
    policy_revision: str = ""
    source_id: str | None = None
    tags: tuple[str, ...] = ()
    via: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    held: bool = False
    destinations: Mapping[str, str] = field(default_factory=dict)
    verdict: str = ""
    leased_until: float | None = None
    head_start_seconds: float = 0.0


@value(frozen=True, slots=True)
class Due:
    """One recipient that was claimed. `attempts` counts this attempt already; `via` is the rule's way, () = none."""

    forward_path: str
    attempts: int
    via: tuple[str, ...] = ()
    options: RecipientOptions = NO_OPTIONS


@value(frozen=True, slots=True)
class Claim:
    """One message and those of its recipients that are now ours to try."""

    queue_id: str
    reverse_path: str
    received_at: float
    size_octets: int
    smtputf8: bool
    body_8bit: bool
    recipients: tuple[Due, ...]
    tags: tuple[str, ...] = ()
    ret: str | None = None
    envid: str | None = None
    requiretls: bool = False
    binary: bool = False
    client: str = ""
    listener: str = ""
    user: str | None = None
    verdict: str = ""


@value(frozen=True, slots=True)
class Settlement:
    """What an attempt came to. Recipients in `retry_at` wait until then; all others in `outcomes` are finished.

    `notices` are DSNs that are stored in the same transaction, if any of the recipients was still there.
    `destination` is where those in `retry_at` were to go.
    """

    queue_id: str
    outcomes: Mapping[str, Outcome]
    retry_at: Mapping[str, float] = field(default_factory=dict)
    notices: tuple[NewMessage, ...] = ()
    destination: str = ""


@dataclass(frozen=True, slots=True)
class Suspension:
    """Somebody's order that nothing goes to `destination` (as in NewMessage.destinations, or a smart host's name)."""

    destination: str
    why: str
    ordered_by: str
    since: float


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A recipient that nothing is sent to, its `address` in lower case. `until` 0: for good."""

    address: str
    why: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Depth:
    """Messages by what their recipients wait for: `incoming` never tried, `deferred` tried, `active` being tried,
    `held` for somebody to release them."""

    incoming: int
    deferred: int
    active: int
    size_octets: int
    oldest_received_at: float | None
    held: int = 0


NextAttempt = Callable[[float, int], float]
"""(received_at, attempts counting this one) -> when to try again, should nothing be heard of this attempt."""


class Spool(Protocol):
    def has_room(self, size_octets: int) -> bool:
        """Whether a message of this size would be taken now."""
        ...

    async def put(self, message: NewMessage) -> str:
        """Store; return the queue id (the first one, for a known source_id). Raises SpoolFull, SpoolBroken."""
        ...

    async def claim(
        self,
        now: float,
        limit: int,
        next_attempt: NextAttempt,
        skip: Collection[str] = (),
        limit_each: int = 1000,
    ) -> Sequence[Claim]:
        """Take at most `limit` recipients that are due, `limit_each` of one destination, grouped by message.

        Those whose destination is in `skip` are passed over."""
        ...

    async def unclaim(self, queue_id: str, forward_paths: Collection[str], now: float, destination: str = "") -> None:
        """Give back what was claimed and never tried: due again at `now`, and not counted as an attempt.

        `destination`: where it goes, as we know it now."""
        ...

    async def settle(self, settlement: Settlement) -> None:
        """Write down what became of an attempt. Recipients that are gone (deleted meanwhile) are left out."""
        ...

    async def content(self, queue_id: str) -> Content:
        """The message's octets. Raises KeyError when it is not there any more."""
        ...

    async def next_due(self, skip: Collection[str] = ()) -> float | None:
        """When the first waiting recipient is due that `claim` would take, or None."""
        ...

    async def rows(self, limit: int, queue_id: str | None = None) -> list[dict[str, Any]]:
        """Messages ready for JSON, the oldest first, or the one asked for."""
        ...

    async def retry_now(self, queue_id: str | None, now: float) -> int:
        """Make one message (None = all) due at `now`; return how many recipients it has left (0 = no message)."""
        ...

    async def pick(self, selection: Selection, after: int = 0, limit: int = 1000) -> Page:
        """Messages selected, in the order in which they came, a page at a time."""
        ...

    async def newest(self) -> int:
        """The number of the last message that came (Picked.number), 0 = none."""
        ...

    async def rows_of(self, queue_ids: Sequence[str]) -> list[dict[str, Any]]:
        """As `rows`, of the messages named."""
        ...

    async def change(self, selection: Selection, queue_ids: Sequence[str], change: Change) -> Changed:
        """Do it to what is selected of these messages, and durably, as far as the states allow it."""
        ...

    async def waiting(self, selection: Selection, queue_ids: Sequence[str]) -> list[Claim]:
        """What is selected of these messages and nobody is trying; it is not claimed."""
        ...

    async def give_up(self, settlement: Settlement) -> None:
        """`settle` for recipients that wait: they are finished, all or none. Raises BeingTried."""
        ...

    async def delete(self, queue_id: str) -> bool:
        """Remove a message without a notice; False when it is not there."""
        ...

    async def suspend(self, suspension: Suspension) -> None:
        """Write the order down, in place of an earlier one."""
        ...

    async def resume(self, destination: str) -> bool:
        """Take the order back; False: there is none."""
        ...

    async def suspensions(self) -> list[Suspension]:
        """All orders that stand, the oldest first."""
        ...

    async def suppress(self, entry: Suppressed) -> None:
        """Write it down, in place of an earlier one."""
        ...

    async def unsuppress(self, address: str) -> bool:
        """False: it was not there."""
        ...

    async def forget_suppressed(self, now: float) -> None:
        """Remove what is over."""
        ...

    async def suppressed(self, limit: int) -> list[Suppressed]:
        """Those that were put there last, at most `limit`."""
        ...

    async def depth(self) -> Depth: ...

    def close(self) -> None:
        """Commit what waits; what is asked later raises SpoolBroken."""
        ...
