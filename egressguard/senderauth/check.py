"""All checks of who sent a message, at once: SPF, DKIM, DMARC, ARC.

Contract
    `check` never raises and takes `deadline_seconds` at most; what is not known by then is "temperror".
    DNS is asked on the event loop, at most MOST_QUESTIONS times for a message; the processor's work is done in a few
    threads, which never wait. Each check has questions of its own: none can use up another's.
    Pieces of work given to a thread are bounded in octets, so that one that nobody waits for any more ends soon.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter

from egressguard.mail.header import HEADER_OCTETS
from egressguard.net.flow import IPAddress, plain_address
from egressguard.policy.fields import AuthResult
from egressguard.senderauth import author_policy, chain, sender_policy, signatures
from egressguard.senderauth.author import Author, author_of
from egressguard.senderauth.message import Message, Octets
from egressguard.senderauth.resolver import Questions, Resolver
from egressguard.senderauth.verdict import SenderAuthentication, Verdict, overall
from egressguard.senderauth.workers import THREADS, Workers

log = logging.getLogger(__name__)

T = TypeVar("T")

DEADLINE_SECONDS = 20.0
"""RFC 7208 s4.6.4 asks for at least this much before an evaluation is given up."""
ARC_QUESTIONS = chain.MOST_SETS + 1
MOST_QUESTIONS = (
    2 * sender_policy.MOST_QUESTIONS + signatures.MOST_SIGNATURES + author_policy.MOST_QUESTIONS + ARC_QUESTIONS
)


class Checker:
    """One a process. `close` ends its threads."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        threads: int = THREADS,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._resolver = resolver
        self._deadline_seconds = deadline_seconds
        self._workers = Workers(threads)
        self._clock = clock
        self._results = _results(registry) if registry else None

    def close(self) -> None:
        self._workers.close()

    async def check(
        self, client: IPAddress | None, helo: str, reverse_path: str, content: Octets | None, header_section: bytes
    ) -> SenderAuthentication:
        """`client` None = nobody knows who sent it: SPF is "none". `reverse_path` "" = the null one.

        `content` begins with `header_section`, has CRLF line ends, no dot-stuffing; None = it cannot be read: then
        signatures are "policy". DMARC does not fail for what might have passed, had it been looked at."""
        message = Message(header_section, content)
        (spf, helo_spf), dkim, arc, (author, published) = await asyncio.gather(
            self._both_spf(client, helo, reverse_path),
            self._dkim(message),
            self._arc(message),
            self._author_and_policy(message),
        )
        dmarc, aligned = author_policy.judge(
            author, published, spf, dkim, whole=message.whole, client_known=client is not None
        )
        result = SenderAuthentication(spf, helo_spf, dkim, dmarc, arc, published.policy, aligned)
        self._count(result)
        return result

    async def _both_spf(self, client: IPAddress | None, helo: str, reverse_path: str) -> tuple[Verdict, Verdict]:
        if client is None:
            shown = sender_policy.mail_from("", helo, reverse_path).property
            unknown = Verdict("spf", "none", "who sent it is not known", (shown,))
            return unknown, unknown
        address = str(plain_address(str(client)))
        identity, alone = sender_policy.mail_from(address, helo, reverse_path), sender_policy.helo_name(address, helo)
        if identity == alone:
            spf = await self._spf(identity)
            return spf, spf
        spf, helo_spf = await asyncio.gather(self._spf(identity), self._spf(alone))
        return spf, helo_spf

    async def _spf(self, identity: sender_policy.Identity) -> Verdict:
        def trouble(reason: str) -> Verdict:
            return Verdict("spf", "temperror", reason, (identity.property,))

        questions = Questions(self._resolver, sender_policy.MOST_QUESTIONS)
        return await self._bounded(sender_policy.check_spf(identity, questions, self._workers), trouble)

    async def _dkim(self, message: Message) -> tuple[Verdict, ...]:
        questions = Questions(self._resolver, signatures.MOST_SIGNATURES)
        work = signatures.check_dkim(message, questions, self._workers, self._clock())
        return await self._bounded(work, lambda reason: (Verdict("dkim", "temperror", reason),))

    async def _arc(self, message: Message) -> Verdict:
        work = chain.check_arc(message, Questions(self._resolver, ARC_QUESTIONS), self._workers, self._clock())
        return await self._bounded(work, lambda reason: Verdict("arc", "temperror", reason))

    async def _author_and_policy(self, message: Message) -> tuple[Author, author_policy.Published]:
        async def work() -> tuple[Author, author_policy.Published]:
            # Only where the header section ended at a broken line does it matter what stands behind it.
            rest = b"" if message.rest(2) in (b"", b"\r\n") else message.rest(HEADER_OCTETS)
            author = await self._workers.run(author_of, message.header_section, rest)
            questions = Questions(self._resolver, author_policy.MOST_QUESTIONS)
            return author, await author_policy.find_policy(author, questions)

        def trouble(reason: str) -> tuple[Author, author_policy.Published]:
            return Author("", reason), author_policy.Published(None, Verdict("dmarc", "temperror", reason))

        return await self._bounded(work(), trouble)

    async def _bounded(self, work: Awaitable[T], trouble: Callable[[str], T]) -> T:
        try:
            async with asyncio.timeout(self._deadline_seconds):
                return await work
        except TimeoutError:
            return trouble(f"not known within {self._deadline_seconds:g} s")
        except Exception:  # the one place: one check's fault is its "temperror", the others go on
            log.exception("a check of the sender failed")
            return trouble("fault of our own")

    def _count(self, result: SenderAuthentication) -> None:
        if self._results:
            for verdict in (result.spf, overall(result.dkim), result.dmarc, result.arc):
                self._results.labels(verdict.method, verdict.result).inc()


def _results(registry: CollectorRegistry) -> Counter:
    counter = Counter(
        "egressguard_senderauth_results_total",
        "Messages from outside by check (spf, dkim, dmarc, arc) and result in the words of RFC 8601.",
        ["method", "result"],
        registry=registry,
    )
    words: tuple[AuthResult, ...] = ("none", "pass", "fail", "temperror", "permerror")
    for method in ("spf", "dkim", "dmarc", "arc"):
        for word in words:
            counter.labels(method, word)
    return counter
