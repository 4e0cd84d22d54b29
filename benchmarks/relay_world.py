"""Where the relays of `benchmarks/relay.py` run, and what they have in common: namespaces, a sink, a start, an end.

Contract
    `enter` runs the caller again where a network, process ids and mounts are its own; when it ends, all in it ends.
    Whatever is started here ends with `stop`, and at the latest with the namespaces.
    `delivered` never waits for ever: a message that is missing, or one too many, is a RuntimeError.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.lab.gateway import CODE, write_accounts
from tests.lab.internet import ROOT

LOOPBACK = "127.0.0.1"
READY_SECONDS = 90  # of a machine with other work
STOP_SECONDS = 20
SILENT_SECONDS = 20
"""How long a relay may deliver nothing while something is missing."""
POLL_SECONDS = 0.005

_ENTER = """
ip link set lo up && mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group || exit 70
mount --bind "$2" "$3" || exit 70
shift 3
exec "$@"
"""


def enter(folder: Path, *words: str) -> int:
    """Run `words` in namespaces of their own, with the roles' users there; the exit status."""
    write_accounts(folder)
    spaces = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork"]
    command = [*spaces, "--mount-proc", "--kill-child", "sh", "-c", _ENTER, "sh", str(folder), str(ROOT), CODE, *words]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL) as process:
        try:
            return process.wait()
        finally:
            process.kill()


def postfix_program(*words: str) -> list[str]:
    return [str(ROOT / "scripts" / "peer"), "postfix", *words]


class Sink:
    """smtp-sink(1): takes everything, keeps nothing, counts on its standard output."""

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self._counters = folder / f"sink-{port}"
        with self._counters.open("wb") as file, (folder / f"sink-{port}.log").open("wb") as log:
            command = postfix_program("smtp-sink", "-c", "-u", "nobody", f"inet:{LOOPBACK}:{port}", "200")
            self._process = subprocess.Popen(command, stdout=file, stderr=log, stdin=subprocess.DEVNULL)

    def count(self, what: str = "mesg") -> int:
        """How many messages ("mesg") or connections ("sess") there were until now."""
        with self._counters.open("rb") as file:
            file.seek(max(file.seek(0, 2) - 200, 0))
            found = re.findall(rb"%s=(\d+)" % what.encode(), file.read())
        return int(found[-1]) if found else 0

    def close(self) -> None:
        _end(self._process)


class Server(ABC):
    """A server under test: `port` takes mail, `pid` is the ancestor of all its processes."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.name, self.folder, self.port = folder.name, folder, port
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts it; its files are written."""

    @abstractmethod
    def _is_ready(self) -> bool: ...

    def start(self) -> None:
        """Returns when it takes mail."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.words()}")
            time.sleep(0.05)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is not None:
            _end(self._process)

    def words(self) -> str:
        """The end of what it logged."""
        return self.log.read_text(errors="replace")[-2000:]


class Relay(Server):
    """A server that sends all its mail to `sink`."""

    def __init__(self, folder: Path, port: int, sink_port: int) -> None:
        super().__init__(folder, port)
        self.sink = Sink(folder, sink_port)

    @abstractmethod
    def queued(self) -> int:
        """How many messages are in its queue."""

    def stop(self) -> None:
        super().stop()
        self.sink.close()

    def delivered(self, count: int, meanwhile: Callable[[], None] = lambda: None) -> float:
        """Wait until the sink has `count` messages since it began; when it had them (time.monotonic)."""
        seen, last = -1, time.monotonic()
        while (now := self.sink.count()) < count:
            if now != seen:
                seen, last = now, time.monotonic()
            if time.monotonic() - last > SILENT_SECONDS:
                raise RuntimeError(f"{self.name}: {now} of {count} messages arrived:\n{self.words()}")
            meanwhile()
            time.sleep(POLL_SECONDS)
        return time.monotonic()

    def rest(self, count: int) -> None:
        """Wait until the queue is empty; raises if the sink does not have `count` messages by then, exactly."""
        deadline = time.monotonic() + SILENT_SECONDS
        while self.queued():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name}: {self.queued()} messages stay in the queue:\n{self.words()}")
            time.sleep(0.05)
        if self.sink.count() != count:
            raise RuntimeError(f"{self.name}: {self.sink.count()} messages arrived instead of {count}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()
