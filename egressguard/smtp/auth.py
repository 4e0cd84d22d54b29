"""Who may log in: passwords and SCRAM proofs against the accounts' file, and how often somebody may guess.

Contract
    A password is hashed in a thread, at most PARALLEL_HASHES at once: the event loop never waits for Argon2.
    After MAX_FAILURES failures within WINDOW_SECONDS from one address no password is looked at for a while:
    guessing from many sessions at once gets no further than from one, whatever the mechanism.
    Storage that cannot be read is "cannot tell" (454), never "wrong".
"""

from __future__ import annotations

import asyncio
import enum
import logging
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from egressguard.net.flow import IPAddress, counted_as
from egressguard.smtp.scram import ClientFirst, ScramServer
from egressguard.store.verifier import Verifier

log = logging.getLogger(__name__)

PARALLEL_HASHES = 2  # 19 MiB and a core each: a router has other work to do
WAITING_HASHES = 64
MAX_FAILURES = 10
WINDOW_SECONDS = 600
REMEMBERED_ADDRESSES = 10_000
NONCE_OCTETS = 18


class Accounts(Protocol):
    def verify(self, name: str, password: str) -> bool:
        """Blocks. Raises OSError when it cannot tell."""
        ...

    def offers_scram(self) -> bool:
        """Whether anybody may have a verifier. Quick."""
        ...

    def scram_verifier(self, name: str) -> Verifier | None:
        """Blocks. None: nobody of that name may log in so. Raises OSError when it cannot tell."""
        ...

    def fake_verifier(self, name: str) -> Verifier:
        """What is shown instead of none. Blocks. Raises OSError."""
        ...

    def standing(self, name: str) -> str:
        """What stays the same as long as who logged in by this name may go on; "": he may not. Quick, as long as
        nothing has changed. Raises OSError when it cannot tell."""
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

    @property
    def offers_scram(self) -> bool:
        return self._accounts.offers_scram()

    async def check(self, name: str, password: str, client: IPAddress) -> Credentials:
        if self._failures.too_many(client, self._clock()):
            return Credentials.LIMITED
        if self._waiting >= WAITING_HASHES:
            return Credentials.CANNOT_TELL
        try:
            fits = await self._verify(name, password, client)
        except OSError as wrong:
            return _cannot_tell(wrong)
        if fits is None:
            return Credentials.LIMITED
        return self._counted(fits, client)

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

    async def begin_scram(self, first: ClientFirst, client: IPAddress) -> ScramServer | Credentials:
        """The exchange to go on with, for whatever name; or why there is none."""
        if self._failures.too_many(client, self._clock()):
            return Credentials.LIMITED
        try:
            verifier, fake = await asyncio.to_thread(self._verifiers_of, first.name)
        except OSError as wrong:
            return _cannot_tell(wrong)
        return ScramServer(
            first, verifier or fake, known=verifier is not None, nonce=secrets.token_urlsafe(NONCE_OCTETS)
        )

    async def end_scram(self, name: str, client: IPAddress, *, verifier: Verifier | None) -> Credentials:
        """Count what an exchange came to. `verifier` is the one whose proof was right, None = it was not.

        The account may have been disabled, or its password changed, while the client took its time."""
        if self._failures.too_many(client, self._clock()):
            return Credentials.LIMITED
        try:
            now = await asyncio.to_thread(self._accounts.scram_verifier, name)
        except OSError as wrong:
            return _cannot_tell(wrong)
        return self._counted(verifier is not None and now == verifier, client)

    def standing(self, name: str) -> str | None:
        """As Accounts.standing; None: cannot tell."""
        try:
            return self._accounts.standing(name)
        except OSError as wrong:
            _cannot_tell(wrong)
            return None

    def _verifiers_of(self, name: str) -> tuple[Verifier | None, Verifier]:
        return self._accounts.scram_verifier(name), self._accounts.fake_verifier(name)

    def _counted(self, fits: bool, client: IPAddress) -> Credentials:
        if not fits:
            self._failures.add(client, self._clock())
        return Credentials.OK if fits else Credentials.WRONG


def _cannot_tell(wrong: OSError) -> Credentials:
    log.error("the password file cannot be read", extra={"fields": {"why": str(wrong)}})
    return Credentials.CANNOT_TELL
