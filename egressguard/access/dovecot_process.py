"""The access role's service: a private Dovecot, configured, supervised, heard.

Contract
    Where Dovecot is missing, or refuses its configuration, nothing else stops: `status` says what to do about it.
    doveconf(1) reads each configuration before Dovecot does; one that it refuses never replaces the one in force.
    A Dovecot that ends by itself is started again after 1, 2, 4 ... RESTART_SECONDS_MOST seconds.
    When `run` returns, no process of it is left.
    Taking a right away (an admin) ends the sessions that still have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry

from egressguard.access.directories import Unprepared, forget_stale_pid, prepare, write_candidate
from egressguard.access.dovecot import UnknownVersion, Version
from egressguard.access.hearing import Hearing, Record
from egressguard.access.metrics import AccessMetrics
from egressguard.access.model import AccessModel
from egressguard.access.programs import (
    HOW_TO_GET_IT,
    ProgramFailed,
    Programs,
    ask_version,
    check_config,
    find_programs,
)
from egressguard.access.server_process import ServerProcess
from egressguard.access.sessions import OpenSession
from egressguard.access.shut_out import Guesses
from egressguard.access.upkeep import Ordered, Upkeep

log = logging.getLogger(__name__)

RESTART_SECONDS_MOST = 60
LIVED_SECONDS = 60  # a Dovecot that ran this long starts again without the earlier failures held against it
LOOK_AGAIN_SECONDS = 60  # for an installation, or a configuration that works now
SHOWN_ADDRESSES = 100


async def _nobody_is_told(_users: set[str]) -> None:
    return


class Access:
    """`record(kind, fields)` is the journal. Call `run` once, in a task; `stop` makes it return."""

    def __init__(
        self,
        model: AccessModel,
        *,
        record: Record,
        registry: CollectorRegistry,
        find: Callable[[], Programs | None] = find_programs,
        guesses: Guesses | None = None,
        ordered: Ordered = _nobody_is_told,
    ) -> None:
        guesses = guesses or Guesses(20, 600, 900)
        self._model = model
        self._metrics = AccessMetrics(registry)
        self._find = find
        self._state = "starting"
        self._problem = ""
        self._version: Version | None = None
        self._server: ServerProcess | None = None
        self._changed = asyncio.Event()
        self._stopping = False
        self._restarting = False
        self._running = asyncio.Event()
        self._hearing = Hearing(record, self._metrics, guesses, started=self._has_started, ending=lambda: self._ending)
        self._upkeep = Upkeep(
            lambda: self._model,
            self._answering,
            self._hearing,
            guesses,
            record,
            self._metrics,
            ordered,
            self._offer_scram,
        )

    def status(self) -> dict[str, Any]:
        """`state`: off, starting, running, not installed, refused, ended. `problem`: "" or what to do."""
        return {
            "state": self._state,
            "problem": self._problem,
            "version": ".".join(map(str, self._version)) if self._version else None,
            "ports": dict(self._model.ports.items()),
            "addresses": list(self._model.addresses),
            "sessions": dict(self._upkeep.sessions),
            "shut_out": self._upkeep.shut_out[:SHOWN_ADDRESSES],
        }

    async def sessions(self) -> list[OpenSession]:
        """Who has a session now. Raises ProgramFailed."""
        return await self._upkeep.look()

    async def wait_running(self) -> None:
        """Return when Dovecot listens."""
        await self._running.wait()

    async def run(self) -> None:
        """Keep Dovecot running until `stop`."""
        keeper = asyncio.create_task(self._upkeep.run())
        try:
            pause = 1.0
            while not self._stopping:
                self._changed.clear()
                lived = await self._one_life()
                if self._ending:
                    self._restarting = False
                    continue
                pause = 1.0 if lived is None or lived > LIVED_SECONDS else min(pause * 2, RESTART_SECONDS_MOST)
                await self._wait_for_change(LOOK_AGAIN_SECONDS if lived is None else pause)
        finally:
            await self._end(keeper)

    async def stop(self) -> None:
        """End Dovecot and make `run` return."""
        self._stopping = True
        self._changed.set()
        if self._server is not None:
            await self._server.stop()

    async def reload(self, model: AccessModel) -> str | None:
        """Put a changed model in force: None, or why the old one stays. `base_dir` may not change."""
        if self._server is None or self._version is None:
            self._model = model
            self._changed.set()
            return None
        problem = await self._put_in_force(model)
        if problem:
            log.error("the mail server keeps its old configuration", extra={"fields": {"why": problem}})
        return problem

    async def _put_in_force(self, model: AccessModel) -> str | None:
        old, server = self._model, self._server
        assert server is not None
        if model.is_wanted:
            prepared = await self._prepare(model)
            if isinstance(prepared, str):
                return prepared
            model = prepared
        self._model = model
        if _needs_restart(old, model):
            self._restarting = True
            self._running.clear()
            await server.stop()
        else:
            await server.reload()
        return None

    async def _one_life(self) -> float | None:
        """Run Dovecot until it ends: seconds it lived, or None where it could not be started."""
        if not self._model.is_wanted:
            self._set("off", "")
            return None
        programs = self._find()
        if programs is None:
            self._set("not installed", f"IMAP and POP3 need Dovecot: {HOW_TO_GET_IT}")
            return None
        try:
            self._version = await ask_version(programs)
        except (ProgramFailed, UnknownVersion) as wrong:
            self._set("refused", str(wrong))
            return None
        prepared = await self._prepare(self._model)
        if isinstance(prepared, str):
            self._set("refused", prepared)
            return None
        self._model = prepared
        return await self._serve(programs)

    async def _prepare(self, model: AccessModel) -> AccessModel | str:
        """Directories, the configuration and doveconf's opinion of it: what is to be in force, or what is wrong."""
        programs = self._find()
        assert self._version is not None
        try:
            if programs is None:
                return f"IMAP and POP3 need Dovecot: {HOW_TO_GET_IT}"
            await asyncio.to_thread(prepare, model)
            model = await self._upkeep.prepare(model)
            await asyncio.to_thread(write_candidate, model, self._version)
            await check_config(programs, model.candidate)
            await asyncio.to_thread(model.candidate.replace, model.config)
        except (Unprepared, ProgramFailed, UnknownVersion) as wrong:
            return str(wrong)
        except OSError as wrong:
            return f"{wrong.filename or model.state_dir}: {wrong.strerror}"
        return model

    async def _serve(self, programs: Programs) -> float | None:
        loop = asyncio.get_running_loop()
        self._set("starting", "")
        await asyncio.to_thread(forget_stale_pid, self._model)
        if self._stopping:
            return None
        try:
            self._server = await ServerProcess.start(programs, self._model.config, self._hearing.hear)
        except OSError as wrong:
            self._set("refused", f"{programs.dovecot}: {wrong.strerror}")
            return None
        started = loop.time()
        self._hearing.last_errors.clear()
        self._metrics.starts.inc()
        try:
            if self._stopping:
                await self._server.stop()
            status = await self._server.wait()
        finally:
            await self._server.stop()
            self._server = None
            self._running.clear()
            self._metrics.running.set(0)
        if not self._ending:
            self._set("ended", "; ".join(self._hearing.last_errors) or f"Dovecot ended with status {status}")
        return loop.time() - started

    def _set(self, state: str, problem: str) -> None:
        if (state, problem) != (self._state, self._problem) and problem:
            log.error("no IMAP and POP3", extra={"fields": {"state": state, "why": problem}})
        self._state, self._problem = state, problem

    async def _offer_scram(self, offered: bool) -> None:
        await self.reload(replace(self._model, offers_scram=offered))

    def _has_started(self) -> None:
        self._state, self._problem = "running", ""
        self._metrics.running.set(1)
        self._running.set()

    def _answering(self) -> Programs | None:
        return self._find() if self._running.is_set() else None

    @property
    def _ending(self) -> bool:
        """It ends because we said so: that its processes tell of the signal is no trouble."""
        return self._stopping or self._restarting

    async def _wait_for_change(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _end(self, keeper: asyncio.Task[None]) -> None:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        self._state = "off"


def _needs_restart(old: AccessModel, new: AccessModel) -> bool:
    """A reload leaves sessions as they are: not enough where one could keep a right that it lost."""
    return bool(
        set(old.quarantine_admins) - set(new.quarantine_admins)
        or (old.owners_see and not new.owners_see)
        or (old.pam_service is not None and old.pam_service != new.pam_service)
        or (old.user, old.group, old.accounts) != (new.user, new.group, new.accounts)
        or not new.is_wanted
    )
