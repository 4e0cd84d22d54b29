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
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from egressguard.access.directories import Unprepared, forget_stale_pid, keep_maildirs, prepare, write_candidate
from egressguard.access.dovecot import UnknownVersion, Version
from egressguard.access.log_lines import Login, Other, Removal, Started, parse_line
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

log = logging.getLogger(__name__)

RESTART_SECONDS_MOST = 60
LIVED_SECONDS = 60  # a Dovecot that ran this long starts again without the earlier failures held against it
LOOK_AGAIN_SECONDS = 60  # for an installation, or a configuration that works now
ACCOUNTS_SECONDS = 1  # how soon a new account's Maildir is there
FORWARDED_LINES_A_MINUTE = 60
_ERROR_CHARACTERS = 300

Record = Callable[[str, Mapping[str, object]], None]


class Access:
    """`record(kind, fields)` is the journal. Call `run` once, in a task; `stop` makes it return."""

    def __init__(
        self,
        model: AccessModel,
        *,
        record: Record,
        registry: CollectorRegistry,
        find: Callable[[], Programs | None] = find_programs,
    ) -> None:
        self._model = model
        self._record = record
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
        self._budget = _LineBudget(FORWARDED_LINES_A_MINUTE)
        self._logged_in: set[str] = set()
        self._said = ""
        self._last_errors: deque[str] = deque(maxlen=2)  # the cause, and then the generic fatal line

    def status(self) -> dict[str, Any]:
        """`state`: off, starting, running, not installed, refused, ended. `problem`: "" or what to do."""
        return {
            "state": self._state,
            "problem": self._problem,
            "version": ".".join(map(str, self._version)) if self._version else None,
            "ports": dict(self._model.ports.items()),
            "addresses": list(self._model.addresses),
        }

    async def wait_running(self) -> None:
        """Return when Dovecot listens."""
        await self._running.wait()

    async def run(self) -> None:
        """Keep Dovecot running until `stop`."""
        keeper = asyncio.create_task(self._keep_maildirs())
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
        if model.ports.protocols:
            problem = await self._prepare(model)
            if problem:
                return problem
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
        if not self._model.ports.protocols:
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
        problem = await self._prepare(self._model)
        if problem:
            self._set("refused", problem)
            return None
        return await self._serve(programs)

    async def _prepare(self, model: AccessModel) -> str | None:
        """Directories, the configuration and doveconf's opinion of it: None, or what is wrong."""
        programs = self._find()
        assert self._version is not None
        try:
            if programs is None:
                return f"IMAP and POP3 need Dovecot: {HOW_TO_GET_IT}"
            await asyncio.to_thread(prepare, model)
            await asyncio.to_thread(write_candidate, model, self._version)
            await check_config(programs, model.candidate)
            await asyncio.to_thread(model.candidate.replace, model.config)
        except (Unprepared, ProgramFailed, UnknownVersion) as wrong:
            return str(wrong)
        except OSError as wrong:
            return f"{wrong.filename or model.state_dir}: {wrong.strerror}"
        return None

    async def _serve(self, programs: Programs) -> float | None:
        loop = asyncio.get_running_loop()
        self._set("starting", "")
        await asyncio.to_thread(forget_stale_pid, self._model)
        if self._stopping:
            return None
        try:
            self._server = await ServerProcess.start(programs, self._model.config, self._hear)
        except OSError as wrong:
            self._set("refused", f"{programs.dovecot}: {wrong.strerror}")
            return None
        started = loop.time()
        self._last_errors.clear()
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
            self._set("ended", "; ".join(self._last_errors) or f"Dovecot ended with status {status}")
        return loop.time() - started

    def _set(self, state: str, problem: str) -> None:
        if (state, problem) != (self._state, self._problem) and problem:
            log.error("no IMAP and POP3", extra={"fields": {"state": state, "why": problem}})
        self._state, self._problem = state, problem

    def _hear(self, line: str) -> None:
        match parse_line(line):
            case Started():
                self._state, self._problem = "running", ""
                self._metrics.running.set(1)
                self._running.set()
            case Login() as login:
                self._hear_login(login)
            case Removal(protocol, user, event):
                self._metrics.removal(event)
                self._record("mailbox.removal", {"protocol": protocol, "user": user, "event": event})
            case Other(level, text):
                self._forward(level, text)

    def _hear_login(self, login: Login) -> None:
        self._metrics.login(login.protocol, accepted=login.accepted, attempts=login.attempts)
        kind = "mailbox.login" if login.accepted else "mailbox.login_refused"
        fields = {"protocol": login.protocol, "user": login.user, "client": login.address}
        self._record(kind, fields)
        if login.accepted and login.user:
            self._logged_in.add(login.user)

    def _forward(self, level: str, text: str) -> None:
        """Dovecot's own troubles into our log, at a bounded rate; the last ones explain an end."""
        said_before, self._said = self._said, text.removeprefix("master: ")  # the master says all twice
        if level in ("debug", "info") or self._said == said_before or self._ending:
            log.debug("dovecot", extra={"fields": {"line": text}})
            return
        if level != "warning":
            self._last_errors.append(self._said[:_ERROR_CHARACTERS])
        if self._budget.take(asyncio.get_running_loop().time()):
            log.warning("dovecot complains", extra={"fields": {"line": text}})

    @property
    def _ending(self) -> bool:
        """It ends because we said so: that its processes tell of the signal is no trouble."""
        return self._stopping or self._restarting

    async def _wait_for_change(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    async def _keep_maildirs(self) -> None:
        """Maildirs are ours to make: Dovecot 2.4 would make them 0700, and delivery could not write there."""
        stamp: object = None
        while True:
            again, self._logged_in = self._logged_in, set()
            try:
                stamp = await asyncio.to_thread(keep_maildirs, self._model, stamp, again)
            except (Unprepared, OSError) as wrong:
                log.error("mailboxes cannot be made", extra={"fields": {"why": str(wrong)}})
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
            await asyncio.sleep(ACCOUNTS_SECONDS)

    async def _end(self, keeper: asyncio.Task[None]) -> None:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        self._state = "off"


def _needs_restart(old: AccessModel, new: AccessModel) -> bool:
    """A reload leaves sessions as they are: not enough where one could keep a right that it lost."""
    return bool(
        set(old.quarantine_admins) - set(new.quarantine_admins)
        or (old.user, old.group, old.accounts) != (new.user, new.group, new.accounts)
        or not new.ports.protocols
    )


class _LineBudget:
    """So many lines in a minute; the rest is dropped. A hostile client can make Dovecot complain a lot."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._left = lines
        self._since = 0.0

    def take(self, now: float) -> bool:
        if now - self._since >= 60:
            self._left, self._since = self._lines, now
        self._left -= 1
        return self._left >= 0
