"""From an address to a host that is greeted, EHLO'd, encrypted and logged in to, where these are asked for.

Contract
    Whatever goes wrong before a transaction is ConnectionFailed with a transient outcome: a host that does not want
    us today says nothing about the recipient (a 5yz greeting speaks for this host only, RFC 5321 s3.1, s4.2.1).
    TlsFailed only when TLS itself is the trouble; opportunistic callers may then go plain.
    The socket is closed on every way out but the good one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from typing import Literal, cast

import aiosmtplib

from egressguard.mail.outcome import Outcome, one_line, transient
from egressguard.smtp.host_wire import HostWire
from egressguard.smtp.recording import RecordingSMTP, tls_words
from egressguard.smtp.transcript import Dialogue, Transcript
from egressguard.smtp.waiting import Ticker

TlsMode = Literal["none", "opportunistic", "starttls", "implicit"]


@dataclass(frozen=True, slots=True)
class Peer:
    """A host to dial: `name` is what its certificate must carry, `addresses` (IP, or a Unix socket's path) are tried in
    order. One that speaks LMTP (RFC 2033) answers for each recipient after the content."""

    name: str
    addresses: tuple[str, ...]
    port: int
    tls: TlsMode = "opportunistic"
    ca_file: str | None = None
    user: str | None = None
    password: str | None = None
    lmtp: bool = False

    def __repr__(self) -> str:
        return f"Peer({self.name!r}, {self.addresses!r}, {self.port}, tls={self.tls!r}, user={self.user!r})"


class ConnectionFailed(Exception):
    """No transaction with this host at this time. Its words, if there are any, become one visible line."""

    dialogue: Dialogue | None = None

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = dataclasses.replace(outcome, text=one_line(outcome.text))
        super().__init__(self.outcome.text)


class TlsFailed(ConnectionFailed):
    """The host answers, but TLS with it does not work."""


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
        hostname=peer.name,
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
        verified = encrypted and peer.tls != "opportunistic"
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
    await _greet(client, peer)
    if context is None or peer.tls == "implicit":
        return context is not None
    if not client.supports_extension("starttls"):
        if peer.tls == "opportunistic":
            return False
        raise TlsFailed(transient("4.7.4", "the host does not offer STARTTLS", peer.name))
    try:
        await client.starttls(tls_context=context)
        await _greet(client, peer)
    except (aiosmtplib.SMTPException, OSError) as wrong:
        raise TlsFailed(transient("4.7.5", f"TLS failed: {wrong}", peer.name)) from wrong
    return True


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
        return TlsFailed(transient("4.7.5", f"TLS failed: {tls}", peer.name))
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
    """Raises ConnectionFailed when the ca_file of the rules cannot be used: never go on without it."""
    try:
        return _context(peer.ca_file, verify=peer.tls != "opportunistic")
    except (OSError, ssl.SSLError) as wrong:
        words = f"the ca_file {peer.ca_file} cannot be used: {wrong}"
        raise ConnectionFailed(transient("4.3.5", words, peer.name)) from wrong


def _context(ca_file: str | None, *, verify: bool) -> ssl.SSLContext:
    if not verify:
        return _unverified_context()
    context = ssl.create_default_context(cafile=ca_file)
    # Python 3.13 wants key identifiers (RFC 5280 s4.2.1.1), which certificates that sites made themselves often lack.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


@functools.cache
def _unverified_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def is_loopback(address: str) -> bool:
    return address.startswith("/") or ipaddress.ip_address(address).is_loopback
