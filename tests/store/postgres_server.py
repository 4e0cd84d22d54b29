"""A private PostgreSQL: Debian's programs, a temporary directory, a Unix socket, its own user.

Contract
    fsync is on, as anybody's would be. `stop` and `kill` end only what was started here; the directory goes with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psycopg
import pytest

from tests.lab.internet import ROOT

NOBODY = 65534
SECONDS = 60


def programs() -> tuple[list[str], Path] | None:
    """(the words before them, where initdb and postgres are): the machine's, or those that scripts/peers unpacked.

    Debian keeps them out of PATH."""
    for before, tree in (([], Path("/")), ([str(ROOT / "scripts" / "peer"), "postgresql"], ROOT / ".peers/postgresql")):
        if found := sorted(tree.glob("usr/lib/postgresql/*/bin/postgres")):
            return before, Path("/") / found[-1].parent.relative_to(tree)
    return None


class Server:
    """Makes a cluster at once; `start` and `kill` as often as you like."""

    def __init__(self) -> None:
        folder = programs()
        if folder is None:
            pytest.skip("needs PostgreSQL: run scripts/peers")
        self._before, self._programs = folder
        self.folder = Path(tempfile.mkdtemp(prefix="eg-postgres-"))
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)
        words = ["-A", "trust", "-U", "eg", "-E", "UTF8", "--locale=C.UTF-8", "-D", str(self._data)]
        made = self._call("initdb", *words)
        if made.returncode:
            raise RuntimeError(f"initdb: {made.stderr}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end(signal.SIGQUIT)  # "immediate": nothing is written that goes away with the directory
        shutil.rmtree(self.folder)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def start(self) -> None:
        words = ["-D", str(self._data), "-k", str(self.folder), "-c", "listen_addresses="]
        words += ["-c", "max_connections=40", "-c", "shared_buffers=16MB"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command("postgres", *words), stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS
        while self._call("pg_isready", "-h", str(self.folder)).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self._logged()}")
            time.sleep(0.05)

    def stop(self) -> None:
        self._end(signal.SIGINT)  # "fast": sessions are cut, all is written

    def kill(self) -> None:
        """As a power cut: the postmaster and all its children at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # so that it makes no more of them
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        for pid in (self._process.pid, *map(int, listed.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(SECONDS)
        self._process = None

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(SECONDS)
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty one."""
        name = f"spool{next(self._names)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://eg@/{database}?host={self.folder}"

    def _command(self, program: str, *words: str) -> list[str]:
        command = [str(self._programs / program), *words]
        user = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
        return [*self._before, *user, *command] if os.geteuid() == 0 else command

    def _call(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = self._command(program, *words)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)

    def _logged(self) -> str:
        log = self.folder / "log"
        return log.read_text()[-2000:] if log.exists() else ""
