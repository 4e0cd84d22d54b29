"""The client side of SMTP, on aiosmtplib: one transaction with one host, one Outcome per recipient.

Contract
    `send` never raises for anything a peer does; what is not certain is transient.
    A reply that is lost after the final dot is in doubt: transient (RFC 5321 s4.5.5: better twice than never).
    starttls and implicit verify the certificate or do not send; opportunistic encrypts if it can, else goes plain.
    A password is sent over TLS only (or to ourselves, where the rules say tls: none). A refused password is
    transient: the administrator will mend it.
    Everything has an end: dialling, each command, the message by its size, and the whole by Patience.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import aiosmtplib

from egressguard.mail.header import split_header_section
from egressguard.mail.outcome import Outcome, Result, permanent, transient
from egressguard.mail.reply import Reply
from egressguard.smtp.dial import Connection, ConnectionFailed, Peer, TlsFailed, is_loopback, open_connection

__all__ = ["Patience", "Peer", "Sent", "SmtpClient", "Transaction", "send"]

log = logging.getLogger(__name__)

SLOWEST_OCTETS_PER_SECOND = 16 * 1024
"""A large message gets more time than a small one, as long as it moves at least this fast."""
QUIT_SECONDS = 5
REPLY_CHARACTERS = 500
BROKEN_TLS_SECONDS = 3600
BROKEN_TLS_HOSTS = 1000

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Transaction:
    """What goes in one MAIL/RCPT/DATA. Paths are without brackets, the null reverse-path is ""."""

    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    smtputf8: bool = False
    body_8bit: bool = False


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Sent:
    """`outcomes` has every recipient. `begun`: the host took part in a transaction, so what it said stands; else
    nothing of the message was offered to it, and another host may be tried at once."""

    outcomes: Mapping[str, Outcome]
    begun: bool


Send = Callable[[Transaction, Peer, str, Patience], Awaitable[Sent]]


class SmtpClient:
    """Remembers hosts whose STARTTLS is broken, so that opportunistic TLS does not fail first every time."""

    def __init__(self) -> None:
        self._broken_tls: OrderedDict[str, float] = OrderedDict()

    async def send(self, transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
        """Try to hand `transaction` to `peer`. Every forward-path has an outcome in the answer."""
        dialogue = _Dialogue(transaction, peer, patience)
        try:
            allowed = patience.whole_seconds + len(transaction.content) / SLOWEST_OCTETS_PER_SECOND
            async with asyncio.timeout(allowed):
                connection = await self._connect(peer, ehlo_name, patience)
                try:
                    await dialogue.run(connection)
                finally:
                    connection.close()
        except TimeoutError:
            dialogue.end(transient("4.4.2", "the host did not answer in the time allowed", peer.name))
        except ConnectionFailed as failed:
            dialogue.end(failed.outcome)
        except (aiosmtplib.SMTPException, OSError, ValueError) as wrong:
            dialogue.end(transient("4.4.2", _words(wrong), peer.name))
        return Sent(dialogue.outcomes, dialogue.begun)

    async def _connect(self, peer: Peer, ehlo_name: str, patience: Patience) -> Connection:
        """An EHLO'd and (as `peer.tls` asks) encrypted connection to the first address that gives one."""
        last = ConnectionFailed(transient("4.4.1", "no address to dial", peer.name))
        for address in peer.addresses:
            try:
                return await self._open(peer, address, ehlo_name, patience)
            except ConnectionFailed as failed:
                last = failed
        raise last

    async def _open(self, peer: Peer, address: str, ehlo_name: str, patience: Patience) -> Connection:
        seconds = (patience.connect_seconds, patience.command_seconds)
        if peer.tls != "opportunistic":
            return await open_connection(peer, address, ehlo_name, *seconds, encrypt=peer.tls != "none")
        if not self._is_broken(peer.name):
            try:
                return await open_connection(peer, address, ehlo_name, *seconds, encrypt=True)
            except TlsFailed as failed:
                self._remember_broken(peer.name)
                fields = {"host": peer.name, "why": failed.outcome.text}
                log.info("STARTTLS is offered there but does not work, going plain", extra={"fields": fields})
        return await open_connection(peer, address, ehlo_name, *seconds, encrypt=False)

    def _is_broken(self, host: str) -> bool:
        return self._broken_tls.get(host, 0.0) > asyncio.get_running_loop().time()

    def _remember_broken(self, host: str) -> None:
        self._broken_tls[host] = asyncio.get_running_loop().time() + BROKEN_TLS_SECONDS
        self._broken_tls.move_to_end(host)
        if len(self._broken_tls) > BROKEN_TLS_HOSTS:
            self._broken_tls.popitem(last=False)


async def send(transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
    """As SmtpClient.send, without a memory."""
    return await SmtpClient().send(transaction, peer, ehlo_name, patience)


@dataclass(slots=True)
class _Dialogue:
    """One transaction over an open connection; `outcomes` grows as the host answers."""

    transaction: Transaction
    peer: Peer
    patience: Patience
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    begun: bool = False

    def end(self, outcome: Outcome) -> None:
        """Whoever has no outcome yet gets this one."""
        for path in self.transaction.forward_paths:
            self.outcomes.setdefault(path, outcome)

    async def run(self, connection: Connection) -> None:
        if (missing := self._missing_extension(connection)) is not None:
            self.begun = True
            return self.end(missing)
        if (locked_out := await self._log_in(connection)) is not None:
            return self.end(locked_out)
        refused = await self._mail(connection)
        self.begun = True
        if refused is not None:
            self.end(refused)
        elif taken := await self._recipients(connection):
            await self._data(connection, taken)
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            # The message is safe or it is not by now; a rude goodbye changes nothing.
            await connection.command(b"QUIT", QUIT_SECONDS)

    def _missing_extension(self, connection: Connection) -> Outcome | None:
        content = self.transaction.content
        if self._needs_utf8() and not connection.offers("smtputf8"):
            return permanent("5.6.7", "the next host cannot take internationalized mail", self.peer.name)
        if not content.isascii() and not connection.offers("8bitmime"):
            return permanent("5.6.3", "the next host cannot take 8-bit content", self.peer.name)
        limit = connection.parameter("size")
        if limit.isdigit() and 0 < int(limit) < len(content):  # RFC 1870 s4: 0 = no fixed limit
            return permanent("5.3.4", f"the next host takes {limit} octets at most", self.peer.name)
        return None

    def _needs_utf8(self) -> bool:
        """RFC 6531 s3.4: paths or header section beyond ASCII; the client's word SMTPUTF8 alone does not count."""
        paths = (self.transaction.reverse_path, *self.transaction.forward_paths)
        if not all(path.isascii() for path in paths):
            return True
        return self.transaction.smtputf8 and not split_header_section(self.transaction.content)[0].isascii()

    async def _log_in(self, connection: Connection) -> Outcome | None:
        """None when we are in or need not be. What goes wrong here is ours to mend, so it is transient."""
        peer = self.peer
        if peer.user is None or peer.password is None:
            return None
        if not connection.encrypted and not (peer.tls == "none" and is_loopback(connection.address)):
            return transient("4.7.0", "the connection has no TLS, so the password was not sent", peer.name)
        try:
            await connection.log_in(peer.user, peer.password, self.patience.command_seconds)
        except aiosmtplib.SMTPAuthenticationError as refused:
            words = f"the login was refused: {refused.code} {one_line(refused.message)}"
            return transient("4.7.8", words, peer.name)
        except aiosmtplib.SMTPServerDisconnected:
            raise
        except aiosmtplib.SMTPException as wrong:
            return transient("4.7.0", f"no way to log in: {_words(wrong)}", peer.name)
        return None

    async def _mail(self, connection: Connection) -> Outcome | None:
        parameters = b""
        if connection.offers("size"):
            parameters += b" SIZE=%d" % len(self.transaction.content)
        if not self.transaction.content.isascii():
            parameters += b" BODY=8BITMIME"
        if self._needs_utf8():
            parameters += b" SMTPUTF8"
        reply = await self._command(connection, "MAIL FROM", self.transaction.reverse_path, parameters)
        return None if reply.result is Result.DELIVERED else reply

    async def _recipients(self, connection: Connection) -> list[str]:
        taken = []
        for path in self.transaction.forward_paths:
            reply = await self._command(connection, "RCPT TO", path)
            if reply.result is Result.DELIVERED:
                taken.append(path)
            else:
                self.outcomes[path] = reply
        return taken

    async def _command(self, connection: Connection, verb: str, path: str, parameters: bytes = b"") -> Outcome:
        if _CONTROL.search(path):
            return permanent("5.1.3", "the address has control characters")
        line = f"{verb}:<{path}>".encode() + parameters
        code, text = await connection.command(line, self.patience.command_seconds)
        return of_reply(code, text, self.peer.name)

    async def _data(self, connection: Connection, taken: list[str]) -> None:
        seconds = self.patience.for_data(len(self.transaction.content))
        try:
            code, text = await connection.data(self.transaction.content, seconds)
            outcome = of_reply(code, text, self.peer.name)
        except aiosmtplib.SMTPDataError as refused:
            outcome = of_reply(refused.code, refused.message, self.peer.name)
            if outcome.result is Result.DELIVERED:  # 2yz where 354 belongs: nothing was handed over
                outcome = transient("4.5.0", f"unexpected reply {refused.code} to DATA", self.peer.name)
        for path in taken:
            self.outcomes[path] = outcome


def of_reply(code: int, message: str, said_by: str) -> Outcome:
    """The outcome that a reply means; codes that RFC 5321 does not know mean "try again"."""
    text = one_line(message)
    if not (200 <= code <= 299 or 400 <= code <= 599):
        return transient("4.5.0", f"unexpected reply {code} {text}", said_by)
    found = _ENHANCED.match(text)
    status = found[1] if found and found[1][0] == str(code)[0] else ""
    words = text[found.end() :] if found and status else text
    return Outcome.of_reply(Reply(code, status, words), said_by)


def one_line(text: str) -> str:
    """Visible characters on one line, cut to a length that fits a log line and a DSN."""
    visible = "".join(c if c.isprintable() else " " for c in text[: 4 * REPLY_CHARACTERS])
    return " ".join(visible.split())[:REPLY_CHARACTERS]


def _words(wrong: BaseException) -> str:
    return one_line(str(wrong)) or type(wrong).__name__
