"""AUTH: who gets how many guesses."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import threading

import pytest

from egressguard.smtp.auth import (
    MAX_FAILURES,
    PARALLEL_HASHES,
    REMEMBERED_ADDRESSES,
    WINDOW_SECONDS,
    Authenticator,
    Credentials,
    Failures,
)
from egressguard.smtp.scram import ScramServer, parse_client_first
from egressguard.store.passwd import PasswdEntry, hash_password, render_passwd_line
from egressguard.store.verifier import Verifier, fake_verifier, make_verifier
from tests.smtp.conftest import HASH, PASSWORD, Stand

CLIENT = ipaddress.IPv4Address("192.0.2.7")
PENCIL = make_verifier("pencil")
FIRST = parse_client_first(b"n,,n=anna,r=x")
OTHER = ipaddress.IPv6Address("2001:db8::7")


class Book:
    """Accounts that count how many are looked up at once."""

    def __init__(self, error: OSError | None = None) -> None:
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self._error = error
        self.verifiers = {"anna": PENCIL}
        self._lock = threading.Lock()

    def verify(self, name: str, password: str) -> bool:
        with self._lock:
            self.asked += 1
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        threading.Event().wait(0.005)  # what a hash costs
        with self._lock:
            self.at_once -= 1
        if self._error is not None:
            raise self._error
        return password == "secret"

    def offers_scram(self) -> bool:
        return True

    def scram_verifier(self, name: str) -> Verifier | None:
        if self._error is not None:
            raise self._error
        return self.verifiers.get(name)

    def fake_verifier(self, name: str) -> Verifier:
        return fake_verifier(b"k" * 32, name)

    def standing(self, name: str) -> str:
        if self._error is not None:
            raise self._error
        return "as ever"


def test_storage_that_cannot_be_read_is_not_a_wrong_password() -> None:
    result = asyncio.run(Authenticator(Book(OSError("EIO"))).check("anna", "secret", CLIENT))
    assert result is Credentials.CANNOT_TELL


def test_guesses_from_one_address_are_limited_and_harm_no_other() -> None:
    async def guess() -> None:
        now = 0.0
        book = Book()
        authenticator = Authenticator(book, clock=lambda: now)
        for _ in range(MAX_FAILURES):
            assert await authenticator.check("anna", "x", CLIENT) is Credentials.WRONG
        assert await authenticator.check("anna", "secret", CLIENT) is Credentials.LIMITED
        assert book.asked == MAX_FAILURES
        assert await authenticator.check("anna", "secret", OTHER) is Credentials.OK
        now = WINDOW_SECONDS
        assert await authenticator.check("anna", "secret", CLIENT) is Credentials.OK

    asyncio.run(guess())


def test_few_passwords_are_hashed_at_once_and_a_long_queue_is_told_to_come_back() -> None:
    async def guess() -> list[Credentials]:
        authenticator = Authenticator(book)
        clients = [ipaddress.IPv4Address(int(CLIENT) + k) for k in range(200)]
        return list(await asyncio.gather(*(authenticator.check("anna", "x", client) for client in clients)))

    book = Book()
    results = asyncio.run(guess())
    assert book.most_at_once <= PARALLEL_HASHES
    assert results.count(Credentials.CANNOT_TELL) == 200 - 64


def test_failures_are_forgotten_one_by_one() -> None:
    failures = Failures(limit=2, window_seconds=10)
    failures.add(CLIENT, 0)
    failures.add(CLIENT, 9)
    assert failures.too_many(CLIENT, 9.9)
    assert not failures.too_many(CLIENT, 10)
    failures.add(CLIENT, 11)
    assert failures.too_many(CLIENT, 18.9)


def test_memory_for_failures_is_bounded() -> None:
    failures = Failures(limit=1)
    for k in range(REMEMBERED_ADDRESSES + 10):
        failures.add(ipaddress.IPv6Address(k << 64), 0)
    assert not failures.too_many(ipaddress.IPv6Address(0), 0)
    assert failures.too_many(ipaddress.IPv6Address(REMEMBERED_ADDRESSES << 64), 0)


def test_a_wrong_proof_counts_like_a_wrong_password() -> None:
    async def guess() -> None:
        now = 0.0
        authenticator = Authenticator(Book(), clock=lambda: now)
        for _ in range(MAX_FAILURES - 1):
            assert await authenticator.end_scram("anna", CLIENT, verifier=None) is Credentials.WRONG
        assert isinstance(await authenticator.begin_scram(FIRST, CLIENT), ScramServer)
        assert await authenticator.check("anna", "x", CLIENT) is Credentials.WRONG
        assert await authenticator.begin_scram(FIRST, CLIENT) is Credentials.LIMITED
        assert await authenticator.end_scram("anna", CLIENT, verifier=PENCIL) is Credentials.LIMITED
        assert await authenticator.end_scram("anna", OTHER, verifier=PENCIL) is Credentials.OK
        now = WINDOW_SECONDS
        assert await authenticator.end_scram("anna", CLIENT, verifier=PENCIL) is Credentials.OK

    asyncio.run(guess())


def test_an_account_that_was_locked_while_its_client_took_its_time_does_not_get_in() -> None:
    async def play() -> list[Credentials]:
        book = Book()
        authenticator = Authenticator(book)
        assert isinstance(await authenticator.begin_scram(FIRST, CLIENT), ScramServer)
        results = []
        for verifiers in ({}, {"anna": make_verifier("new")}):
            book.verifiers = verifiers
            results.append(await authenticator.end_scram("anna", CLIENT, verifier=PENCIL))
        return results

    assert asyncio.run(play()) == [Credentials.WRONG] * 2


def test_storage_that_cannot_be_read_is_not_a_wrong_proof() -> None:
    async def play() -> None:
        authenticator = Authenticator(Book(OSError("EIO")))
        assert await authenticator.begin_scram(FIRST, CLIENT) is Credentials.CANNOT_TELL
        assert await authenticator.end_scram("anna", CLIENT, verifier=PENCIL) is Credentials.CANNOT_TELL

    asyncio.run(play())


def test_no_nonce_comes_twice() -> None:
    async def play() -> set[bytes]:
        authenticator = Authenticator(Book())
        servers = [await authenticator.begin_scram(FIRST, CLIENT) for _ in range(20)]
        return {server.challenge for server in servers if isinstance(server, ScramServer)}

    assert len(asyncio.run(play())) == 20


@pytest.mark.parametrize(
    ("change", "reply"),
    [
        (PasswdEntry("bob", HASH), "250"),
        (PasswdEntry("anna", HASH, disabled=True), "421 4.7.0"),
        (None, "421 4.7.0"),
        (PasswdEntry("anna", hash_password(PASSWORD)), "421 4.7.0"),
    ],
    ids=["another account", "disabled", "removed", "another password"],
)
def test_an_account_that_lost_its_access_sends_nothing_more_on_an_open_session(
    change: PasswdEntry | None, reply: str, stand: Stand
) -> None:
    async def work() -> None:
        async with stand.serve() as running, stand.client(running, "submissions") as client:
            await client.say("EHLO client.example")
            login = base64.b64encode(f"\0anna\0{PASSWORD}".encode()).decode()
            assert (await client.say(f"AUTH PLAIN {login}")).startswith("235")
            assert (await client.say("MAIL FROM:<anna@example.org>")).startswith("250")
            assert (await client.say("RSET")).startswith("250")
            path = stand.directory / "passwd"
            kept = [] if change is None or change.name == "anna" else [path.read_text()]
            lines = [*kept, *([] if change is None else [render_passwd_line(change)])]
            path.write_text("".join(lines))

            assert (await client.say("MAIL FROM:<anna@example.org>")).startswith(reply)

    asyncio.run(work())
