"""Postfix and Exim as other people run them, each with a spool of its own: they take a message on a pipe, and hand it
to us as hosts hand mail to port 25.

Contract
    Nothing of the machine's own mail system is read or touched: programs and accounts come from .peers/, every file
    lies in the MTA's folder. What is started here ends with `close`.
    A recipient's domain chooses how we are talked to: "plain..." without TLS, "raw..." without the sender's own checks
    of size and line length, any other over TLS with our certificate verified.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from tests.peers.conftest import ROOT

SECONDS = 30
PLAIN, RAW, SECURE = "plain.example", "raw.example", "secure.example"


class Mta(ABC):
    """Sends what it has to `port` on loopback; `ca` is the certificate we must have there."""

    def __init__(self, folder: Path, port: int, ca: Path) -> None:
        self.folder, self.port, self.ca = folder, port, ca
        folder.mkdir()
        folder.chmod(0o755)

    @abstractmethod
    def _submission(self) -> list[str]:
        """What speaks SMTP on a pipe."""

    @abstractmethod
    def flush(self) -> None:
        """Have everything tried again now that is in the queue."""

    @abstractmethod
    def log(self) -> str: ...

    def close(self) -> None:  # noqa: B027 -- not everybody has something that runs
        """End what runs."""

    def submit(
        self, sender: str, recipients: list[str], content: bytes, parameters: str = "", options: str = ""
    ) -> None:
        """From an SMTP client, who must get a yes each time.

        `parameters` stand behind MAIL's path, `options` behind each recipient's."""
        words = self._submission()
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as process:
            lines = [f"MAIL FROM:<{sender}>{parameters}", *(f"RCPT TO:<{path}>{options}" for path in recipients)]
            said = [_heard(process)]
            for line in ("EHLO client.example", *lines, "DATA"):
                said.append(_asked(process, line.encode()))
            said.append(_asked(process, (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b"."))
            with contextlib.suppress(BrokenPipeError):
                _asked(process, b"QUIT")
        assert [reply[:1] for reply in said] == [*"22", *"2" * len(lines), "3", "2"], (said, self.log()[-2000:])

    @abstractmethod
    def submit_asking(self, sender: str, path: str, content: bytes) -> None:
        """From somebody who asks for RET=HDRS ENVID=QQ314159 NOTIFY=SUCCESS,DELAY."""


def _heard(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    while line[3:4] == "-":
        line = process.stdout.readline().decode()
    return line


def _asked(process: subprocess.Popen[bytes], line: bytes) -> str:
    assert process.stdin is not None
    process.stdin.write(line + b"\r\n")
    process.stdin.flush()
    return _heard(process)


_QUEUES = "incoming active deferred maildrop bounce corrupt defer flush hold private saved trace pid public"
_MASTER = """\
pickup    unix n - n 60 1 pickup
cleanup   unix n - n - 0 cleanup
qmgr      unix n - n 300 1 qmgr
tlsmgr    unix - - n 1000? 1 tlsmgr
rewrite   unix - - n - - trivial-rewrite
bounce    unix - - n - 0 bounce
defer     unix - - n - 0 bounce
trace     unix - - n - 0 bounce
flush     unix n - n 1000? 0 flush
proxymap  unix - - n - - proxymap
smtp      unix - - n - - smtp
plain     unix - - n - - smtp -o smtp_tls_security_level=none
raw       unix - - n - - smtp -o smtp_discard_ehlo_keywords=size -o smtp_line_length_limit=0
showq     unix n - n - - showq
error     unix - - n - - error
retry     unix - - n - - error
discard   unix - - n - - discard
anvil     unix - - n - 1 anvil
scache    unix - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix(Mta):
    """Its notices go nowhere: what became of a recipient is in the log."""

    def __init__(self, folder: Path, port: int, ca: Path) -> None:
        super().__init__(folder, port, ca)
        self._config, self._queue = folder / "config", folder / "queue"
        for place in (self._config, folder / "data", *(self._queue / name for name in _QUEUES.split())):
            place.mkdir(parents=True)
        self._configure()
        script = (
            f"chown -R postfix {self._queue} {folder}/data && chown root {self._queue} {self._queue}/pid && "
            f"chgrp postdrop {self._queue}/maildrop {self._queue}/public && "
            f"exec /usr/lib/postfix/sbin/master -c {self._config} -d"
        )
        with (folder / "master.log").open("wb") as log:
            words = self._program("sh", "-c", script)
            self._master = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + SECONDS
        while "daemon started" not in self.log():
            assert self._master.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def _configure(self) -> None:
        next_hop = f"[127.0.0.1]:{self.port}"
        main = {
            "compatibility_level": "3.6",
            "myhostname": "postfix.test.example",
            "mydestination": "",
            "local_transport": "discard",
            "default_transport": "discard",
            "alias_maps": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "transport_maps": f"inline:{{ {{ {PLAIN} = plain:{next_hop} }}, {{ {RAW} = raw:{next_hop} }},"
            f" {{ {SECURE} = smtp:{next_hop} }} }}",
            "smtp_tls_security_level": "verify",
            "smtp_tls_verify_cert_match": "gateway.example.org",
            "smtp_tls_CAfile": self.ca,
            "smtp_tls_loglevel": "1",
            "message_size_limit": "10000000",
            "minimal_backoff_time": "3000s",
            "queue_directory": self._queue,
            "data_directory": self.folder / "data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "maillog_file": self.folder / "postfix.log",
            "maillog_file_prefixes": self.folder,
        }
        (self._config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        (self._config / "master.cf").write_text(_MASTER)

    def _program(self, *words: str) -> list[str]:
        return [str(ROOT / "scripts" / "peer"), "postfix", *words]

    def _submission(self) -> list[str]:
        return self._program("/usr/sbin/sendmail", "-C", str(self._config), "-bs")

    def submit_asking(self, sender: str, path: str, content: bytes) -> None:
        words = self._program("/usr/sbin/sendmail", "-C", str(self._config), "-i", "-f", sender)
        words += ["-R", "hdrs", "-V", "QQ314159", "-N", "success,delay", path]
        subprocess.run(words, input=content.replace(b"\r\n", b"\n"), check=True, capture_output=True, timeout=SECONDS)

    def flush(self) -> None:
        words = self._program("/usr/sbin/postqueue", "-c", str(self._config), "-f")
        subprocess.run(words, check=True, capture_output=True, timeout=SECONDS)

    def log(self) -> str:
        files = (self.folder / "postfix.log", self.folder / "master.log")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def close(self) -> None:
        self._master.terminate()
        try:
            self._master.wait(SECONDS)
        finally:
            self._master.kill()
            self._master.wait()


class Exim(Mta):
    """Each message is delivered while it is submitted; `flush` is a queue run by hand."""

    def __init__(self, folder: Path, port: int, ca: Path) -> None:
        super().__init__(folder, port, ca)
        (folder / "spool").mkdir()
        for place in (folder, folder / "spool"):
            place.chmod(0o777)
        self._config = folder / "exim.conf"
        self._config.write_text(self._text())
        self._config.chmod(0o644)

    def _text(self) -> str:
        common = f" driver = smtp\n port = {self.port}\n allow_localhost = true\n message_linelength_limit = 1000000\n"
        tls = f" hosts_require_tls = *\n tls_verify_certificates = {self.ca}\n tls_verify_hosts = *\n"
        route = " driver = manualroute\n route_list = * 127.0.0.1 byname\n self = send\n"
        return (
            f"primary_hostname = exim.test.example\nspool_directory = {self.folder}/spool\n"
            f"log_file_path = {self.folder}/%slog\nnever_users =\ntrusted_users = root\n"
            "log_selector = +smtp_confirmation\nkeep_environment =\n"
            "acl_smtp_rcpt = accept\nacl_smtp_data = accept\nsmtputf8_advertise_hosts = *\ndsn_advertise_hosts = *\n"
            "message_size_limit = 10M\n"
            f"begin routers\nnotices:\n driver = redirect\n domains = elsewhere.example\n data = :blackhole:\n"
            f"secure:\n{route} domains = {SECURE}\n transport = secure\nplain:\n{route} transport = plain\n"
            f"begin transports\nplain:\n{common} hosts_avoid_tls = *\n"
            f"secure:\n{common}{tls} tls_verify_cert_hostnames =\n"
            "begin retry\n* * F,1d,1h\n"
        )

    def _program(self, *words: str) -> list[str]:
        return [str(ROOT / "scripts" / "peer"), "exim", "exim4", "-C", str(self._config), *words]

    def _submission(self) -> list[str]:
        return self._program("-odf", "-bs")

    def submit_asking(self, sender: str, path: str, content: bytes) -> None:
        options = f" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;{path}"
        self.submit(sender, [path], content, " RET=HDRS ENVID=QQ314159", options)

    def flush(self) -> None:
        subprocess.run(self._program("-qff"), check=True, capture_output=True, timeout=SECONDS)

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*log")))
