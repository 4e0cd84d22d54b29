"""The relay role as its supervisor starts it, alone on loopback: to be killed, traced and started again.

Contract
    The listening socket is the test's and outlives the relay, as systemd's or the supervisor's would.
    `until_gone` returns when the role and its smtpd have ended, by their own will or by SIGKILL; no other is touched.
    `queued` reads a copy of the spool's database: what a start would find there, and nothing is changed by looking.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from egressguard.app.control import CommandError, DaemonUnreachable, ask
from egressguard.app.places import Places
from tests.lab.internet import ROOT

SECONDS = 30
DOMAINS = ("one.example", "two.example", "three.example")


class RelayAlone:
    """Everything from loopback is relayed to the sink at `sink_port`, by a smart host for each of DOMAINS.

    `url`: of the PostgreSQL that has the spool; "" = SQLite."""

    def __init__(self, folder: Path, sink_port: int, spool: Path | None = None, url: str = "") -> None:
        self.places = Places(folder / "rules", folder / "state", folder / "run")
        for path in (self.places.snapshot, self.places.accounts.parent, self.places.journals, self.places.secrets):
            path.mkdir(parents=True)
        for path in (self.places.tls, self.places.mailboxes, self.places.role("relay")):
            path.mkdir(parents=True)
        if spool is not None:
            self.places.spool.symlink_to(spool)
        (self.places.snapshot / "site.yaml").write_text(_rules(sink_port, shared=bool(url)))
        (self.places.secrets / "spool.url").write_text(url + "\n")
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = int(self.listening.getsockname()[1])
        self.log = folder / "log"
        self.pid = 0
        self._smtpd: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *before: str) -> None:
        """Returns when it takes mail; `before` are the words of a program that runs it."""
        notify = self.places.runtime / "notify.sock"
        notify.unlink(missing_ok=True)
        words = [sys.executable, "-m", "egressguard", "role", "relay", "--rules", str(self.places.snapshot)]
        words += ["--state", str(self.places.state), "--runtime", str(self.places.runtime)]
        environment = os.environ | {
            "EGRESSGUARD_SOCKETS": f"lan={self.listening.fileno()}",
            "NOTIFY_SOCKET": str(notify),
            "PYTHONUNBUFFERED": "1",
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard, self.log.open("ab") as log:
            heard.bind(str(notify))
            notify.chmod(0o777)  # whoever `before` makes of it
            heard.settimeout(0.2)
            self._process = subprocess.Popen(
                [*before, *words],
                env=environment,
                pass_fds=(self.listening.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
            )
            self.pid = self._process.pid
            self._until_ready(heard)

    def _until_ready(self, heard: socket.socket) -> None:
        assert self._process is not None
        deadline = time.monotonic() + SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in heard.recv(4096):
                    return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the relay did not start:\n{self.log.read_text()[-4000:]}")

    @property
    def smtpd_pid(self) -> int:
        (found,) = _children(self.pid)
        return found

    @property
    def has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def strike(self, whom: str = "both") -> None:
        """SIGKILL to "relay", to "smtpd", or to "both": the other one has to notice."""
        self._smtpd = _children(self.pid)
        for pid in [self.pid] * (whom != "smtpd") + self._smtpd * (whom != "relay"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def until_gone(self) -> None:
        self.wait()
        deadline = time.monotonic() + SECONDS
        while any(_lives(pid) for pid in self._smtpd):
            assert time.monotonic() < deadline, "smtpd outlives its relay"
            time.sleep(0.005)

    def kill(self) -> None:
        self.strike()
        self.until_gone()

    def wait(self) -> int:
        """Until the role has ended; its status."""
        assert self._process is not None
        return self._process.wait(SECONDS)

    def stop(self) -> int:
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def close(self) -> None:
        if not self.has_ended:
            self.kill()
        self.listening.close()

    def drain(self) -> None:
        """Try all that waits, until nothing is left of it."""
        deadline = time.monotonic() + 4 * SECONDS
        while self.ask_rows():
            assert time.monotonic() < deadline, f"it stays in the queue: {self.ask_rows()[:3]}"
            with contextlib.suppress(CommandError):
                ask(self.places.control("relay"), "queue.retry", queue_id=None)
            time.sleep(0.1)

    def ask_rows(self) -> list[dict[str, object]]:
        try:
            return list(ask(self.places.control("relay"), "queue.list", limit=100))
        except DaemonUnreachable as wrong:
            raise AssertionError(f"{wrong}\n{self.log.read_text()[-3000:]}") from wrong

    def queued(self) -> set[tuple[str, str]]:
        """(reverse-path, forward-path) of all that the spool holds. The relay must not run."""
        copy = self.places.runtime / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        for file in self.places.spool.glob("spool.sqlite*"):
            shutil.copy(file, copy)
        with contextlib.closing(sqlite3.connect(copy / "spool.sqlite")) as db:
            rows = db.execute("SELECT reverse_path, forward_path FROM message, recipient WHERE message_id = id")
            return set(rows.fetchall())

    def leftovers(self) -> list[Path]:
        """Files of messages. The relay must not run."""
        folders = [self.places.spool / name for name in ("tmp", "body", "aside")]
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def _rules(sink_port: int, *, shared: bool) -> str:
    hosts = {name.partition(".")[0]: {"host": "127.0.0.1", "port": sink_port, "tls": "none"} for name in DOMAINS}
    rules = {
        "site": {
            "zones": {"lan": {"networks": "127.0.0.0/8"}},
            "resolvers": "127.0.0.1:9",
            "relay": {
                "hostname": "gw.example",
                "listeners": {"lan": {"kind": "smtp", "port": 0}},
                "retry": {"first_seconds": 5, "longest_seconds": 5},
                "free_space_reserve_octets": 1_000_000,
            }
            | ({"spool": "file:spool.url"} if shared else {}),
            "smart_hosts": hosts,
        },
        "mail": [{"name": "lan", "match": {"client": "lan"}, "action": "accept"}],
        "routes": [
            {"name": name.partition(".")[0], "match": {"recipient_domain": name}, "via": name.partition(".")[0]}
            for name in DOMAINS
        ],
    }
    return json.dumps(rules)  # JSON is YAML


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _lives(pid: int) -> bool:
    """A process that ended and whose new parent has not noticed yet is gone, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def strace(pid: int, *words: str) -> subprocess.Popen[str]:
    """Attach to a process and its threads; returns when the injection is in force."""
    command: Sequence[str] = ["strace", "-f", "-p", str(pid), "-o", "/dev/null", *words]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    if "attached" not in said:
        tracer.wait()
        raise PermissionError(said + tracer.stderr.read())
    return tracer
