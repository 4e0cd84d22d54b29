"""Real mail servers hand mail to us on port 25: what arrives is what was said, and what is refused stays refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop

from egressguard.mail.envelope import Envelope, RecipientOptions
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.passwd import PasswdFile
from tests.peers.conftest import peer_of
from tests.peers.mtas import PLAIN, RAW, SECURE, Exim, Mta, Postfix
from tests.smtp.conftest import SETTINGS, Running, Stand
from tests.smtp.wire_peer import until

pytestmark = pytest.mark.peers

SENDER = "x@elsewhere.example"
BODY = b"Subject: hand-over\r\nFrom: <x@elsewhere.example>\r\n\r\n.one dot\r\n..two\r\n.\r\nthe end\r\n"
MTAS: dict[str, tuple[str, type[Mta]]] = {"postfix": ("postfix", Postfix), "exim4": ("exim", Exim)}


@dataclass
class Meeting:
    """An MTA, and our server on the other side, in a loop of its own that runs while a dialogue does."""

    runner: asyncio.Runner
    running: Running
    mta: Mta

    def play(self, dialogue: Callable[[], Awaitable[None]]) -> None:
        self.running.hooks.messages.clear()

        async def walk() -> None:
            await dialogue()

        self.runner.run(walk())

    async def submit(
        self,
        recipients: list[str],
        content: bytes = BODY,
        sender: str = SENDER,
        parameters: str = "",
        options: str = "",
    ) -> None:
        await asyncio.to_thread(self.mta.submit, sender, recipients, content, parameters, options)

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


@pytest.fixture(scope="module", params=MTAS)
def meeting(request: pytest.FixtureRequest) -> Iterator[Meeting]:
    if os.geteuid() != 0:
        pytest.skip("needs root: peers run in mount namespaces")
    folder_name, made = MTAS[request.param]
    if peer_of(request.param, folder_name) is None:
        pytest.skip(f"needs {request.param} in .peers: run scripts/peers")
    with tempfile.TemporaryDirectory(prefix="eg-mta-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "ours").mkdir()
        stand = Stand(folder / "ours", PasswdFile(folder / "ours" / "passwd"))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            serving = stand.serve(SETTINGS)
            running = runner.run(serving.__aenter__())
            ca = folder / "ca.pem"
            shutil.copy(next((folder / "ours" / "tls").glob("*cert*")), ca)
            ca.chmod(0o644)
            mta = made(folder / "mta", running.places["smtp"][1], ca)
            try:
                yield Meeting(runner, running, mta)
            finally:
                mta.close()
                runner.run(serving.__aexit__(None, None, None))


def body_of(content: bytes) -> bytes:
    return content.partition(b"\r\n\r\n")[2]


def test_the_unknown_recipient_fails_alone(meeting: Meeting) -> None:
    paths = [f"anna@{PLAIN}", f"unknown@{PLAIN}", f"bert@{PLAIN}"]

    async def dialogue() -> None:
        await meeting.submit(paths)
        ((facts, envelope, content),) = await meeting.arrived()
        assert (envelope.reverse_path, set(envelope.forward_paths)) == (SENDER, {paths[0], paths[2]})
        assert body_of(content) == body_of(BODY) and b"Subject: hand-over\r\n" in content
        assert facts.esmtp and not facts.tls
        await meeting.logged("550 5.1.1 No such mailbox here")

    meeting.play(dialogue)


def test_over_tls_with_our_certificate_verified(meeting: Meeting) -> None:
    async def dialogue() -> None:
        await meeting.submit([f"anna@{SECURE}"])
        ((facts, _, content),) = await meeting.arrived()
        assert facts.tls and body_of(content) == body_of(BODY)
        await meeting.logged("Verified TLS connection" if isinstance(meeting.mta, Postfix) else "CV=yes")

    meeting.play(dialogue)


def test_eight_bits_are_announced_and_arrive(meeting: Meeting) -> None:
    content = BODY + "Gr\u00fc\u00dfe\r\n".encode()

    async def dialogue() -> None:
        await meeting.submit([f"anna@{PLAIN}"], content, parameters=" BODY=8BITMIME")
        ((_, envelope, arrived),) = await meeting.arrived()
        assert envelope.body_8bit and body_of(arrived) == body_of(content)

    meeting.play(dialogue)


def test_addresses_beyond_ascii_arrive(meeting: Meeting) -> None:
    path, sender = f"gr\u00fc\u00dfe@{PLAIN}", "b\u00fccher@elsewhere.example"

    async def dialogue() -> None:
        await meeting.submit([path], sender=sender, parameters=" SMTPUTF8 BODY=8BITMIME")
        ((_, envelope, _),) = await meeting.arrived()
        assert envelope.smtputf8 and (envelope.reverse_path, envelope.forward_paths) == (sender, (path,))

    meeting.play(dialogue)


def test_what_is_too_large_is_refused_for_good(meeting: Meeting) -> None:
    """By what our EHLO says, and by our reply to one that does not heed it."""
    content = BODY + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * (SETTINGS.max_message_octets // 70)

    async def dialogue() -> None:
        for domain in (PLAIN, RAW):
            await meeting.submit([f"large@{domain}"], content)
        if isinstance(meeting.mta, Postfix):
            await meeting.logged(f"exceeds size limit {SETTINGS.max_message_octets} of server")
            await meeting.logged("552 5.3.4")
        else:
            await meeting.logged(f"** large@{RAW}")
        assert meeting.running.hooks.messages == []

    meeting.play(dialogue)


def test_what_we_put_off_comes_again(meeting: Meeting) -> None:
    path = f"later@{PLAIN}"
    meeting.running.hooks.put_off.add(path)

    async def dialogue() -> None:
        await meeting.submit([path])
        await meeting.logged("451 4.7.1 Later")
        assert meeting.running.hooks.messages == []
        await asyncio.to_thread(meeting.mta.flush)
        ((_, envelope, content),) = await meeting.arrived()
        assert envelope.forward_paths == (path,) and body_of(content) == body_of(BODY)

    meeting.play(dialogue)


def test_a_line_longer_than_any_rfc_allows_arrives_whole(meeting: Meeting) -> None:
    content = BODY + b"z" * 5000 + b"\r\n"

    async def dialogue() -> None:
        await meeting.submit([f"anna@{RAW}"], content)
        ((_, _, arrived),) = await meeting.arrived()
        assert body_of(arrived) == body_of(content)

    meeting.play(dialogue)


def test_what_the_sender_wants_to_hear_of_is_passed_on(meeting: Meeting) -> None:
    path = f"anna@{PLAIN}"

    async def dialogue() -> None:
        await asyncio.to_thread(meeting.mta.submit_asking, SENDER, path, BODY)
        ((_, envelope, _),) = await meeting.arrived()
        assert (envelope.ret, envelope.envid) == ("HDRS", "QQ314159")
        assert envelope.recipients == {path: RecipientOptions(("SUCCESS", "DELAY"), f"rfc822;{path}")}

    meeting.play(dialogue)


def test_the_null_reverse_path_is_taken(meeting: Meeting) -> None:
    async def dialogue() -> None:
        await meeting.submit([f"anna@{PLAIN}"], sender="")
        ((_, envelope, _),) = await meeting.arrived()
        assert envelope.reverse_path == ""

    meeting.play(dialogue)


def test_many_messages_and_many_recipients(meeting: Meeting) -> None:
    """More recipients than a session's habit, so that the sender pipelines; several messages at once."""

    async def dialogue() -> None:
        paths = [f"number{n}@{PLAIN}" for n in range(120)]
        await asyncio.gather(*(meeting.submit(paths[n::3]) for n in range(3)))
        messages = await meeting.arrived(3)
        assert sorted(path for _, envelope, _ in messages for path in envelope.forward_paths) == sorted(paths)

    meeting.play(dialogue)
