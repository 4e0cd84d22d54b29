"""The Dovecot process itself: start, hear its log, signal, end it with all its children.

Contract
    It runs in a process group of its own; `wait` returns only when nobody of that group is left.
    When our own process dies, however, the kernel sends Dovecot's master TERM (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from egressguard.access.log_lines import LineSplitter
from egressguard.access.programs import ENVIRONMENT, Programs

STOP_SECONDS = 10
SETTLE_SECONDS = 0.5  # from its start until Dovecot's master has its signal handlers for certain
_LOOK_AGAIN_SECONDS = 0.05
_READ_OCTETS = 65536


class ServerProcess:
    """One run. `hear` gets each line of its log; it must not block."""

    def __init__(self, process: asyncio.subprocess.Process, listening: asyncio.Task[None]) -> None:
        self._process = process
        self._listening = listening
        self._settled_at = asyncio.get_running_loop().time() + SETTLE_SECONDS

    @classmethod
    async def start(cls, programs: Programs, config: Path, hear: Callable[[str], None]) -> ServerProcess:
        """Raises OSError."""
        # A pipe of our own: with asyncio's, waiting for the master would wait for all who hold its other end.
        ours, theirs = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *_tied_to_us(),
                str(programs.dovecot),
                "-F",
                "-c",
                str(config),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=theirs,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(process, asyncio.create_task(_listen(ours, hear)))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def reload(self) -> None:
        await self._settle()
        self._signal(signal.SIGHUP)

    async def stop(self) -> None:
        """TERM, then KILL for one that does not end in time. Returns when all of it is gone."""
        await self._settle()
        self._signal(signal.SIGTERM)
        waiting = asyncio.create_task(self.wait())
        done, _ = await asyncio.wait({waiting}, timeout=STOP_SECONDS)
        if not done:
            self._signal_group(signal.SIGKILL)
        await waiting

    async def wait(self) -> int:
        """The master's exit status, once its children are gone too."""
        status = await self._process.wait()
        await self._end_group()
        await self._listening
        return status

    async def _settle(self) -> None:
        """A master that has just started dies of a signal at once, and leaves its children to themselves."""
        pause = self._settled_at - asyncio.get_running_loop().time()
        if pause > 0 and self._process.returncode is None:
            await asyncio.wait({asyncio.create_task(self._process.wait())}, timeout=pause)

    async def _end_group(self) -> None:
        """Children end by themselves when the master does; those that hang are ended."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + STOP_SECONDS / 2
        while await asyncio.to_thread(_group_lives, self._process.pid):
            self._signal_group(signal.SIGTERM if loop.time() < patience else signal.SIGKILL)
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # PermissionError: only strangers are left
            os.killpg(self._process.pid, number)


async def _listen(pipe: int, hear: Callable[[str], None]) -> None:
    """Hand each line to `hear` until nobody holds the pipe's other end."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    splitter = LineSplitter()
    try:
        while octets := await reader.read(_READ_OCTETS):
            for line in splitter.feed(octets):
                hear(line)
    finally:
        transport.close()


def _group_lives(group: int) -> bool:
    """Whether a process of the group still runs. kill(2) would count those that only wait to be reaped by init."""
    return any(_runs_in(entry, group) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _runs_in(entry: Path, group: int) -> bool:
    try:
        # proc_pid_stat(5): after the name in brackets come state, parent, group.
        state, _, of_group, *_ = (entry / "stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return False  # it ended while we looked
    return int(of_group) == group and state not in (b"Z", b"X")


def _tied_to_us() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv", path=ENVIRONMENT["PATH"])
    return (setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()
