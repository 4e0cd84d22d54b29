"""What the command line asks of the relay, but for the queue, and what goes wrong in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

from egressguard.app.control import CommandError, Commands
from egressguard.mail.address import AddressError, parse_address, parse_domain
from egressguard.policy.model import Policy
from egressguard.quarantine.hold import NotFound, NothingLearns, NotLearned, Quarantine
from egressguard.quarantine.index import Wanted
from egressguard.relay.attempt import LOCAL, MX
from egressguard.relay.queue import Queue
from egressguard.relay.suppression import TooMany
from egressguard.store.interface import Spool, SpoolBroken, SpoolFull
from egressguard.store.limits import LimitStore, LimitTrouble

WHY_CHARACTERS = 400

T = TypeVar("T")


def commands(spool: Spool, queue: Queue, quarantine: Quarantine) -> Commands:
    async def status() -> dict[str, Any]:
        depth = await spool.depth()
        waiting = {"incoming": depth.incoming, "deferred": depth.deferred, "active": depth.active}
        quarantined, _, _ = await quarantine.count(Wanted())
        total = sum(waiting.values())
        summary = f"{total} messages wait for delivery ({depth.deferred} deferred), {depth.held} held in the queue"
        summary += f", {quarantined} in quarantine"
        if suspended := len(queue.suspensions):
            summary += f"; {suspended} destinations are suspended"
        return waiting | {
            "held": depth.held,
            "quarantined": quarantined,
            "suspended": suspended,
            "smart_hosts": queue.turns.rows(),
            "summary": summary,
            "reasons": queue.turns.troubles(),
        }

    return Commands({"status": status})


def suspension_commands(queue: Queue) -> Commands:
    async def rows() -> list[dict[str, Any]]:
        return [asdict(order) for order in queue.suspensions.orders]

    async def suspend(destination: str, why: str, by: str) -> dict[str, Any]:
        key = _destination(queue, destination)
        await told(queue.suspend(key, why[:WHY_CHARACTERS], by))
        return {"suspended": key}

    async def resume(destination: str, by: str) -> dict[str, Any]:
        key = _destination(queue, destination)
        if not await told(queue.resume(key, by)):
            raise CommandError(f"the destination {key!r:.300} is not suspended", "not-found")
        return {"resumed": key}

    return Commands({"queue.suspended": rows}, {"queue.suspend": suspend, "queue.resume": resume})


def _destination(queue: Queue, text: str) -> str:
    """As the queue tells destinations apart: a bare domain means what goes there by MX."""
    if text in queue.policy.site.smart_hosts or text == LOCAL or not set(text).isdisjoint(":,[/"):
        return text
    try:
        return f"{MX}:{parse_domain(text).lower()}"
    except AddressError as wrong:
        raise CommandError(f"{text!r:.300} is neither a domain nor a smart host: {wrong}", "refused") from wrong


def suppression_commands(queue: Queue, clock: Callable[[], float]) -> Commands:
    async def rows() -> list[dict[str, Any]]:
        return [asdict(entry) for entry in queue.suppressions.entries(clock())]

    async def add(address: str, why: str, seconds: float, by: str) -> dict[str, Any]:
        now = clock()
        until = now + seconds if seconds else 0.0
        try:
            entry = await told(queue.suppressions.add(_mailbox(address), why[:WHY_CHARACTERS], until, by, now))
        except TooMany as wrong:
            raise CommandError(str(wrong), "refused") from wrong
        return asdict(entry)

    async def delete(address: str, by: str) -> dict[str, Any]:
        if not await told(queue.suppressions.remove(_mailbox(address), by)):
            raise CommandError(f"{address!r:.300} is not on the suppression list", "not-found")
        return {"deleted": address}

    return Commands({"suppression.list": rows}, {"suppression.add": add, "suppression.delete": delete})


def _mailbox(text: str) -> str:
    try:
        return str(parse_address(text, utf8=True))
    except AddressError as wrong:
        raise CommandError(f"{text!r:.300} is no address: {wrong}", "refused") from wrong


def limit_commands(limits: LimitStore, policy: Callable[[], Policy], clock: Callable[[], float]) -> Commands:
    async def rows() -> list[dict[str, Any]]:
        return await told(asyncio.to_thread(limits.usage, policy(), clock()))

    async def contained() -> list[dict[str, Any]]:
        return [asdict(row) for row in await told(asyncio.to_thread(limits.containments, clock()))]

    async def release(host: str) -> dict[str, Any]:
        if not await told(asyncio.to_thread(limits.uncontain, host)):
            raise CommandError(f"the host {host!r:.60} is not contained", "not-found")
        return {"released": host}

    return Commands({"limits.list": rows, "limits.contained": contained}, {"limits.release": release})


async def told(work: Awaitable[T]) -> T:
    """What went wrong, as the person who asked should hear it."""
    try:
        return await work
    except NotFound as wrong:
        raise CommandError(str(wrong), "not-found") from wrong
    except (SpoolFull, SpoolBroken) as wrong:
        raise CommandError(f"the spool cannot take it now: {wrong}", "temporary") from wrong
    except NothingLearns as wrong:
        raise CommandError(str(wrong), "refused") from wrong
    except NotLearned as wrong:
        raise CommandError(str(wrong), "temporary" if wrong.is_for_now else "failed") from wrong
    except LimitTrouble as wrong:
        raise CommandError(str(wrong), "temporary") from wrong
