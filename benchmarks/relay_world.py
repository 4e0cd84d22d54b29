"""The two relays of `benchmarks/relay.py` and the sinks behind them, on the loopback of a namespace of their own.

Contract
    `enter` runs the caller again where a network, process ids and mounts are its own; when it ends, all in it ends.
    Both relays keep their queue in one folder, on the disk of the temporary directory, and fsync as they do by default.
    `delivered` never waits for ever: a message that is missing, or one too many, is a RuntimeError.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import yaml

from egressguard.app.control import ask
from egressguard.app.places import Places
from tests.lab.gateway import CODE, write_accounts
from tests.lab.internet import ROOT, write_certificate

LOOPBACK = "127.0.0.1"
READY_SECONDS = 30
STOP_SECONDS = 20
SILENT_SECONDS = 20
"""How long a relay may deliver nothing while something is missing."""
MAX_MESSAGE_OCTETS = 200 * 1024 * 1024

_ENTER = """
ip link set lo up && mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/group" /etc/group || exit 70
mount --bind "$2" "$3" || exit 70
shift 3
exec "$@"
"""

_POSTFIX_QUEUES = ("incoming", "active", "deferred", "maildrop")
_POSTFIX_FOLDERS = f"{' '.join(_POSTFIX_QUEUES)} bounce corrupt defer flush hold private saved trace pid public"
_MASTER = """\
{port}    inet n - n - - smtpd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
verify    unix - - n - 1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp      unix - - n - - smtp
relay     unix - - n - - smtp
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


def enter(folder: Path, *words: str) -> int:
    """Run `words` in namespaces of their own, with the roles' users there; the exit status."""
    write_accounts(folder)
    spaces = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command = [*spaces, "sh", "-c", _ENTER, "sh", str(folder), str(ROOT), CODE, *words]
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


class Relay(ABC):
    """A server under test: `port` takes mail, `sink` gets it, `pid` is the ancestor of all its processes."""

    def __init__(self, folder: Path, port: int, sink_port: int) -> None:
        folder.mkdir()
        self.folder, self.port = folder, port
        self.log = folder / "log"
        self.sink = Sink(folder, sink_port)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @abstractmethod
    def queued(self) -> int:
        """How many messages are in its queue."""

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
                raise RuntimeError(f"{self.folder.name} did not start:\n{self.words()}")
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            _end(self._process)
        self.sink.close()

    def delivered(self, count: int) -> float:
        """Wait until the sink has `count` messages since it began; when it had them (time.monotonic)."""
        seen, last = -1, time.monotonic()
        while (now := self.sink.count()) < count:
            if now != seen:
                seen, last = now, time.monotonic()
            if time.monotonic() - last > SILENT_SECONDS:
                raise RuntimeError(f"{self.folder.name}: {now} of {count} messages arrived:\n{self.words()}")
            time.sleep(0.01)
        return time.monotonic()

    def rest(self, count: int) -> None:
        """Wait until the queue is empty; raises if the sink does not have `count` messages by then, exactly."""
        deadline = time.monotonic() + SILENT_SECONDS
        while self.queued():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.folder.name}: {self.queued()} messages stay in the queue:\n{self.words()}")
            time.sleep(0.05)
        if self.sink.count() != count:
            raise RuntimeError(f"{self.folder.name}: {self.sink.count()} messages arrived instead of {count}")

    def words(self) -> str:
        """The end of what it logged."""
        return self.log.read_text(errors="replace")[-2000:]


class Gateway(Relay):
    """This project's daemon, all its roles, each as its own user."""

    def __init__(self, folder: Path, port: int, sink_port: int, *, scanned: bool) -> None:
        super().__init__(folder, port, sink_port)
        self.places = Places(folder / "rules", folder / "state", folder / "run")
        self.places.rules.mkdir()
        rules = json.dumps(_rules(port, sink_port, scanned=scanned), indent=1)  # JSON is YAML
        (self.places.rules / "site.yaml").write_text(rules)

    def queued(self) -> int:
        return len(ask(self.places.control("relay"), "queue.list", limit=10))

    def _command(self) -> list[str]:
        places = ("--rules", self.places.rules, "--state", self.places.state, "--runtime", self.places.runtime)
        program = ["env", "-C", CODE, f"PYTHONPATH={CODE}", f"{CODE}/.venv/bin/python", "-m", "egressguard", "run"]
        return [*program, *map(str, places)]

    def _is_ready(self) -> bool:
        return b"EgressGuard is ready" in self.log.read_bytes()


def _rules(port: int, sink_port: int, *, scanned: bool) -> dict[str, Any]:
    """A site that relays everything from loopback to the sink; `scanned`: after the shipped rules' look at content."""
    shipped = ROOT / "rules"
    content = [
        rule
        for rule in yaml.safe_load((shipped / "mail.yaml").read_text())["mail"]
        if "verdict" in rule.get("match", {})
    ]
    scan = yaml.safe_load((shipped / "site.yaml").read_text())["site"]["scan"]
    return {
        "site": {
            "zones": {"lan": {"networks": "127.0.0.0/8"}},
            "relay": {
                "hostname": "gateway.bench.example",
                "max_message_octets": MAX_MESSAGE_OCTETS,
                "listeners": {"lan": {"kind": "smtp", "port": port, "addresses": LOOPBACK}},
            },
            "smart_hosts": {"sink": {"host": LOOPBACK, "port": sink_port, "tls": "opportunistic"}},
        }
        | ({"scan": scan} if scanned else {}),
        "mail": [*(content if scanned else []), {"name": "lan", "match": {"client": "lan"}, "action": "accept"}],
        "routes": [{"name": "all", "via": "sink"}],
    }


class Postfix(Relay):
    """Debian's Postfix with Debian's main.cf: other paths, a relayhost, a larger limit of size, its log in a file."""

    def queued(self) -> int:
        return sum(path.is_file() for name in _POSTFIX_QUEUES for path in (self._queue / name).rglob("*"))

    @property
    def _queue(self) -> Path:
        return self.folder / "queue"

    def _command(self) -> list[str]:
        for name in ("config", "data", *(f"queue/{part}" for part in _POSTFIX_FOLDERS.split())):
            (self.folder / name).mkdir(parents=True)
        certificate, key = write_certificate(self.folder, "peer.bench.example")
        main = {
            "compatibility_level": "3.6",
            "smtpd_banner": "$myhostname ESMTP $mail_name (Debian/GNU)",
            "biff": "no",
            "append_dot_mydomain": "no",
            "smtpd_tls_cert_file": certificate,
            "smtpd_tls_key_file": key,
            "smtpd_tls_security_level": "may",
            "smtp_tls_CApath": "/etc/ssl/certs",
            "smtp_tls_security_level": "may",
            "smtp_tls_session_cache_database": "btree:${data_directory}/smtp_scache",
            "smtpd_relay_restrictions": "permit_mynetworks permit_sasl_authenticated defer_unauth_destination",
            "myhostname": "peer.bench.example",
            "mydestination": "$myhostname, localhost",
            "relayhost": f"[{LOOPBACK}]:{self.sink.port}",
            "mynetworks": "127.0.0.0/8",
            "mailbox_size_limit": "0",
            "recipient_delimiter": "+",
            "inet_interfaces": LOOPBACK,
            # Not Debian's:
            "alias_maps": "",
            "message_size_limit": MAX_MESSAGE_OCTETS,
            "queue_directory": self._queue,
            "data_directory": self.folder / "data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "maillog_file": self.folder / "postfix.log",
            "maillog_file_prefixes": self.folder,
        }
        config = self.folder / "config"
        (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        (config / "master.cf").write_text(_MASTER.format(port=self.port))
        script = (
            f"chown -R postfix {self._queue} {self.folder}/data && chown root {self._queue} {self._queue}/pid && "
            f"chgrp postdrop {self._queue}/maildrop {self._queue}/public && "
            f"exec /usr/lib/postfix/sbin/master -c {config} -d"
        )
        return postfix_program("sh", "-c", script)

    def _is_ready(self) -> bool:
        probe = [sys.executable, "-I", "-c", f"import socket; socket.create_connection(('{LOOPBACK}', {self.port}), 1)"]
        return subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0

    def words(self) -> str:
        logged = self.folder / "postfix.log"
        return super().words() + (logged.read_text(errors="replace")[-2000:] if logged.exists() else "")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()
    process.wait()
