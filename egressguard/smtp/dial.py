"""From an address to a host that is greeted, EHLO'd, encrypted and logged in to, where these are asked for.

Contract
    Whatever goes wrong before a transaction is ConnectionFailed with a transient outcome: a host that does not want
    us today says nothing about the recipient (a 5yz greeting speaks for this host only, RFC 5321 s3.1, s4.2.1).
    TlsFailed only when TLS itself is the trouble; opportunistic callers may then go plain.
    What a peer demands of TLS is checked before another word is said to the host: nothing is sent to one that fails.
    The socket is closed on every way out but the good one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import socket
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, cast

import aiosmtplib

from egressguard.mail.outcome import Outcome, one_line, transient
from egressguard.smtp import dane
from egressguard.smtp.certificates import (
    Asked,
    OwnCertificate,
    carries_name,
    client_context,
    presented,
    trouble_of,
)
from egressguard.smtp.dane import Tlsa
from egressguard.smtp.host_wire import HostWire
from egressguard.smtp.recording import RecordingSMTP, tls_words
from egressguard.smtp.transcript import Dialogue, Transcript
from egressguard.smtp.waiting import Ticker
from egressguard.values import value

TlsMode = Literal["none", "opportunistic", "encrypt", "dane", "starttls", "implicit"]
"""opportunistic: STARTTLS if it works; encrypt: STARTTLS, whoever answers; dane: STARTTLS, and the host matches `tlsa`;
starttls and implicit: its certificate is verified."""
VERIFYING = frozenset({"dane", "starttls", "implicit"})


KINDS = ("none", "opportunistic", "encrypt", "verify", "dane", "mta-sts")


@dataclass(frozen=True, slots=True)
class TlsTerms:
    """Where the demands on a host's TLS come from, for counting and telling: RFC 8460 has the words.

    `kind` is one of KINDS; `domain`: whose mail the host takes; `text`: the TLSA records, or the lines of the MTA-STS
    policy, and `mx` its patterns; `fault`: what is wrong there."""

    kind: str
    domain: str = ""
    text: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()
    fault: str = ""


@value(frozen=True, slots=True)
class Peer:
    """A host to dial: `addresses` (IP, or a Unix socket's path) are tried in order. One that speaks LMTP (RFC 2033)
    answers for each recipient after the content. Its certificate must carry one of `names`; () = `name`.

    `server_name` is what it is called in the handshake (SNI), where that is not its name; `ours` is our certificate.
    `trial`, with opportunistic: whether it could be verified is found out first, and told."""

    name: str
    addresses: tuple[str, ...]
    port: int
    tls: TlsMode = "opportunistic"
    ca_file: str | None = None
    user: str | None = None
    password: str | None = None
    lmtp: bool = False
    names: tuple[str, ...] = ()
    tlsa: tuple[Tlsa, ...] = ()
    server_name: str = ""
    trial: bool = False
    ours: OwnCertificate | None = None
    terms: TlsTerms | None = field(default=None, compare=False)
    smart_host: str = ""  # its name in the rules

    def __repr__(self) -> str:
        return f"Peer({self.name!r}, {self.addresses!r}, {self.port}, tls={self.tls!r}, user={self.user!r})"


class ConnectionFailed(Exception):
    """No transaction with this host at this time. Its words, if there are any, become one visible line."""

    dialogue: Dialogue | None = None

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = dataclasses.replace(outcome, text=one_line(outcome.text))
        super().__init__(self.outcome.text)


class TlsFailed(ConnectionFailed):
    """The host answers, but TLS with it does not work, or is not enough. `trouble` in the words of RFC 8460 s4.3."""

    def __init__(self, outcome: Outcome, trouble: str = "validation-failure") -> None:
        super().__init__(outcome)
        self.trouble = trouble


class Host:
    """A host that is ready for transactions: what it offers, and the wire to it."""

    def __init__(
        self,
        client: aiosmtplib.SMTP,
        address: str,
        ticker: Ticker,
        opening: Transcript,
        *,
        encrypted: bool,
        verified: bool,
        lmtp: bool = False,
    ) -> None:
        self.address = address
        self.lmtp = lmtp
        self.opening = opening
        self.tls = tls_words(client.get_transport_info("ssl_object"))
        self.encrypted = encrypted
        self.verified = verified
        self.transactions = 0
        self.greeted_at = asyncio.get_running_loop().time()
        self._extensions = {name.lower(): str(value or "").strip() for name, value in client.esmtp_extensions.items()}
        self.wire = HostWire(cast(asyncio.Transport, client.transport), ticker)  # aiosmtplib has done its part

    def offers(self, extension: str) -> bool:
        return extension in self._extensions

    def parameter(self, extension: str) -> str:
        """What the host said behind an extension's keyword, or ""."""
        return self._extensions.get(extension, "")


async def open_connection(
    peer: Peer,
    address: str,
    ehlo_name: str,
    ticker: Ticker,
    connect_seconds: float,
    command_seconds: float,
    *,
    encrypt: bool,
) -> Host:
    """Dial `address`, read the greeting, say EHLO, start TLS, log in. Raises ConnectionFailed, TlsFailed."""
    context = _tls_context(peer) if encrypt else None
    implicit = peer.tls == "implicit"
    opening = Transcript()
    opening.noted(f"dialling {address} port {peer.port}")
    try:
        sock = await _dial(peer, address, connect_seconds)
    except ConnectionFailed as failed:
        raise _told(failed, peer, address, opening) from failed.__cause__
    client = RecordingSMTP(
        opening,
        (peer.password,),
        hostname=peer.server_name or peer.name,
        sock=sock,
        local_hostname=ehlo_name,
        timeout=command_seconds,
        use_tls=implicit,
        start_tls=False,
        tls_context=context,
    )
    try:
        encrypted = await _set_up(client, peer, context)
        await _log_in(client, peer, address, command_seconds, encrypted=encrypted)
        verified = encrypted and peer.tls in VERIFYING
        return Host(client, address, ticker, opening, encrypted=encrypted, verified=verified, lmtp=peer.lmtp)
    except BaseException as wrong:
        client.close()
        if isinstance(wrong, ConnectionFailed):
            _told(wrong, peer, address, opening)
        if isinstance(wrong, aiosmtplib.SMTPException | OSError):
            raise _told(_explained(wrong, peer, address), peer, address, opening) from wrong
        raise


def _told(failed: ConnectionFailed, peer: Peer, address: str, opening: Transcript) -> ConnectionFailed:
    opening.noted(failed.outcome.text)
    failed.dialogue = Dialogue(peer.name, address, peer.port, (opening,))
    return failed


async def _set_up(client: aiosmtplib.SMTP, peer: Peer, context: ssl.SSLContext | None) -> bool:
    """Greeting, EHLO (HELO if it must be), STARTTLS, EHLO again; True when what follows is encrypted."""
    await client.connect()
    if peer.tls == "implicit":
        _check(client, peer)
    await _greet(client, peer)
    if context is None or peer.tls == "implicit":
        return context is not None
    if not client.supports_extension("starttls"):
        if peer.tls == "opportunistic":
            return False
        words = transient("4.7.4", "the host does not offer STARTTLS", peer.name)
        raise TlsFailed(words, "starttls-not-supported")
    try:
        await client.starttls(tls_context=context)
        _check(client, peer)
        await _greet(client, peer)
    except (aiosmtplib.SMTPException, OSError) as wrong:
        raise _broken(wrong, peer) from wrong
    return True


def _check(client: aiosmtplib.SMTP, peer: Peer) -> None:
    """What OpenSSL has not: TLSA records, and names other than the host's. Raises TlsFailed."""
    connection = client.get_transport_info("ssl_object")
    if peer.tls == "dane":
        chain, names = presented(connection), peer.names or (peer.name,)
        if not dane.matches(peer.tlsa, chain, names, datetime.now(UTC)):
            words = transient("4.7.5", "the certificate does not match the TLSA records", peer.name)
            raise TlsFailed(words, _no_match(peer))
    elif peer.names and peer.tls in VERIFYING and not carries_name(connection.getpeercert(), peer.names):
        words = transient("4.7.5", f"the certificate is not that of {' or '.join(peer.names)}", peer.name)
        raise TlsFailed(words, "certificate-host-mismatch")


def _no_match(peer: Peer) -> str:
    """RFC 8460 s4.3: who trusts an authority may find another name or date; else it is another certificate."""
    anchored = any(record.usage == dane.DANE_TA for record in peer.tlsa)
    return "certificate-not-trusted" if anchored else "validation-failure"


def _broken(wrong: BaseException, peer: Peer) -> TlsFailed:
    status = "4.7.0" if _may_pass(wrong) else "4.7.5"
    return TlsFailed(transient(status, f"TLS failed: {wrong}", peer.name), trouble_of(wrong))


def _may_pass(wrong: BaseException) -> bool:
    """The connection broke, or the host does not want to now (454): of its TLS nothing is known."""
    if isinstance(wrong, aiosmtplib.SMTPResponseException):
        return wrong.code < 500
    tls = wrong if isinstance(wrong, ssl.SSLError) else wrong.__cause__
    return not isinstance(tls, ssl.SSLError) or isinstance(tls, _CUT_OFF)


_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


async def _log_in(
    client: aiosmtplib.SMTP, peer: Peer, address: str, timeout_seconds: float, *, encrypted: bool
) -> None:
    """Where the rules have a user. What goes wrong here is ours to mend, so it is transient."""
    if peer.user is None or peer.password is None:
        return
    if not encrypted and not (peer.tls == "none" and is_loopback(address)):
        words = "the connection has no TLS, so the password was not sent"
        raise ConnectionFailed(transient("4.7.0", words, peer.name))
    try:
        await client.login(peer.user.encode(), peer.password.encode(), timeout=timeout_seconds)
    except aiosmtplib.SMTPAuthenticationError as refused:
        words = " ".join(f"the login was refused: {refused.code} {refused.message}".split())[:400]
        raise ConnectionFailed(transient("4.7.8", words, peer.name)) from refused
    except aiosmtplib.SMTPServerDisconnected:
        raise
    except aiosmtplib.SMTPException as wrong:
        raise ConnectionFailed(transient("4.7.0", f"no way to log in: {wrong}", peer.name)) from wrong


async def _greet(client: aiosmtplib.SMTP, peer: Peer) -> None:
    if peer.lmtp:
        return await _greet_lmtp(client)
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError:
        if not client.is_connected:
            raise
        await client.helo()


async def _greet_lmtp(client: aiosmtplib.SMTP) -> None:
    """RFC 2033 s4.1: LHLO is EHLO by another name, and there is no HELO."""
    reply = await client.execute_command(b"LHLO", (client.local_hostname or "").encode("ascii"))
    if reply.code != 250:
        raise aiosmtplib.SMTPHeloError(reply.code, reply.message)
    client.last_ehlo_response = reply


def _explained(wrong: aiosmtplib.SMTPException | OSError, peer: Peer, address: str) -> ConnectionFailed:
    tls = wrong if isinstance(wrong, ssl.SSLError) else wrong.__cause__
    if isinstance(tls, ssl.SSLError):
        return _broken(tls, peer)
    if isinstance(wrong, aiosmtplib.SMTPResponseException):
        words = " ".join(f"{wrong.code} {wrong.message}".split())[:400]
        return ConnectionFailed(transient("4.3.2", f"the host does not want to talk: {words}", peer.name))
    if isinstance(wrong, TimeoutError):
        return ConnectionFailed(transient("4.4.2", f"{address} does not answer in time", peer.name))
    return ConnectionFailed(transient("4.4.2", f"{address}: {wrong}", peer.name))


async def _dial(peer: Peer, address: str, timeout_seconds: float) -> socket.socket:
    family, place = _place(peer, address)
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as wrong:
        raise _no_connection(peer, address, wrong) from wrong
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout_seconds):
            await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException as wrong:
        sock.close()
        if isinstance(wrong, OSError):
            raise _no_connection(peer, address, wrong) from wrong
        raise
    return sock


def _place(peer: Peer, address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    """Where a socket has to go."""
    if address.startswith("/"):
        return socket.AF_UNIX, address
    return socket.AF_INET6 if ":" in address else socket.AF_INET, (address, peer.port)


def _no_connection(peer: Peer, address: str, wrong: OSError) -> ConnectionFailed:
    words = "does not answer" if isinstance(wrong, TimeoutError) else wrong.strerror or str(wrong)
    where = address if address.startswith("/") else f"{address} port {peer.port}"
    return ConnectionFailed(transient("4.4.1", f"{where}: {words}", peer.name))


def _tls_context(peer: Peer) -> ssl.SSLContext:
    """Raises ConnectionFailed when a file that the rules name cannot be used: never go on without it."""
    verify = peer.tls in {"starttls", "implicit"}
    asked = Asked(verify, verify and not peer.names, peer.ca_file if verify else None, peer.ours)
    try:
        return client_context(asked)
    except (OSError, ssl.SSLError) as wrong:
        words = f"{' or '.join(asked.files) or 'TLS'} cannot be used: {wrong}"
        raise ConnectionFailed(transient("4.3.5", words, peer.name)) from wrong


def is_loopback(address: str) -> bool:
    return address.startswith("/") or ipaddress.ip_address(address).is_loopback
