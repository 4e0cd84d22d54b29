"""One transaction with a host, by SMTP or LMTP: MAIL, RCPT, DATA or BDAT, and what its replies mean for each recipient.

Contract
    Commands that may be sent together are (RFC 2920): a message takes two round trips.
    Content goes out as it is; for a host without 8BITMIME or BINARYMIME in seven bits, where that breaks nothing
    (smtp.downgrade). What the host cannot take, or what could be taken for two messages, is a permanent outcome here,
    before anything is offered.
    A host without SMTPUTF8 is told of a domain beyond ASCII by its A-labels; local-parts and header sections beyond
    ASCII it does not get (RFC 6531 s3.2).
    A host that answers ahead of the question is not believed: which answer is whose cannot be told (transient).
    `outcomes` grows as the host answers; whoever runs it gives the rest theirs with `end`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import field, replace
from functools import lru_cache

from egressguard.mail.address import ascii_form
from egressguard.mail.envelope import RecipientOptions
from egressguard.mail.outcome import Outcome, Result, one_line, permanent, transient
from egressguard.mail.reply import Reply
from egressguard.mail.xtext import seven_bit_orcpt
from egressguard.smtp.dial import Host
from egressguard.smtp.downgrade import in_seven_bits, needs_seven_bits
from egressguard.smtp.host_wire import HostLost
from egressguard.smtp.stuffing import BadOctets, Stuffing
from egressguard.smtp.transcript import SHOWN_RECIPIENTS, Transcript
from egressguard.store.content import Content
from egressguard.values import value

log = logging.getLogger(__name__)

SLOWEST_OCTETS_PER_SECOND = 16 * 1024
"""A large message gets more time than a small one, as long as it moves at least this fast."""

BAD_OCTETS = permanent("5.6.0", "the message has a bare CR, a bare LF or a NUL")

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_ENHANCED_BEHIND = re.compile(r"\(#([45]\.\d{1,3}\.\d{1,3})\)\.?$")  # qmail's way
_SIZE = re.compile(r"[0-9]{1,20}")  # RFC 1870 s4; what is longer is no limit to any message
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@value(frozen=True, slots=True)
class Transaction:
    """What goes in one MAIL/RCPT/DATA. Paths are without brackets, the null reverse-path is ""; the rest as in
    mail.envelope.Envelope."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    content: Content
    smtputf8: bool = False
    body_8bit: bool = False
    binary: bool = False
    requiretls: bool = False
    ret: str | None = None
    envid: str | None = None
    options: Mapping[str, RecipientOptions] = field(default_factory=dict)


@value(frozen=True, slots=True)
class Patience:
    """Seconds. RFC 5321 s4.5.3.2 asks for 300 a command and 600 for the final dot."""

    connect_seconds: float = 30
    command_seconds: float = 300
    data_seconds: float = 600
    whole_seconds: float = 3600

    @staticmethod
    def of(attempt_timeout_seconds: float) -> Patience:
        """From the one number the rules have: the time for a command."""
        seconds = attempt_timeout_seconds
        return Patience(min(30, seconds), seconds, 2 * seconds, 12 * seconds)

    def for_data(self, size_octets: int) -> float:
        return self.data_seconds + size_octets / SLOWEST_OCTETS_PER_SECOND

    def whole(self, size_octets: int) -> float:
        return self.whole_seconds + size_octets / SLOWEST_OCTETS_PER_SECOND


class Transfer:
    """`begun`: the host answered MAIL; `answered`: it said anything at all; `concluded`: the transaction has come to
    its end in order, and the next one may follow on the same connection."""

    def __init__(self, transaction: Transaction, host_name: str, patience: Patience) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.begun = False
        self.answered = False
        self.concluded = False
        self.tells_delivery = False
        self.final = False
        self._ascii_only = False
        self.transcript = Transcript()
        self._transaction = transaction
        self._name = host_name
        self._patience = patience
        self._clock = asyncio.get_running_loop().time
        self._ends_at = 0.0
        self._dotted = b""
        self._recipients_heard = 0

    def _seconds(self, most: float) -> float:
        """How long to wait for the next thing: `most`, or what is left of the whole."""
        return min(most, self._ends_at - self._clock())

    def end(self, outcome: Outcome) -> None:
        """Whoever has no outcome yet gets this one."""
        for path in self._transaction.forward_paths:
            self.outcomes.setdefault(path, outcome)

    async def run(self, host: Host) -> None:
        """Raises HostLost, TimeoutError; OSError when our own content cannot be read."""
        host.transactions += 1
        self._ends_at = self._clock() + self._patience.whole(self._transaction.content.size_octets)
        self._ascii_only = not host.offers("smtputf8")
        if needs_seven_bits(self._transaction.content, host, binary=self._transaction.binary):
            self._transaction = await self._in_seven_bits()
        if (unfit := self._unfit(host)) is not None:
            self.begun = self.answered = True
            return self.end(unfit)
        if self._transaction.binary:
            return await self._run_chunked(host)
        if (bad := self._prepared()) is not None:
            self.begun = self.answered = True
            return self.end(bad)
        mail, paths = self._mail(host), self._deliverable()
        lines = [mail, *(self._rcpt(path) for path in paths)]
        if host.offers("pipelining"):
            self._ask(host, b"".join(lines) + b"DATA\r\n")
            taken = await self._hear_envelope(host, paths)
            await self._hear_data(host, taken)
        else:
            await self._one_by_one(host, lines, paths)

    # What the host can take.

    async def _in_seven_bits(self) -> Transaction:
        """The transaction as it is when its content has to stay so."""
        content = await in_seven_bits(self._transaction.content)
        if content is None:
            return self._transaction
        log.info("content goes in seven bits", extra={"fields": {"host": self._name}})
        return replace(self._transaction, content=content, body_8bit=False, binary=False)

    def _unfit(self, host: Host) -> Outcome | None:
        transaction = self._transaction
        content, requiretls = transaction.content, transaction.requiretls
        if _CONTROL.search(transaction.reverse_path):
            return permanent("5.1.7", "the sender's address has control characters")
        if self._ascii_only and not _has_ascii_form(transaction):
            return permanent("5.6.7", "the next host cannot take internationalized mail", self._name)
        if transaction.binary and not (host.offers("binarymime") and host.offers("chunking")):
            return permanent("5.6.3", "the next host cannot take binary content, which must not be changed", self._name)
        if not content.is_ascii and not transaction.binary and not host.offers("8bitmime"):
            return permanent("5.6.3", "the next host cannot take 8-bit content, which must not be changed", self._name)
        if requiretls and not (host.verified and host.offers("requiretls")):  # RFC 8689 s4.2.1
            return permanent("5.7.30", "the next host does not support REQUIRETLS", self._name)
        limit = host.parameter("size")
        if _SIZE.fullmatch(limit) and 0 < int(limit) < content.size_octets:  # RFC 1870 s4: 0 = no fixed limit
            return permanent("5.3.4", f"the next host takes {limit} octets at most", self._name)
        self.tells_delivery, self.final = host.offers("dsn"), host.lmtp
        return None

    def _prepared(self) -> Outcome | None:
        """Content that lies in memory is looked at before a word of it is offered; a file while it is sent."""
        content, stuffing = self._transaction.content, Stuffing()
        if content.file is None:
            try:
                self._dotted = stuffing.add(content.whole()) + stuffing.end()
            except BadOctets:
                return BAD_OCTETS
        return None

    def _deliverable(self) -> list[str]:
        paths = []
        for path in self._transaction.forward_paths:
            if _CONTROL.search(path):
                self.outcomes[path] = permanent("5.1.3", "the address has control characters")
            else:
                paths.append(path)
        return paths

    # The commands.

    def _mail(self, host: Host) -> bytes:
        transaction = self._transaction
        line = f"MAIL FROM:<{self._written(transaction.reverse_path)}>"
        if host.offers("size"):
            line += f" SIZE={transaction.content.size_octets}"
        if transaction.binary:
            line += " BODY=BINARYMIME"
        elif not transaction.content.is_ascii:
            line += " BODY=8BITMIME"
        if not self._ascii_only and _needs_utf8(transaction):
            line += " SMTPUTF8"
        if transaction.requiretls:
            line += " REQUIRETLS"
        if self.tells_delivery:
            line += f" RET={transaction.ret}" if transaction.ret else ""
            line += f" ENVID={transaction.envid}" if transaction.envid else ""
        return line.encode() + b"\r\n"

    def _rcpt(self, path: str) -> bytes:
        line = f"RCPT TO:<{self._written(path)}>"
        options = self._transaction.options.get(path)
        if options is not None and self.tells_delivery:
            line += f" NOTIFY={','.join(options.notify)}" if options.notify else ""
            line += f" ORCPT={self._original(options.orcpt)}" if options.orcpt else ""
        return line.encode() + b"\r\n"

    def _written(self, path: str) -> str:
        return (ascii_form(path) or path) if self._ascii_only else path

    def _original(self, orcpt: str) -> str:
        return seven_bit_orcpt(orcpt) if self._ascii_only else orcpt

    async def _one_by_one(self, host: Host, lines: list[bytes], paths: list[str]) -> None:
        self._ask(host, lines[0])
        refused = await self._hear(host)
        self.begun = True
        if refused.result is not Result.DELIVERED:
            return self.end(refused)
        taken = []
        for path, line in zip(paths, lines[1:], strict=True):
            self._ask(host, line, shown=self._recipients_heard < SHOWN_RECIPIENTS)
            if await self._heard_recipient(host, path):
                taken.append(path)
        if taken:
            self._ask(host, b"DATA\r\n")
            await self._hear_data(host, taken)

    async def _hear_envelope(self, host: Host, paths: list[str]) -> list[str]:
        """The replies to a group that began with MAIL: who was taken."""
        refused = await self._hear(host)
        self.begun = True
        taken = [path for path in paths if await self._heard_recipient(host, path)]
        if refused.result is not Result.DELIVERED:
            self.outcomes.update(dict.fromkeys(paths, refused))
            return []
        return taken

    async def _heard_recipient(self, host: Host, path: str) -> bool:
        self._recipients_heard += 1
        reply = await self._hear(host, shown=self._recipients_heard <= SHOWN_RECIPIENTS)
        if reply.result is Result.DELIVERED:
            return True
        self.outcomes[path] = reply
        return False

    def _ask(self, host: Host, commands: bytes, *, shown: bool = True) -> None:
        self._mistrust_if_ahead(host)
        self._say(host, commands, shown=shown)

    def _say(self, host: Host, commands: bytes, *, shown: bool = True) -> None:
        if shown:
            self.transcript.said(commands)
        host.wire.write(commands)

    def _mistrust_if_ahead(self, host: Host) -> None:
        """Raises HostLost."""
        if host.wire.is_ahead:
            self._forget_answers()
            raise HostLost("the host answers ahead of the question")

    def _forget_answers(self) -> None:
        """What the host said of one recipient may have been said of another: only what we know ourselves stands."""
        self.outcomes = {path: outcome for path, outcome in self.outcomes.items() if not outcome.said_by}

    async def _hear(self, host: Host, *, shown: bool = True) -> Outcome:
        code, text = await self._reply(host, self._patience.command_seconds, shown=shown)
        self.answered = True
        return of_reply(code, text, self._name)

    async def _reply(self, host: Host, most_seconds: float, *, shown: bool = True) -> tuple[int, str]:
        code, text = await host.wire.reply(self._seconds(most_seconds))
        if shown:
            self.transcript.heard(code, text)
        else:
            self.transcript.heard_further(code)
        return code, text

    # The content.

    async def _hear_data(self, host: Host, taken: list[str]) -> None:
        code, text = await self._reply(host, self._patience.command_seconds)
        self.answered = True
        self._mistrust_if_ahead(host)
        if code == 354 and not taken:  # RFC 2920 s3.1: it wants a message for nobody, and gets an empty one
            self._say(host, b".\r\n")
            if host.lmtp:
                return  # RFC 2033 s4.2 wants 503 here; an answer for each of nobody is none
            await self._reply(host, self._patience.command_seconds)
            self.concluded = True
            return
        if code != 354:
            outcome = of_reply(code, text, self._name)
            if outcome.result is Result.DELIVERED:  # 2yz where 354 belongs: nothing was handed over
                self._forget_answers()  # it may be a recipient's, and theirs somebody else's
                return self.end(transient("4.5.0", f"unexpected reply {code} to DATA", self._name))
            self.outcomes.update(dict.fromkeys(taken, outcome))
            return
        self.transcript.noted(f"{self._transaction.content.size_octets} octets of content")
        early = False
        try:
            early = await self._send_dotted(host)
        except HostLost:
            early = host.wire.is_ahead
            if not early:
                raise
        except BadOctets:
            self.transcript.noted(BAD_OCTETS.text)
            host.wire.close()  # before the final dot: the host has no message
            self.outcomes.update(dict.fromkeys(taken, BAD_OCTETS))
            return
        await self._hear_end(host, taken, early=early)

    async def _hear_end(self, host: Host, taken: list[str], *, early: bool = False) -> None:
        """`early`: it answered before the message's end. It may refuse so, but not take what it has not got."""
        seconds, code = self._patience.for_data(self._transaction.content.size_octets), 421
        groups = [[path] for path in taken] if host.lmtp and not early else [taken]  # RFC 2033 s4.2: one for each
        for number, paths in enumerate(groups):
            code, text = await self._reply(host, seconds, shown=number < SHOWN_RECIPIENTS)
            outcome = of_reply(code, text, self._name)
            if early and outcome.result is Result.DELIVERED:
                outcome = transient("4.5.0", f"unexpected reply {code} before the end of the message", self._name)
            self.outcomes.update(dict.fromkeys(paths, outcome))
        self.concluded = code != 421 and not early

    async def _send_dotted(self, host: Host) -> bool:
        """Whether the host answered before the end of what was sent."""
        content, stuffing = self._transaction.content, Stuffing()
        if content.file is None:
            host.wire.write(self._dotted)
            return False
        async for piece in _pieces(content):
            host.wire.write(stuffing.add(piece))
            await self._drain(host)
        early = host.wire.is_ahead
        host.wire.write(stuffing.end())
        return early

    async def _run_chunked(self, host: Host) -> None:
        """Binary content, by BDAT (RFC 3030): each piece is a chunk, an empty one is the last."""
        paths = self._deliverable()
        self._say(host, b"".join([self._mail(host), *(self._rcpt(path) for path in paths)]))
        taken = await self._hear_envelope(host, paths)
        if not taken:
            return
        self.transcript.noted(f"{self._transaction.content.size_octets} octets of content, by BDAT")
        async for piece in _pieces(self._transaction.content):
            host.wire.write(b"BDAT %d\r\n" % len(piece) + piece)
            await self._drain(host)
            code, text = await host.wire.reply(self._seconds(self._patience.command_seconds))
            refused = of_reply(code, text, self._name)
            if refused.result is not Result.DELIVERED:
                self.transcript.heard(code, text)
                self.outcomes.update(dict.fromkeys(taken, refused))
                return
        self._say(host, b"BDAT 0 LAST\r\n")
        await self._hear_end(host, taken)

    async def _drain(self, host: Host) -> None:
        async with asyncio.timeout(self._seconds(self._patience.for_data(0))):
            await host.wire.drain()


def _needs_utf8(transaction: Transaction) -> bool:
    """RFC 6531 s3.4: paths or header section beyond ASCII; the client's word SMTPUTF8 alone does not count."""
    paths = (transaction.reverse_path, *transaction.forward_paths)
    return not all(path.isascii() for path in paths) or _has_utf8_header(transaction)


def _has_ascii_form(transaction: Transaction) -> bool:
    """Whether it can go without SMTPUTF8."""
    paths = (transaction.reverse_path, *transaction.forward_paths)
    has_form = "".join(paths).isascii() or all(ascii_form(path) is not None for path in paths)
    return has_form and not _has_utf8_header(transaction)


def _has_utf8_header(transaction: Transaction) -> bool:
    content = transaction.content
    return transaction.smtputf8 and not content.is_ascii and not content.header_section().isascii()


async def _pieces(content: Content) -> AsyncIterator[bytes]:
    """The content's pieces, read from its file in a thread."""
    pieces = content.pieces()
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


@lru_cache(64)  # a host has few replies to all but the content
def of_reply(code: int, message: str, said_by: str) -> Outcome:
    """The outcome that a reply means; codes that RFC 5321 does not know mean "try again"."""
    text = one_line(message)
    if not (200 <= code <= 299 or 400 <= code <= 599):
        return transient("4.5.0", f"unexpected reply {code} {text}", said_by)
    before = _ENHANCED.match(text)
    found = before or (_ENHANCED_BEHIND.search(text) if code >= 400 else None)
    status = found[1] if found and found[1][0] == str(code)[0] else ""
    words = text[before.end() :] if before and status else text
    return Outcome.of_reply(Reply(code, status, words), said_by)
