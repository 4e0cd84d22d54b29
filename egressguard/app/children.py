"""One role as a child process: its user, its capabilities, its sockets, its readiness, its end.

Contract
    A child gets exactly the capabilities of its role (setpriv(1)), or none.
    It is ready when it says READY=1; silent for WATCHDOG_SECONDS after that, it is killed.
    The lifeline: when this process dies, however, the child notices and stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from egressguard.app.places import Places

WATCHDOG_SECONDS = 30
STOP_SECONDS = 15
GROUP = "egressguard"


@dataclass(frozen=True, slots=True)
class Role:
    """`user`: whom it runs as where root starts the gateway; `capabilities` as setpriv(1) names them."""

    name: str
    user: str
    capabilities: tuple[str, ...] = ()


ROLES = (
    Role("gate", "eg-gate", ("net_admin",)),
    Role("scan", "eg-scan"),
    Role("relay", "eg-relay"),
    Role("access", "eg-access", ("net_bind_service",)),
    Role("console", "eg-console"),
)
SMTPD = Role("smtpd", "eg-relay")
"""The relay's other half, which it starts itself: whoever talks SMTP to strangers is not who keeps the queue."""


def missing_users() -> tuple[str, ...]:
    """Which of the roles' users this machine does not know."""

    def known(user: str) -> bool:
        try:
            pwd.getpwnam(user)
        except KeyError:
            return False
        return True

    return tuple(role.user for role in ROLES if not known(role.user))


@dataclass(slots=True)
class Child:
    role: Role
    places: Places
    sockets: dict[str, list[socket.socket]]
    arguments: tuple[str, ...] = ()
    as_root: bool = False
    notify_path: Path | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    status: str = "starting"
    _process: asyncio.subprocess.Process | None = None
    _notify: socket.socket | None = None
    _last_word: float = 0.0

    async def run_once(self) -> int:
        """Start the process, listen to it until it ends, and return its exit status."""
        lifeline, ours = os.pipe()
        notify_path = self.notify_path or self.places.runtime / f"notify-{self.role.name}.sock"
        try:
            self._listen(notify_path)
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                env=self._environment(lifeline, notify_path),
                pass_fds=(lifeline, *(s.fileno() for group in self.sockets.values() for s in group)),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=False,
            )
            os.close(lifeline)
            lifeline = -1
            return await self._wait()
        finally:
            self.ready.clear()
            self._unlisten(notify_path)
            for fd in (lifeline, ours):
                if fd >= 0:
                    os.close(fd)

    def send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self) -> None:
        """TERM, then KILL for one that does not end in time."""
        if self._process is None or self._process.returncode is not None:
            return
        self.send(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        self.send(signal.SIGKILL)

    async def _wait(self) -> int:
        assert self._process is not None
        waiting = asyncio.create_task(self._process.wait())
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=1)
            if self.ready.is_set() and time.monotonic() - self._last_word > WATCHDOG_SECONDS:
                self.status = "silent: killed by the watchdog"
                self.send(signal.SIGKILL)
                await waiting
        self._process = None
        return waiting.result()

    def _command(self) -> list[str]:
        words = [sys.executable, "-m", "egressguard", "role", self.role.name]
        words += ["--rules", str(self.places.snapshot), "--state", str(self.places.state)]
        words += ["--runtime", str(self.places.runtime), "--site", self.places.site, *self.arguments]
        return [*self._setpriv(), *words] if self.as_root else words

    def _setpriv(self) -> list[str]:
        plus = "".join(f",+{name}" for name in self.role.capabilities)
        capabilities = [f"--{kind}=-all{plus}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
        user = ["--reuid", self.role.user, "--regid", GROUP, "--clear-groups"]
        return ["setpriv", *user, *capabilities, "--no-new-privs", "--"]

    def _environment(self, lifeline: int, notify_path: Path) -> dict[str, str]:
        sockets = [f"{name}={sock.fileno()}" for name, group in self.sockets.items() for sock in group]
        return os.environ | {
            "EGRESSGUARD_LIFELINE": str(lifeline),
            "EGRESSGUARD_SOCKETS": ",".join(sockets),
            "NOTIFY_SOCKET": str(notify_path),
            "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 1_000_000),
            "PYTHONUNBUFFERED": "1",
        }

    def _listen(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notify.setblocking(False)
        self._notify.bind(str(path))
        path.chmod(0o666)
        asyncio.get_running_loop().add_reader(self._notify, self._hear)

    def _unlisten(self, path: Path) -> None:
        if self._notify is not None:
            asyncio.get_running_loop().remove_reader(self._notify)
            self._notify.close()
            self._notify = None
        path.unlink(missing_ok=True)

    def _hear(self) -> None:
        assert self._notify is not None
        try:
            message = self._notify.recv(4096).decode("utf-8", "replace")
        except BlockingIOError:
            return
        self._last_word = time.monotonic()
        for line in message.splitlines():
            if line == "READY=1":
                self.ready.set()
            elif line.startswith("STATUS="):
                self.status = line[len("STATUS=") :]
