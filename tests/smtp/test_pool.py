"""Connections that are kept: whose they are, how long, and what becomes of a message that meets a dead one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from egressguard.mail.outcome import Result
from egressguard.smtp import pool
from egressguard.smtp.client import Patience, Peer, Sent, SmtpClient, Transaction
from egressguard.store.content import Content
from tests.fuzz.memory import MemoryLoop
from tests.smtp.memory_mx import MemoryMx, play

PATIENCE = Patience(connect_seconds=5, command_seconds=10, data_seconds=10, whole_seconds=100)
NAME = "gateway.example.org"
MX = Peer("mx.example.net", ("192.0.2.25",), 25, tls="none")
LETTER = Transaction("a@example.org", ("b@example.net",), Content.of(b"Subject: x\r\n\r\n"))


class Sending:
    """A client that remembers, and the host it talks to."""

    def __init__(self, loop: MemoryLoop) -> None:
        self.loop = loop
        self.mx = MemoryMx(loop)
        self.client = SmtpClient()

    async def send(self, peer: Peer = MX, name: str = NAME, letter: Transaction = LETTER) -> Sent:
        return await self.mx.until_done(self.client.send(letter, peer, name, PATIENCE))

    async def delivers(self, peer: Peer = MX, name: str = NAME) -> None:
        (outcome,) = (await self.send(peer, name)).outcomes.values()
        assert outcome.result is Result.DELIVERED, outcome

    async def sleep(self, seconds: float) -> None:
        await self.mx.until_done(asyncio.sleep(seconds))

    def commands(self, number: int) -> list[str]:
        return [command.split(" ")[0] for command in self.mx.lines[number].commands]


def sending(dialogue: Callable[[Sending], Any]) -> None:
    async def walk(loop: MemoryLoop) -> None:
        here = Sending(loop)
        await dialogue(here)
        await here.mx.until_done(here.client.close())
        assert all(line.transport.is_closing() for line in here.mx.lines)

    play(walk)


ONE = ["MAIL", "RCPT", "DATA"]


def test_the_next_message_goes_over_the_same_connection() -> None:
    async def dialogue(here: Sending) -> None:
        for _ in range(3):
            await here.delivers()
        assert len(here.mx.lines) == 1
        assert here.commands(0) == ["EHLO", *ONE * 3]
        await here.mx.until_done(here.client.close())
        assert here.commands(0)[-1] == "QUIT"

    sending(dialogue)


def test_an_idle_connection_is_given_up_in_time() -> None:
    async def dialogue(here: Sending) -> None:
        await here.delivers()
        await here.sleep(2 * pool.IDLE_SECONDS)
        assert here.commands(0)[-1] == "QUIT" and here.mx.lines[0].transport.is_closing()
        await here.delivers()
        assert len(here.mx.lines) == 2

    sending(dialogue)


def test_a_connection_in_use_is_given_up_when_it_is_old() -> None:
    async def dialogue(here: Sending) -> None:
        for _ in range(int(pool.LIFE_SECONDS / 1.5) + 3):
            await here.delivers()
            await here.sleep(1.5)
        assert len(here.mx.lines) == 2
        assert here.commands(0)[-1] == "QUIT"

    sending(dialogue)


def test_a_connection_carries_so_many_messages_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "TRANSACTIONS", 3)

    async def dialogue(here: Sending) -> None:
        for _ in range(4):
            await here.delivers()
        assert [here.commands(n).count("MAIL") for n in range(2)] == [3, 1]

    sending(dialogue)


def test_no_more_are_kept_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE_TOTAL", 2)

    async def dialogue(here: Sending) -> None:
        await here.mx.until_done(asyncio.gather(*(here.client.send(LETTER, MX, NAME, PATIENCE) for _ in range(5))))
        await here.mx.until_done(asyncio.sleep(0.1))
        assert sum(not line.transport.is_closing() for line in here.mx.lines) == 2

    sending(dialogue)


@pytest.mark.parametrize("how", ["eof", "reset", "421", "words", "half a reply"])
def test_a_host_that_left_or_spoke_while_idle_costs_no_attempt(how: str) -> None:
    async def dialogue(here: Sending) -> None:
        await here.delivers()
        transport = here.mx.lines[0].transport
        {
            "eof": transport.end,
            "reset": transport.lose,
            "421": lambda: transport.feed(b"421 4.3.2 idle\r\n"),
            "words": lambda: transport.feed(b"half a li"),
            "half a reply": lambda: transport.feed(b"421-4.3.2 idle\r\n"),
        }[how]()
        await here.delivers()
        assert len(here.mx.lines) == 2
        assert here.commands(0).count("MAIL") == 1

    sending(dialogue)


@pytest.mark.parametrize("dies", ["eof", "reset"])
def test_a_host_that_dies_at_mail_on_a_kept_connection_costs_no_attempt(dies: str) -> None:
    """What looked alive was not: the message goes over a fresh one."""

    async def dialogue(here: Sending) -> None:
        await here.delivers()
        here.mx.replies = dict.fromkeys(ONE, b"")
        attempt = asyncio.ensure_future(here.client.send(LETTER, MX, NAME, PATIENCE))
        await here.loop.settle()
        here.mx.serve()
        here.mx.replies = {}
        transport = here.mx.lines[0].transport
        transport.end() if dies == "eof" else transport.lose()
        (outcome,) = (await here.mx.until_done(attempt)).outcomes.values()
        assert outcome.result is Result.DELIVERED and len(here.mx.lines) == 2

    sending(dialogue)


@pytest.mark.parametrize("reply", [b"451 4.3.0 no\r\n", b"550 5.7.1 no\r\n"])
def test_after_a_message_that_was_refused_at_its_end_the_connection_is_used_again(reply: bytes) -> None:
    async def dialogue(here: Sending) -> None:
        here.mx.replies["."] = reply
        assert next(iter((await here.send()).outcomes.values())).result is not Result.DELIVERED
        here.mx.replies.clear()
        await here.delivers()
        assert len(here.mx.lines) == 1

    sending(dialogue)


@pytest.mark.parametrize(("where", "reply"), [
    ("MAIL", b"550 5.7.1 no\r\n"), ("MAIL", b"421 4.3.2 no\r\n"), ("RCPT", b"421 4.3.2 no\r\n"),
    ("DATA", b"451 4.3.0 no\r\n"), (".", b"421 4.3.2 no\r\n"), (".", b"550 5.0.0 no\r\n250 2.0.0 unasked\r\n"),
])  # fmt: skip
def test_a_connection_in_an_unclear_state_is_not_used_again(where: str, reply: bytes) -> None:
    async def dialogue(here: Sending) -> None:
        here.mx.replies = {where: reply}
        if where in {"MAIL", "RCPT"}:
            here.mx.replies["DATA"] = b"503 5.5.1 no\r\n"
        await here.send()
        here.mx.replies = {}
        await here.delivers()
        assert len(here.mx.lines) == 2
        assert "MAIL" not in here.commands(0)[2:]

    sending(dialogue)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"name": "mx2.example.net"}, NAME),
        ({"addresses": ("192.0.2.26",)}, NAME),
        ({"port": 26}, NAME),
        ({"tls": "opportunistic"}, NAME),
        ({"tls": "starttls"}, NAME),
        ({"tls": "starttls", "user": "anna", "password": "x"}, NAME),
        ({"addresses": ("127.0.0.1",), "user": "anna", "password": "x"}, NAME),
        ({}, "other.example.org"),
    ],
    ids=str,
)
def test_connections_are_not_mixed(changes: dict[str, Any], name: str) -> None:
    """Another host, another kind of TLS, another login, another name of ours: another connection, both ways."""

    async def dialogue(here: Sending) -> None:
        here.mx.replies["EHLO"] = b"250-mx\r\n250-AUTH PLAIN\r\n250-STARTTLS\r\n250 PIPELINING\r\n"
        peer = Peer(**({"name": MX.name, "addresses": MX.addresses, "port": MX.port, "tls": MX.tls} | changes))
        for _ in range(2):
            await here.delivers()
            await here.delivers(peer, name)
        assert len(here.mx.lines) == 2
        assert here.commands(0).count("MAIL") == here.commands(1).count("MAIL") == 2
        assert ("AUTH" in here.commands(1)) == ("user" in changes) and "AUTH" not in here.commands(0)
        assert here.mx.lines[1].transport.secure == (changes.get("tls", "none") != "none")

    sending(dialogue)


def test_one_password_is_not_anothers() -> None:
    async def dialogue(here: Sending) -> None:
        here.mx.replies["EHLO"] = b"250-mx\r\n250-AUTH PLAIN\r\n250-STARTTLS\r\n250 PIPELINING\r\n"
        for password in ("one", "two"):
            await here.delivers(Peer(MX.name, MX.addresses, 25, "starttls", user="anna", password=password))
        assert len(here.mx.lines) == 2

    sending(dialogue)


def test_a_silent_host_at_goodbye_keeps_nobody_waiting() -> None:
    async def dialogue(here: Sending) -> None:
        here.mx.replies["QUIT"] = b""
        await here.delivers()
        before = here.loop.time()
        await here.mx.until_done(here.client.close())
        assert here.loop.time() - before <= pool.QUIT_SECONDS + 1

    sending(dialogue)
