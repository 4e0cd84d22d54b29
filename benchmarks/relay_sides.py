"""The two relays of `benchmarks/relay.py`: this gateway, and Postfix as Debian ships it; each sends all to its sink.

Contract
    Queue, spool and log of each lie in its folder; both sync what they take as they do by default.
    Nothing of the machine's own Postfix or gateway is read.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from benchmarks.relay_load import CLIENT
from benchmarks.relay_world import LOOPBACK, Relay, postfix_program
from egressguard.app.control import ask
from egressguard.app.places import Places
from tests.lab.gateway import CODE
from tests.lab.internet import ROOT, write_certificate

SELECTOR = "bench"
MAX_MESSAGE_OCTETS = 200 * 1024 * 1024
READY = b"EgressGuard is ready"

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


class Gateway(Relay):
    """This project's daemon, all its roles, each as its own user."""

    def __init__(
        self, folder: Path, port: int, sink_port: int, *, scanned: bool = False, signing_key: bytes = b""
    ) -> None:
        super().__init__(folder, port, sink_port)
        self.places = Places(folder / "rules", folder / "state", folder / "run")
        self.places.rules.mkdir()
        rules = _rules(port, sink_port, scanned=scanned)
        if signing_key:
            self.places.signing_keys.mkdir(parents=True)
            (self.places.signing_keys / "key.pem").write_bytes(signing_key)
            rules["site"]["signing"] = {"own": {"domains": CLIENT, "selector": SELECTOR, "key": "file:dkim/key.pem"}}
        (self.places.rules / "site.yaml").write_text(json.dumps(rules, indent=1))  # JSON is YAML

    def signed(self) -> int:
        """How many messages it has signed."""
        found = re.findall(
            r"signatures_total{.*result=\"made\"} ([0-9.]+)", ask(self.places.control("smtpd"), "metrics")
        )
        return int(float(found[0])) if found else 0

    def queued(self) -> int:
        return len(ask(self.places.control("relay"), "queue.list", limit=10))

    def _command(self) -> list[str]:
        return daemon(self.places)

    def _is_ready(self) -> bool:
        return READY in self.log.read_bytes()


def daemon(places: Places) -> list[str]:
    """What starts this project's daemon; it logs READY."""
    words = ("--rules", places.rules, "--state", places.state, "--runtime", places.runtime)
    program = ["env", "-C", CODE, f"PYTHONPATH={CODE}", f"{CODE}/.venv/bin/python", "-m", "egressguard", "run"]
    return [*program, *map(str, words)]


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

    def _more(self) -> dict[str, object]:
        """Settings of main.cf besides."""
        return {}

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
        } | self._more()
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
        return "daemon started" in self._logged()  # no probe: a connection would start more processes

    def words(self) -> str:
        return super().words() + self._logged()[-2000:]

    def _logged(self) -> str:
        file = self.folder / "postfix.log"
        return file.read_text(errors="replace") if file.exists() else ""


class SigningPostfix(Postfix):
    """The same with Debian's opendkim as its milter, on a Unix socket: without a signature nothing passes."""

    def __init__(self, folder: Path, port: int, sink_port: int, *, signing_key: bytes) -> None:
        super().__init__(folder, port, sink_port)
        self._socket, self._key = folder / "opendkim.sock", folder / "key.pem"
        self._key.write_bytes(signing_key)
        self._milter: subprocess.Popen[bytes] | None = None

    def _more(self) -> dict[str, object]:
        return {"smtpd_milters": f"unix:{self._socket}", "milter_default_action": "tempfail"}

    def start(self) -> None:
        settings = {
            "Mode": "s",
            "Domain": CLIENT,
            "Selector": SELECTOR,
            "KeyFile": self._key,
            "Socket": f"local:{self._socket}",
            # As Debian has them:
            "Canonicalization": "relaxed/simple",
            "OversignHeaders": "From",
            # Other than Debian's: no syslog here, and a key that lies in a temporary directory.
            "Syslog": "no",
            "RequireSafeKeys": "no",
            "UMask": "000",
        }
        file = self.folder / "opendkim.conf"
        file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        command = [str(ROOT / "scripts" / "peer"), "opendkim", "opendkim", "-f", "-x", str(file)]
        with (self.folder / "opendkim.log").open("wb") as log:
            self._milter = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._milter is not None:
            self._milter.terminate()
            self._milter.wait()
