"""One of the world's mail servers, our relay before it and our server behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from egressguard.mail.envelope import Envelope
from egressguard.policy.model import Policy
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.store.passwd import PasswdFile
from tests.peers.conftest import peer_of
from tests.peers.mta import PLAIN, RAW, SECURE, Mta, Place, free_port
from tests.relay.setting import Table, message_to, policy_of
from tests.relay.test_queue import House, house
from tests.smtp.conftest import SETTINGS, Running, Stand
from tests.smtp.fake_mx import make_certificate
from tests.smtp.wire_peer import until

SENDER = "x@elsewhere.example"
HEAD = (
    b"Date: Thu, 26 Nov 2026 12:00:00 +0000\r\nFrom: <x@elsewhere.example>\r\nTo: <anna@plain.example>\r\n"
    b"Message-ID: <1@elsewhere.example>\r\nSubject: hand-over\r\n"
)
BODY = HEAD + b"\r\n.one dot\r\n..two\r\n.\r\nthe end\r\n"
MAX_OCTETS = 2_000_000
TABLE = Table(
    {domain: [(10, "mx.test.example")] for domain in (PLAIN, RAW, SECURE)}, {"mx.test.example": ["127.0.0.1"]}
)


@dataclass
class Meeting:
    """An MTA, and our server on the other side, in a loop of its own that runs while a dialogue does."""

    runner: asyncio.Runner
    running: Running
    mta: Mta
    folder: Path

    def play(self, dialogue: Callable[[], Awaitable[None]]) -> None:
        self.running.hooks.messages.clear()

        async def walk() -> None:
            await dialogue()

        self.runner.run(walk())

    def needs(self, keyword: str) -> None:
        if keyword not in self.mta.offers:
            pytest.skip(f"{self.mta.program} does not offer {keyword.upper()}")
        if keyword == "starttls" and not self.mta.starts_tls():
            pytest.skip(f"no client can start TLS with this {self.mta.program}, whatever it offers")

    async def submit(
        self,
        recipients: list[str],
        content: bytes = BODY,
        sender: str = SENDER,
        parameters: str = "",
        options: str = "",
    ) -> None:
        await asyncio.to_thread(self.mta.submit, sender, recipients, content, parameters, options)

    async def relayed(
        self, paths: Sequence[str], content: bytes = BODY, by: str = "mx", **envelope: Any
    ) -> Mapping[str, Mapping[str, object]]:
        """What our relay says became of each recipient. `by` is a smart host of `policy` or "mx"."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        made = message_to(*paths, reverse_path=envelope.pop("sender", SENDER))
        sent = replace(made, content=Content.of(content), envelope=replace(made.envelope, **envelope))
        async with house(folder, self.policy(by), resolver=TABLE) as here:
            await here.queue.put(sent)
            await here.until(lambda: len(_fates(here)) == len(paths), seconds=30)
            return _fates(here)

    def policy(self, by: str, port: int | None = None) -> Policy:
        """All mail goes to the MTA, by MX or by a smart host of these; `port` is where its port is seen."""
        port = port or self.mta.place.port
        host = {"host": "127.0.0.1", "port": port}
        return policy_of(
            relay={"delivery_port": port, "attempt_timeout_seconds": 20},
            smart_hosts={
                "verified": {**host, "tls": "starttls", "ca_file": str(self.mta.place.certificate)},
                "strange": {**host, "tls": "starttls"},
                "clear": {**host, "tls": "none"},
            },
            routes=[{"name": "all", "via": by}],
        )

    async def arrived(self, count: int = 1) -> list[tuple[SessionFacts, Envelope, bytes]]:
        await self._until(lambda: len(self.running.hooks.messages) >= count)
        assert len(self.running.hooks.messages) == count
        return self.running.hooks.messages

    async def logged(self, words: str) -> None:
        await self._until(lambda: words in self.mta.log())

    async def _until(self, true: Callable[[], object]) -> None:
        try:
            await until(true)
        except TimeoutError:
            raise AssertionError(self.mta.log()[-3000:]) from None


def _fates(here: House) -> dict[str, Mapping[str, object]]:
    of_mail = [(kind.partition("."), fields) for kind, fields in here.events]
    return {str(fields["recipient"]): {"kind": kind[2], **fields} for kind, fields in of_mail if kind[0] == "delivery"}


@contextlib.contextmanager
def meeting_with(made: type[Mta]) -> Iterator[Meeting]:
    if os.geteuid() != 0:
        pytest.skip("needs root: peers run in mount namespaces")
    if peer_of(made.program, made.peer) is None:
        pytest.skip(f"needs {made.program} in .peers: run scripts/peers")
    with tempfile.TemporaryDirectory(prefix="eg-mta-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "ours").mkdir()
        stand = Stand(folder / "ours", PasswdFile(folder / "ours" / "passwd"))
        settings = replace(SETTINGS, max_message_octets=MAX_OCTETS)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            serving = stand.serve(settings)
            running = runner.run(serving.__aenter__())
            ca = folder / "ca.pem"
            shutil.copy(next((folder / "ours" / "tls").glob("*cert*")), ca)
            ca.chmod(0o644)
            _, certificate = make_certificate(folder, "127.0.0.1")
            place = Place(folder / "mta", free_port(), running.places["smtp"][1], ca, certificate, folder / "key.pem")
            mta = made(place)
            try:
                yield Meeting(runner, running, mta, folder)
            finally:
                mta.close()
                runner.run(serving.__aexit__(None, None, None))
