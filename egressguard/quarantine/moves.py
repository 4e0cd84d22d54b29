"""Orders that people give with a mail program: a message moved to "Release" or "Delete" of their own quarantine folder.

Contract
    Who gives an order is whose folder it lies in. What it is about is the held message that the file is a link to:
    what was appended, or copied from elsewhere, is no order and goes.
    An admin orders for everybody. A recipient has it released to himself, or declines it for himself; a sender may
    what `own_quarantine.senders` says. What is not allowed is recorded, and the message is shown again.
    An order is written down (quarantine.order) before its file goes: a crash in between repeats an order that the
    quarantine carries out once. What cannot be carried out now stays there, and is looked at again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path

from egressguard.mailbox.account_name import is_account_name
from egressguard.quarantine.hold import NotFound, Quarantine
from egressguard.quarantine.index import Held
from egressguard.quarantine.maildir import id_of
from egressguard.quarantine.order import DELETE, RELEASE, Order
from egressguard.quarantine.showing import Showing
from egressguard.store.interface import SpoolBroken, SpoolFull

log = logging.getLogger(__name__)

VERBS = {"Release": RELEASE, "Delete": DELETE}
MOST_HINTS = 10_000


class Moves:
    """`awake` is set when it is worth looking."""

    def __init__(self, quarantine: Quarantine, showing: Showing) -> None:
        self._quarantine = quarantine
        self._showing = showing
        self._hinted: set[str] = set()
        self._one = asyncio.Lock()
        self.awake = asyncio.Event()

    def look_soon(self, accounts: Iterable[str]) -> None:
        """Somebody may have put something there; whoever says so need not be believed."""
        if len(self._hinted) < MOST_HINTS:
            self._hinted.update(name for name in accounts if is_account_name(name))
        self.awake.set()

    async def look(self, *, everywhere: bool) -> int:
        """Carry out what lies in the folders of those hinted at, or of all; return how many orders were carried out.

        Raises OSError."""
        async with self._one:
            self.awake.clear()
            hinted, self._hinted = self._hinted, set()
            accounts = set(await asyncio.to_thread(self._showing.views.accounts))
            done = 0
            for account in sorted(accounts if everywhere else accounts & hinted):
                for folder, path in await asyncio.to_thread(self._orders, account):
                    done += await self._obey(account, VERBS[folder], path)
            return done

    def _orders(self, account: str) -> list[tuple[str, Path]]:
        return list(self._showing.views.orders(account))

    async def _obey(self, account: str, verb: str, path: Path) -> bool:
        held = await self._meant(path)
        try:
            order = None if held is None else await asyncio.to_thread(self._showing.order_of, account, verb, held)
            carried_out = order is not None and await self._carried_out(order)
        except (OSError, SpoolFull, SpoolBroken) as wrong:
            fields = {"user": account, "order": verb, "why": str(wrong)}
            log.error("an order given by a mail program waits", extra={"fields": fields})
            return False
        if order is None:
            self._refuse(account, verb, held)
        await asyncio.to_thread(self._showing.views.settled, path)
        return carried_out

    async def _meant(self, path: Path) -> Held | None:
        """The held message that the file is a link to."""
        message_id = id_of(path.name)
        if message_id is None:
            return None
        try:
            held, lies_at = await self._quarantine.find(message_id)
            is_link = await asyncio.to_thread(lies_at.samefile, path)
        except (NotFound, FileNotFoundError):
            return None
        return held if is_link else None

    async def _carried_out(self, order: Order) -> bool:
        try:
            await self._quarantine.act(order)
        except NotFound as faster:  # somebody, or this very order before a crash
            log.info("an order came too late", extra={"fields": {"queue_id": order.message_id, "why": str(faster)}})
            return False
        return True

    def _refuse(self, account: str, verb: str, held: Held | None) -> None:
        if held is None:
            why = "what was put there is no held message, or was settled before"
        else:
            why = "this account may not do that"
        message_id = held.message_id if held is not None else ""
        self._quarantine.note_refusal(message_id, {"order": verb, "by": f"{account} (IMAP)", "why": why})
        self._showing.out_of_date()  # a view has lost its link
