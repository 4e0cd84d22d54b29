"""What the command line asks of the relay about its queue: what is there, and orders of people.

Contract
    A selection is a JSON object with the keys of store.selection.Selection; what it has beside them, or of another
    kind, is refused. Nothing selected is said by counts, not by an error.
    The journal has who gave an order: as the kernel says, and as he says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from egressguard.app.control import CommandError, Commands, Handler, who_asks
from egressguard.app.identity import hostname_of
from egressguard.app.roles.relay_commands import WHY_CHARACTERS, told
from egressguard.mail.address import AddressError, parse_address
from egressguard.policy.crosscheck import via_faults
from egressguard.policy.fields import parse_via
from egressguard.policy.model import Policy
from egressguard.relay.orders import VERBS, Order, Orders
from egressguard.relay.queue import Queue
from egressguard.relay.settling import Record
from egressguard.relay.trial_letter import trial_letter
from egressguard.store.interface import NewMessage, Spool
from egressguard.store.queue_id import random_queue_id
from egressguard.store.selection import STATES, Move, Selection

MAX_QUEUE_IDS = 1000
TEXT_CHARACTERS = 400

_TEXTS = ("sender", "recipient", "destination", "state")
_MOMENTS = ("received_before", "received_after")


Sign = Callable[[Policy, NewMessage], Awaitable[NewMessage]]


def test_commands(queue: Queue, sign: Sign, record: Record, clock: Callable[[], float]) -> Commands:
    """`sign` makes of a message of our own what leaves."""

    async def send(recipient: str, sender: str, via: list[str], by: str) -> dict[str, Any]:
        policy, now = queue.policy, clock()
        hostname, queue_id = hostname_of(policy), random_queue_id(now)
        given = sender or f"postmaster@{hostname}"
        try:
            given, recipient = str(parse_address(given)), str(parse_address(recipient))
        except AddressError as wrong:
            raise CommandError(f"no address: {wrong}", "refused") from wrong
        letter = trial_letter(given, recipient, ways_of(policy, via), hostname=hostname, queue_id=queue_id, now=now)
        record("queue.test", {"queue_id": queue_id, "by": who_asks(by), "sender": given, "recipient": recipient})
        return {"queue_id": await told(_put(queue, policy, letter, sign))}

    return Commands({}, {"queue.test": send})


async def _put(queue: Queue, policy: Policy, letter: NewMessage, sign: Sign) -> str:
    return await queue.put(await sign(policy, letter))


def queue_commands(spool: Spool, queue: Queue, orders: Orders) -> Commands:
    async def rows(limit: int) -> list[dict[str, Any]]:
        return await told(spool.rows(limit))

    async def show(queue_id: str) -> dict[str, Any]:
        found = await told(orders.rows(Selection(queue_ids=(queue_id,)), 0, 1))
        if not found["rows"]:
            words = f"no message {queue_id!r:.60} in the queue; it may have been delivered: egressguard trace"
            raise CommandError(words, "not-found")
        row: dict[str, Any] = found["rows"][0]
        return row

    async def page(selection: Mapping[str, Any], after: int, limit: int) -> dict[str, Any]:
        return await told(orders.rows(selection_of(selection), after, limit))

    async def count(selection: Mapping[str, Any], after: int) -> dict[str, Any]:
        return await told(orders.count(selection_of(selection), after))

    async def retry(queue_id: str | None) -> dict[str, Any]:
        return {"recipients": await told(queue.retry(queue_id))}

    async def order(
        verb: str,
        selection: Mapping[str, Any],
        by: str,
        why: str = "",
        via: tuple[str, ...] = (),
        after: int = 0,
        until: int | None = None,
    ) -> dict[str, Any]:
        if verb not in VERBS:
            raise CommandError(f"{verb!r:.60} is no order; expected {', '.join(VERBS)}", "refused")
        ways = ways_of(queue.policy, via) if verb == Move.REROUTE.value else ()
        until = await told(orders.newest()) if until is None else until
        meant = Order(verb, who_asks(by), why[:WHY_CHARACTERS], ways)
        tally = await told(orders.carry_out(meant, selection_of(selection), after, until))
        return {**asdict(tally), "until": until}

    reads: dict[str, Handler] = {"queue.list": rows, "queue.show": show, "queue.page": page, "queue.count": count}
    return Commands(reads, {"queue.retry": retry, "queue.order": order})


def selection_of(given: Mapping[str, Any]) -> Selection:
    """Raises CommandError."""
    ids = given.get("queue_ids")
    if ids is not None and not (
        isinstance(ids, list) and len(ids) <= MAX_QUEUE_IDS and all(isinstance(one, str) for one in ids)
    ):
        raise CommandError(f"expected at most {MAX_QUEUE_IDS} queue ids", "refused")
    for key, value in given.items():
        if key in _TEXTS and (value is None or (isinstance(value, str) and len(value) <= TEXT_CHARACTERS)):
            continue
        if key in _MOMENTS and (value is None or isinstance(value, int | float)):
            continue
        if key != "queue_ids":
            raise CommandError(f"{key!r:.60} is nothing to select by, or has no such value", "refused")
    if given.get("state") not in {None, *STATES}:
        raise CommandError(f"expected one of the states {', '.join(STATES)}", "refused")
    return Selection(**{**given, "queue_ids": None if ids is None else tuple(ids)})


def ways_of(policy: Policy, via: object) -> tuple[str, ...]:
    """What a message rule could say, or nothing (by the routes). Raises CommandError."""
    if not isinstance(via, list) or not all(isinstance(way, str) for way in via):
        raise CommandError("expected names of smart hosts, next hops, or mx", "refused")
    try:
        ways = tuple(parse_via(way) for way in via)
    except ValueError as wrong:
        raise CommandError(f"no way out: {wrong}", "refused") from wrong
    if ways and (fault := next(iter(via_faults(policy, ways)), None)) is not None:
        raise CommandError(fault, "refused")
    return ways
