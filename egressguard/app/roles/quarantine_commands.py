"""What the command line asks of the relay about its quarantine: what is held, and orders of people.

Contract
    A selection is a JSON object with the keys of quarantine.index.Wanted; what it has beside them, or of another
    kind, is refused. Nothing selected is said by counts, not by an error.
    An order about many stops where the spool, a disk or a spam filter says that it cannot now: what was done until
    then is told, and the rest stays held.
    The journal has who gave an order: as the kernel says, and as he says.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from egressguard.app.control import CommandError, Commands, Handler, who_asks
from egressguard.app.roles.relay_commands import WHY_CHARACTERS, told
from egressguard.mail.address import AddressError, parse_address
from egressguard.quarantine.digest import Digests
from egressguard.quarantine.hold import Quarantine
from egressguard.quarantine.index import Held, Wanted
from egressguard.quarantine.links import TOKEN_CHARACTERS
from egressguard.quarantine.order import RELEASE, VERBS, Order
from egressguard.scan.learning import KINDS

MAX_IDS = 1000
MAX_TO = 100
PAGE_MESSAGES = 1000
TEXT_CHARACTERS = 400
STEP_SECONDS = 5.0
"""An order about many is carried out in steps of this length; whoever gave it asks for the next."""
STEP_MESSAGES = 100

LESSONS = {f"learn-{kind}": kind for kind in KINDS}
_OF_ONE = {"not-found": "skipped", "failed": "failed"}
"""Trouble that is one message's, and how it is counted: somebody was faster; the next may have none."""
_TEXTS = ("sender", "recipient", "rule", "verdict", "folder")
_MOMENTS = ("held_before", "held_after")


def quarantine_commands(
    quarantine: Quarantine, digests: Digests, look_soon: Callable[[list[str]], None] = lambda _users: None
) -> Commands:
    """`look_soon` hears whose order folders a mail program has put something into (quarantine.moves)."""

    async def digest(dry_run: bool) -> list[dict[str, Any]]:
        return await told(digests.send_now(dry_run=dry_run))

    async def look(token: str) -> dict[str, Any]:
        return await told(digests.look(_token(token)))

    async def redeem(token: str) -> dict[str, Any]:
        return await told(digests.redeem(_token(token)))

    async def moved(users: list[str]) -> None:
        """Only a hint: what is done follows from what lies there."""
        if not isinstance(users, list) or len(users) > MAX_IDS or not all(isinstance(one, str) for one in users):
            raise CommandError(f"expected at most {MAX_IDS} accounts", "refused")
        look_soon(users)

    proven: dict[str, Handler] = {"quarantine.link.look": look, "quarantine.link.redeem": redeem}
    proven["quarantine.moved"] = moved
    changes = _orders(quarantine) | {"quarantine.digest": digest}
    return Commands(_looks(quarantine), changes, proven)


def _looks(quarantine: Quarantine) -> dict[str, Handler]:
    async def page(selection: Mapping[str, Any], after: int, limit: int) -> dict[str, Any]:
        limit = min(limit, PAGE_MESSAGES)
        held = await quarantine.page(wanted_of(selection), after, limit)
        return {"rows": [one.row() for one in held], "after": held[-1].number if len(held) == limit else None}

    async def count(selection: Mapping[str, Any]) -> dict[str, Any]:
        wanted = wanted_of(selection)
        messages, octets, last = await quarantine.count(wanted)
        examples = [held.message_id for held in await quarantine.page(wanted, limit=3)]
        return {"messages": messages, "size_octets": octets, "examples": examples, "until": last}

    async def show(message_id: str) -> dict[str, Any]:
        return await told(quarantine.show(message_id))

    return {"quarantine.page": page, "quarantine.count": count, "quarantine.show": show}


def _orders(quarantine: Quarantine) -> dict[str, Handler]:
    async def do(verb: str, message_id: str, by: str, why: str, to: tuple[str, ...]) -> dict[str, Any]:
        if verb in LESSONS:
            return await told(quarantine.learn(message_id, LESSONS[verb], who_asks(by), why[:WHY_CHARACTERS]))
        return await told(quarantine.act(_order(verb, message_id, by, why, to)))

    async def act(verb: str, message_id: str, by: str, why: str = "", to: tuple[str, ...] = ()) -> dict[str, Any]:
        return await do(verb, message_id, by, why, to)

    async def order(
        verb: str,
        selection: Mapping[str, Any],
        by: str,
        until: int,
        why: str = "",
        to: tuple[str, ...] = (),
        after: int = 0,
    ) -> dict[str, Any]:
        """To all that is wanted between the numbers `after` and `until`, as far as STEP_SECONDS get."""
        page = await quarantine.page(wanted_of(selection), after, STEP_MESSAGES)
        meant = [held for held in page if held.number <= until]
        return await _step(meant, lambda held: do(verb, held.message_id, by, why, to), time.monotonic() + STEP_SECONDS)

    async def reindex() -> dict[str, Any]:
        return await told(quarantine.reindex())

    return {
        "quarantine.act": act,
        "quarantine.order": order,
        "quarantine.reindex": reindex,
    }


async def _step(page: Sequence[Held], do: Callable[[Held], Awaitable[object]], deadline: float) -> dict[str, Any]:
    """What became of them, and the number to go on `after`; None: there is no more, or it stopped."""
    counts = dict.fromkeys(("messages", "skipped", "failed"), 0)
    after: int | None = None
    for held in page:
        try:
            await do(held)
            counts["messages"] += 1
        except (CommandError, OSError) as wrong:
            kind = wrong.kind if isinstance(wrong, CommandError) else "temporary"
            if kind not in _OF_ONE:
                return {**counts, "after": None, "stopped": f"{held.message_id}: {wrong}", "kind": kind}
            counts[_OF_ONE[kind]] += 1
        after = held.number
        if time.monotonic() > deadline:
            break
    return {**counts, "after": after}


def _token(given: object) -> str:
    """Raises CommandError."""
    if not isinstance(given, str) or len(given) > TOKEN_CHARACTERS:
        raise CommandError("this link is not valid", "not-found")
    return given


def wanted_of(given: Mapping[str, Any]) -> Wanted:
    """Raises CommandError."""
    ids = given.get("ids")
    if ids is not None and not (
        isinstance(ids, list) and len(ids) <= MAX_IDS and all(isinstance(one, str) for one in ids)
    ):
        raise CommandError(f"expected at most {MAX_IDS} ids", "refused")
    for key, value in given.items():
        if key in _TEXTS and (value is None or (isinstance(value, str) and len(value) <= TEXT_CHARACTERS)):
            continue
        if key in _MOMENTS and (value is None or isinstance(value, int | float)):
            continue
        if key != "ids":
            raise CommandError(f"{key!r:.60} is nothing to select by, or has no such value", "refused")
    return Wanted(**{**given, "ids": None if ids is None else tuple(ids)})


def _order(verb: str, message_id: str, by: str, why: str, to: object) -> Order:
    """Raises CommandError."""
    if verb not in VERBS:
        raise CommandError(f"{verb!r:.60} is no order; expected {', '.join((*VERBS, *LESSONS))}", "refused")
    if not isinstance(to, list | tuple) or len(to) > MAX_TO or (to and verb != RELEASE):
        raise CommandError(f"expected at most {MAX_TO} addresses to release to", "refused")
    try:
        paths = tuple(str(parse_address(str(one), utf8=True)) for one in to)
    except AddressError as wrong:
        raise CommandError(f"no address: {wrong}", "refused") from wrong
    return Order(verb, message_id, who_asks(by), why[:WHY_CHARACTERS], paths)
