"""SMTP AUTH (RFC 4954): PLAIN (RFC 4616) and LOGIN against the accounts' password file.

Contract
    A password is hashed in a thread, at most PARALLEL_HASHES at once: the event loop never waits for Argon2.
    After MAX_FAILURES failures within WINDOW_SECONDS from one address no password is looked at for a while:
    guessing from many sessions at once gets no further than from one.
    Storage that cannot be read is "cannot tell" (454), never "wrong".
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import enum
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from egressguard.mail.reply import Reply
from egressguard.net.flow import IPAddress, counted_as
from egressguard.smtp import replies

log = logging.getLogger(__name__)

PARALLEL_HASHES = 2  # 19 MiB and a core each: a router has other work to do
WAITING_HASHES = 64
MAX_FAILURES = 10
WINDOW_SECONDS = 600
REMEMBERED_ADDRESSES = 10_000


class Accounts(Protocol):
    def verify(self, name: str, password: str) -> bool:
        """Blocks. Raises OSError when it cannot tell."""
        ...


class Credentials(enum.Enum):
    OK = "ok"
    WRONG = "wrong"
    LIMITED = "limited"
    CANNOT_TELL = "cannot_tell"


class Failures:
    """Failed attempts by address within the last `window_seconds`. Bounded: the longest unseen address goes."""

    def __init__(self, limit: int = MAX_FAILURES, window_seconds: float = WINDOW_SECONDS) -> None:
        self._limit = limit
        self._window_seconds = window_seconds
        self._by_client: OrderedDict[IPAddress, deque[float]] = OrderedDict()

    def add(self, client: IPAddress, now: float) -> None:
        client = counted_as(client)
        self._by_client.setdefault(client, deque(maxlen=self._limit)).append(now)
        self._by_client.move_to_end(client)
        while len(self._by_client) > REMEMBERED_ADDRESSES:
            self._by_client.popitem(last=False)

    def too_many(self, client: IPAddress, now: float) -> bool:
        times = self._by_client.get(counted_as(client))
        return times is not None and len(times) == self._limit and now - times[0] < self._window_seconds


class Authenticator:
    """`check` answers whether a name and a password belong together, for a client at an address."""

    def __init__(self, accounts: Accounts, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._accounts = accounts
        self._clock = clock
        self._failures = Failures()
        self._hashes = asyncio.Semaphore(PARALLEL_HASHES)
        self._waiting = 0

    async def check(self, name: str, password: str, client: IPAddress) -> Credentials:
        if self._failures.too_many(client, self._clock()):
            return Credentials.LIMITED
        if self._waiting >= WAITING_HASHES:
            return Credentials.CANNOT_TELL
        try:
            fits = await self._verify(name, password, client)
        except OSError as wrong:
            log.error("the password file cannot be read", extra={"fields": {"why": str(wrong)}})
            return Credentials.CANNOT_TELL
        if fits is None:
            return Credentials.LIMITED
        if not fits:
            self._failures.add(client, self._clock())
        return Credentials.OK if fits else Credentials.WRONG

    async def _verify(self, name: str, password: str, client: IPAddress) -> bool | None:
        """None: while this one waited for its turn, others from its address used up what is allowed."""
        self._waiting += 1
        try:
            async with self._hashes:
                if self._failures.too_many(client, self._clock()):
                    return None
                return await asyncio.to_thread(self._accounts.verify, name, password)
        finally:
            self._waiting -= 1


class ExchangeFailed(Exception):
    """The exchange ended without credentials; `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


Ask = Callable[[Reply], Awaitable[bytes]]
"""Send a 334 and return the client's line without CRLF."""


async def plain(initial: str, ask: Ask) -> tuple[str, str]:
    """PLAIN: (name, password). Raises ExchangeFailed."""
    message = _decode(initial.encode() if initial else await ask(Reply(334, "", "")))
    parts = message.split("\0")
    if len(parts) != 3:
        raise ExchangeFailed(replies.AUTH_SYNTAX)
    authorization, name, password = parts
    if authorization not in {"", name}:  # nobody may act as somebody else
        raise ExchangeFailed(replies.AUTH_WRONG)
    return name, password


async def login(initial: str, ask: Ask) -> tuple[str, str]:
    """LOGIN: two prompts that everybody ignores, in the words that everybody expects. Raises ExchangeFailed."""
    name = _decode(initial.encode() if initial else await ask(_prompt(b"Username:")))
    password = _decode(await ask(_prompt(b"Password:")))
    return name, password


EXCHANGES: dict[str, Callable[[str, Ask], Awaitable[tuple[str, str]]]] = {"PLAIN": plain, "LOGIN": login}


def _prompt(text: bytes) -> Reply:
    return Reply(334, "", base64.b64encode(text).decode())


def _decode(line: bytes) -> str:
    """RFC 4954 s4: "*" cancels, "=" is the empty string, all else is base64 of UTF-8."""
    if line == b"*":
        raise ExchangeFailed(replies.AUTH_CANCELLED)
    if line == b"=":
        return ""
    try:
        return base64.b64decode(line, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise ExchangeFailed(replies.AUTH_SYNTAX) from None
