"""Mail servers as other people run them, each with a spool of its own: they take a message by SMTP, from us or from a
client, and hand it to us as hosts hand mail to port 25.

Contract
    Nothing of the machine's own mail system is read or touched: programs and accounts come from .peers/, every file
    lies in the MTA's folder. What is started here ends with `close`.
    A recipient's domain chooses how we are talked to: "plain..." without TLS (where the MTA can be told so), "raw..."
    without the sender's own checks of size and line length, any other over TLS with our certificate verified.
    "refused@..." is refused to whoever hands mail in.
"""

from __future__ import annotations

import contextlib
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.peers.conftest import ROOT

SECONDS = 30
END_SECONDS = 5
PLAIN, RAW, SECURE = "plain.example", "raw.example", "secure.example"
REFUSED = "refused"
CLIENT = "client.example"
OURS = "gateway.example.org"  # our name in our certificate


@dataclass(frozen=True, slots=True)
class Place:
    """Where an MTA lives: its folder, the port it listens on, ours that it sends to, the certificate we must have there
    and its own one, with its key."""

    folder: Path
    port: int
    next_port: int
    ca: Path
    certificate: Path
    key: Path


class Mta(ABC):
    """Sends what it takes on 127.0.0.1:`place.port` to `place.next_port`."""

    peer: str  # its folder in .peers/
    program: str
    OFFERS: frozenset[str]  # of what matters here, in every version
    VERIFIED: str  # in its log, of a connection that was verified
    TOO_LARGE: Sequence[str]  # in its log, of a message that its size kept back
    PLAIN_IS_PLAIN = True

    def __init__(self, place: Place) -> None:
        self.place = place
        place.folder.mkdir()
        place.folder.chmod(0o755)
        self._configure()
        with (place.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self._in_its_world(*self._daemon()),
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._until_it_answers()
        with smtplib.SMTP("127.0.0.1", place.port, CLIENT, timeout=SECONDS) as client:
            client.ehlo()
            self.offers = frozenset(client.esmtp_features)

    @abstractmethod
    def _configure(self) -> None: ...

    @abstractmethod
    def _daemon(self) -> Sequence[str]:
        """What listens, in the foreground."""

    @abstractmethod
    def flush(self) -> None:
        """Have everything tried again now that is in the queue."""

    def _in_its_world(self, *words: str) -> list[str]:
        return [str(ROOT / "scripts" / "peer"), self.peer, *words]

    def _run(self, *words: str) -> None:
        subprocess.run(self._in_its_world(*words), check=True, capture_output=True, timeout=SECONDS)

    def _until_it_answers(self) -> None:
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.place.port), timeout=SECONDS) as sock:
                    assert sock.recv(3) == b"220", self.log()
                    return
            except ConnectionRefusedError:
                assert self._process.poll() is None and time.monotonic() < deadline, self.log()
                time.sleep(0.02)

    def log(self) -> str:
        """All it has to say."""
        files = [*sorted(self.place.folder.glob("*log")), self.place.folder / "output"]
        return "".join(file.read_text(errors="replace") for file in files)

    def submit(
        self, sender: str, recipients: list[str], content: bytes, parameters: str = "", options: str = ""
    ) -> None:
        """From an SMTP client, who must get a yes each time.

        `parameters` stand behind MAIL's path, `options` behind each recipient's."""
        with smtplib.SMTP("127.0.0.1", self.place.port, CLIENT, timeout=SECONDS) as client:
            client.command_encoding = "utf-8"
            lines = [f"MAIL FROM:<{sender}>{parameters}", *(f"RCPT TO:<{path}>{options}" for path in recipients)]
            said = [client.ehlo()[0], *(client.docmd(line)[0] for line in lines), client.docmd("DATA")[0]]
            client.send((b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")
            said.append(client.getreply()[0])
        assert [code // 100 for code in said] == [2, *(2 for _ in lines), 3, 2], (said, self.log()[-2000:])

    def starts_tls(self) -> bool:
        """Whether Python's client, which verifies nothing here, can."""
        with smtplib.SMTP("127.0.0.1", self.place.port, CLIENT, timeout=SECONDS) as client:
            try:
                client.starttls()
            except ssl.SSLError:
                client.close()
                return False
            return True

    def close(self) -> None:
        """End what runs, and what it has started: a late child would write into a folder that is gone."""
        group, deadline = self._process.pid, time.monotonic() + END_SECONDS
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGTERM)
            while time.monotonic() < deadline:
                self._process.poll()  # reaps it
                os.killpg(group, 0)
                time.sleep(0.01)
            os.killpg(group, signal.SIGKILL)
        self._process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return int(unused.getsockname()[1])
