"""What has to be done beside a Dovecot that runs, once a second: follow the accounts, end sessions, shut clients out.

Contract
    An account that is disabled, removed or gets another password loses its sessions within seconds; one that slipped
    in while Dovecot still had the old file loses it, too. What cannot be done now is tried again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from egressguard.access.account_files import AccountFiles
from egressguard.access.credentials import render_shut_out
from egressguard.access.directories import Unprepared, keep_maildirs, put_for_dovecot
from egressguard.access.hearing import Hearing, Record
from egressguard.access.metrics import AccessMetrics
from egressguard.access.model import AccessModel
from egressguard.access.programs import ProgramFailed, Programs
from egressguard.access.sessions import OpenSession, count_by_protocol, end_sessions, open_sessions
from egressguard.access.shut_out import Guesses

log = logging.getLogger(__name__)

ROUND_SECONDS = 1  # how soon a new account's Maildir is there, and a disabled one's sessions are not
MEASURE_SECONDS = 15
END_ROUNDS = 3
"""Dovecot looks at its files once a second, and lists a session a moment after it began: it is asked again."""
LOOK_AGAIN_SECONDS = 60  # after a disk that does not answer

OffersScram = Callable[[bool], Awaitable[None]]
"""Told whether everybody could log in by SCRAM, when that has changed."""
Ordered = Callable[[set[str]], Awaitable[None]]
"""Told of whose order folders something was put into."""


class Upkeep:
    """`running`: Dovecot's programs while it runs, else None. `sessions` and `shut_out` are as they were last seen."""

    def __init__(
        self,
        model: Callable[[], AccessModel],
        running: Callable[[], Programs | None],
        hearing: Hearing,
        guesses: Guesses,
        record: Record,
        metrics: AccessMetrics,
        ordered: Ordered,
        offers_scram: OffersScram,
    ) -> None:
        self._model = model
        self._running = running
        self._hearing = hearing
        self._guesses = guesses
        self._record = record
        self._metrics = metrics
        self._ordered = ordered
        self._offers_scram = offers_scram
        self._files = AccountFiles()
        self._told_of_scram: bool | None = None
        self._to_end: dict[str, int] = {}
        self._stamp: object = None
        self._measured_at = 0.0
        self.sessions: dict[str, int] = {}
        self.shut_out: list[str] = []

    async def run(self) -> None:
        while True:
            try:
                await self.round()
            except (Unprepared, OSError) as wrong:
                log.error("mailboxes cannot be kept in order", extra={"fields": {"why": str(wrong)}})
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            await asyncio.sleep(ROUND_SECONDS)

    async def prepare(self, model: AccessModel) -> AccessModel:
        """The model as the accounts are now; what Dovecot must find when it starts. Raises Unprepared, OSError."""
        self._end_soon(await asyncio.to_thread(self._files.follow, model))
        return replace(model, offers_scram=self._everybody_has_scram(model))

    def _everybody_has_scram(self, model: AccessModel) -> bool:
        """Of people of the system nobody knows."""
        return self._files.all_have_verifiers and model.pam_service is None

    async def round(self) -> None:
        """Raises Unprepared, OSError."""
        model, logged_in = self._model(), self._hearing.take_logged_in()
        # Maildirs are ours to make: Dovecot 2.4 would make them 0700, and delivery could not write there.
        self._stamp = await asyncio.to_thread(keep_maildirs, model, self._stamp, logged_in)
        if model.state_dir.exists():
            self._end_soon(await asyncio.to_thread(self._files.follow, model, logged_in))
            await self._write_shut_out(model)
        if (programs := self._running()) is not None:
            await self._tell_of_scram(model)
            await self._end_sessions(programs, model)
            await self._measure(programs, model)
        if ordered := self._hearing.take_ordered():
            await self._ordered(ordered)

    async def _tell_of_scram(self, model: AccessModel) -> None:
        """Once each time: what is refused is not asked for again every second."""
        possible = self._everybody_has_scram(model)
        if possible not in (model.offers_scram, self._told_of_scram):
            await self._offers_scram(possible)
        self._told_of_scram = possible

    async def look(self) -> list[OpenSession]:
        """Who has a session now. Raises ProgramFailed."""
        programs = self._running()
        return [] if programs is None else await open_sessions(programs, self._model().config)

    async def _write_shut_out(self, model: AccessModel) -> None:
        shut = self._guesses.shut(asyncio.get_running_loop().time())
        if shut != self.shut_out:
            await asyncio.to_thread(put_for_dovecot, model, model.shut_out, render_shut_out(shut))
            self.shut_out = shut
            self._metrics.shut_out.set(len(shut))

    def _end_soon(self, names: Iterable[str]) -> None:
        self._to_end.update(dict.fromkeys(names, END_ROUNDS))

    async def _end_sessions(self, programs: Programs, model: AccessModel) -> None:
        for name in sorted(self._to_end):
            try:
                await end_sessions(programs, model.config, name)
            except ProgramFailed as wrong:
                log.error("sessions do not end", extra={"fields": {"user": name, "why": str(wrong)}})
                continue
            self._to_end[name] -= 1
            if self._to_end[name] == 0:
                del self._to_end[name]
            if self._to_end.get(name) != END_ROUNDS - 1:
                continue
            self._metrics.ended.inc()
            self._record("mailbox.sessions_ended", {"user": name, "why": "its account or password has changed"})

    async def _measure(self, programs: Programs, model: AccessModel) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._measured_at < MEASURE_SECONDS:
            return
        self._measured_at = now
        try:
            self.sessions = count_by_protocol(await open_sessions(programs, model.config))
        except ProgramFailed as wrong:
            log.warning("sessions cannot be counted", extra={"fields": {"why": str(wrong)}})
            return
        self._metrics.sessions(self.sessions)
