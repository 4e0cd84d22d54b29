"""Keeps the views of the quarantine as the policy, the accounts and what is held want them.

Contract
    What is held is shown at once, what is gone is taken out within a second, a changed policy or account list makes all
    views anew. Trouble with a view never keeps a message from being held or released: the views are made anew later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from egressguard.policy.model import Policy
from egressguard.quarantine.index import Held
from egressguard.quarantine.order import Order
from egressguard.quarantine.owners import AccountOf, Owner, order_of, owners_of
from egressguard.quarantine.views import Shown, Views

log = logging.getLogger(__name__)

FOLDERS = ("Infected", "Denied", "Ambiguous", "Held")
"""What admins see from the start."""
REBUILD_SECONDS = 5
"""Between two times that all views are made anew for the same policy: users can bring that about."""


class Showing:
    """`policy` is asked anew each time; `accounts` are all names, it blocks and raises OSError."""

    def __init__(
        self,
        views: Views,
        policy: Callable[[], Policy],
        account_of: AccountOf,
        accounts: Callable[[], Iterable[str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._views = views
        self._policy = policy
        self._account_of = account_of
        self._accounts = accounts
        self._clock = clock
        self._made_for: tuple[str, Shown] | None = None
        self._made_at = float("-inf")
        self._out_of_date = True

    @property
    def views(self) -> Views:
        return self._views

    def order_of(self, account: str, verb: str, held: Held) -> Order | None:
        """What an account's move means; None: it may not. Blocks; raises OSError."""
        return order_of(self._policy(), account, verb, held.message_id, self.owners(held).get(account))

    def owners(self, held: Held) -> dict[str, Owner]:
        """Blocks; raises OSError."""
        return owners_of(self._policy(), held.folder, held.facts, self._account_of)

    def out_of_date(self) -> None:
        """Make all views anew with the next `bring_up_to_date`."""
        self._out_of_date = True

    # What happens to held messages. Blocks; raises nothing.

    def taken_in(self, held: Held) -> None:
        if self.shows_anything:
            self._try(lambda: self._views.show(held, self.owners(held)))

    def given_up(self, held: Held) -> None:
        if self.shows_anything:
            self._try(lambda: self._views.hide(held.message_id, held.folder, self.owners(held), everywhere=True))

    def changed(self, held: Held, facts: Mapping[str, Any]) -> None:
        """`facts` are the ones that it has now: somebody may be no owner any more."""
        if not self.shows_anything:
            return

        def hide() -> None:
            after = owners_of(self._policy(), held.folder, facts, self._account_of)
            lost = self.owners(held).keys() - after.keys()
            self._views.hide(held.message_id, held.folder, lost, everywhere=False)

        self._try(hide)

    def _try(self, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as wrong:
            log.error("a view of the quarantine was not kept up to date", extra={"fields": {"why": str(wrong)}})
            self.out_of_date()

    @property
    def shows_anything(self) -> bool:
        access = self._policy().site.access
        return bool(access.quarantine_admins) or access.own_quarantine is not None

    # Upkeep.

    async def bring_up_to_date(self, every_message: Callable[[], Iterator[Held]]) -> None:
        """Take out what is gone; make all views anew where that is due. Raises OSError, sqlite3.Error."""
        await asyncio.to_thread(self._bring_up_to_date, every_message)

    def _bring_up_to_date(self, every_message: Callable[[], Iterator[Held]]) -> None:
        wanted, now = (self._policy().revision, self._wanted()), self._clock()
        is_due = wanted != self._made_for or (self._out_of_date and now - self._made_at >= REBUILD_SECONDS)
        if not is_due or (wanted[1] == Shown() and not self._views.root.exists()):
            self._views.sweep()
            return
        self._out_of_date, self._made_for, self._made_at = False, None, now
        changed = self._views.rebuild(wanted[1], ((held, self.owners(held)) for held in every_message()))
        self._made_for = wanted
        log.info("views of the quarantine were made anew", extra={"fields": {"links_changed": changed}})

    def _wanted(self) -> Shown:
        access = self._policy().site.access
        names = frozenset(self._accounts()) if self.shows_anything else frozenset()
        if access.own_quarantine is None:
            names &= frozenset(access.quarantine_admins)
        folders = access.own_quarantine.folders if access.own_quarantine is not None else ()
        admins = bool(access.quarantine_admins)
        return Shown(names, tuple(folders), admins, FOLDERS if admins else ())
