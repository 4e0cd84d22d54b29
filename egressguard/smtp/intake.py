"""One message on its way in, from DATA or from BDAT chunks: checked octets go to a draft, the first trouble stays.

Contract
    What is held in memory counts against the budget that all sessions share; above it a draft goes to disk early.
    After a trouble octets are still read, so that none is taken for a command, and kept nowhere.
    `close` in the end, whatever happened: it removes what nobody took.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from egressguard.mail.reply import Reply
from egressguard.smtp import replies
from egressguard.smtp.admission import Budget
from egressguard.smtp.chunked import ChunkedData
from egressguard.smtp.dotted import DottedData
from egressguard.store.content import Content
from egressguard.store.draft import Draft

log = logging.getLogger(__name__)

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Intake:
    def __init__(self, new_draft: Callable[[], Draft], budget: Budget, limit_octets: int) -> None:
        self._draft = new_draft()
        self._budget = budget
        self._limit_octets = limit_octets
        self._held_octets = 0
        self._trouble: Reply | None = None
        self._faults: DottedData | ChunkedData | None = None

    def judged_by(self, data: DottedData | ChunkedData) -> None:
        """`data` says whether the octets are fit to be a message."""
        self._faults = data

    @property
    def refusal(self) -> Reply | None:
        """Why there is no message, as far as we know."""
        if self._faults is not None and self._faults.malformed:
            return replies.BAD_DATA
        if self._faults is not None and self._faults.too_big:
            return replies.TOO_BIG
        return self._trouble

    async def add(self, octets: bytes) -> None:
        """Never raises: trouble with the disk is a `refusal`."""
        if not octets or self._trouble is not None:
            return
        try:
            await self._draft.add(octets)
            if not self._account():
                await self._draft.spill()
                self._account()
        except OSError as wrong:
            self._give_up(wrong)

    async def content(self) -> Content | Reply:
        """The message, or why there is none."""
        if (refusal := self.refusal) is not None:
            return refusal
        try:
            return await self._draft.content()
        except OSError as wrong:
            self._give_up(wrong)
            return self._trouble or replies.TROUBLE

    def close(self) -> None:
        self._draft.discard()
        self._account()

    def _account(self) -> bool:
        """Bring the budget up to date; False: it is used up."""
        wanted, self._held_octets = self._draft.held_octets - self._held_octets, self._draft.held_octets
        return self._budget.change(wanted, self._limit_octets)

    def _give_up(self, wrong: OSError) -> None:
        full = wrong.errno in _NO_ROOM
        self._trouble = replies.NO_ROOM if full else replies.TROUBLE
        log.error("a message could not be written while it arrived", extra={"fields": {"why": str(wrong)}})
        self.close()
