"""AUTH: exchanges, and who gets how many guesses."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import threading
from collections.abc import Awaitable, Callable

import pytest

from egressguard.mail.reply import Reply
from egressguard.smtp.auth import (
    EXCHANGES,
    MAX_FAILURES,
    PARALLEL_HASHES,
    REMEMBERED_ADDRESSES,
    WINDOW_SECONDS,
    Authenticator,
    Credentials,
    ExchangeFailed,
    Failures,
)

CLIENT = ipaddress.IPv4Address("192.0.2.7")
OTHER = ipaddress.IPv6Address("2001:db8::7")


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


def answering(*lines: bytes) -> Callable[[Reply], Awaitable[bytes]]:
    waiting = list(lines)

    async def ask(reply: Reply) -> bytes:
        assert reply.code == 334
        return waiting.pop(0)

    return ask


def exchange(mechanism: str, initial: str, *lines: bytes) -> tuple[str, str]:
    async def play() -> tuple[str, str]:
        return await EXCHANGES[mechanism](initial, answering(*lines))

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("mechanism", "initial", "lines"),
    [
        ("PLAIN", b64("\0anna\0secret").decode(), ()),
        ("PLAIN", "", (b64("\0anna\0secret"),)),
        ("PLAIN", "", (b64("anna\0anna\0secret"),)),
        ("LOGIN", "", (b64("anna"), b64("secret"))),
        ("LOGIN", b64("anna").decode(), (b64("secret"),)),
    ],
)
def test_name_and_password(mechanism: str, initial: str, lines: tuple[bytes, ...]) -> None:
    assert exchange(mechanism, initial, *lines) == ("anna", "secret")


@pytest.mark.parametrize(
    ("mechanism", "initial", "lines", "code"),
    [
        ("PLAIN", "", (b"*",), "501 5.7.0"),
        ("PLAIN", "", (b"not base64",), "501 5.5.2"),
        ("PLAIN", "=", (), "501 5.5.2"),
        ("PLAIN", b64("anna").decode(), (), "501 5.5.2"),
        ("PLAIN", b64("\0a\0b\0c").decode(), (), "501 5.5.2"),
        ("PLAIN", b64("root\0anna\0secret").decode(), (), "535 5.7.8"),
        ("PLAIN", base64.b64encode(b"\0\xff\0x").decode(), (), "501 5.5.2"),
        ("PLAIN", "\xe9", (), "501 5.5.2"),
        ("LOGIN", "", (b64("anna"), b"*"), "501 5.7.0"),
    ],
)
def test_exchanges_that_fail(mechanism: str, initial: str, lines: tuple[bytes, ...], code: str) -> None:
    with pytest.raises(ExchangeFailed) as failed:
        exchange(mechanism, initial, *lines)
    assert str(failed.value.reply).startswith(code)


class Book:
    """Accounts that count how many are looked up at once."""

    def __init__(self, error: OSError | None = None) -> None:
        self.asked = 0
        self.at_once = 0
        self.most_at_once = 0
        self._error = error
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
