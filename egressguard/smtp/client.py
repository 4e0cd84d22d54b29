"""The client side of SMTP, on aiosmtplib: one transaction with one host, one Outcome per recipient.

Contract
    `send` never raises: whatever happens to the dialogue is an Outcome; what is not certain is transient.
    A reply that is lost after the final dot is in doubt: transient (RFC 5321 s4.5.5: better twice than never).
    starttls and implicit verify the certificate or do not send; opportunistic encrypts if it can, else goes plain.
    AUTH is never sent in the clear; a refused password is transient: the administrator will mend it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiosmtplib

from egressguard.mail.outcome import Outcome, Result, permanent, transient
from egressguard.mail.reply import Reply

log = logging.getLogger(__name__)

CONNECT_SECONDS = 30
COMMAND_SECONDS = 300  # RFC 5321 s4.5.3.2.2-3: five minutes for MAIL and RCPT
DATA_SECONDS = 600  # s4.5.3.2.6: ten minutes for the reply to the final dot
_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})[ \t]+")


@dataclass(frozen=True, slots=True)
class Peer:
    """A host to dial: `name` is what its certificate must carry, `addresses` are tried in order."""

    name: str
    addresses: tuple[str, ...]
    port: int
    tls: str = "opportunistic"
    ca_file: str | None = None
    user: str | None = None
    password: str | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    smtputf8: bool = False
    body_8bit: bool = False


class _Ended(Exception):
    """The dialogue is over for all recipients that have no outcome yet."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.text)
        self.outcome = outcome


async def send(transaction: Transaction, peer: Peer, ehlo_name: str, timeout_seconds: float) -> Mapping[str, Outcome]:
    """Try to hand `transaction` to `peer`; every forward-path has an outcome in the answer."""
    outcomes: dict[str, Outcome] = {}
    try:
        async with asyncio.timeout(timeout_seconds):
            await _dialogue(transaction, peer, ehlo_name, outcomes)
    except TimeoutError:
        _rest(transaction, outcomes, transient("4.4.2", "no end within the time allowed", peer.name))
    except _Ended as ended:
        _rest(transaction, outcomes, ended.outcome)
    except aiosmtplib.SMTPResponseException as refused:
        _rest(transaction, outcomes, _of_response(refused.code, refused.message, peer.name))
    except (aiosmtplib.SMTPException, OSError, ValueError) as wrong:
        _rest(transaction, outcomes, transient("4.4.2", _words(wrong), peer.name))
    return outcomes


def _rest(transaction: Transaction, outcomes: dict[str, Outcome], outcome: Outcome) -> None:
    """Recipients that were taken at RCPT but not confirmed by DATA, and those never asked, share what ended it."""
    for path in transaction.forward_paths:
        if path not in outcomes or outcomes[path].result is Result.DELIVERED:
            outcomes[path] = outcome


async def _dialogue(transaction: Transaction, peer: Peer, ehlo_name: str, outcomes: dict[str, Outcome]) -> None:
    client = await _connect(peer, ehlo_name)
    try:
        _require_extensions(client, transaction, peer)
        await _log_in(client, peer)
        options = _mail_options(client, transaction)
        encoding = "utf-8" if transaction.smtputf8 else "ascii"
        await client.mail(transaction.reverse_path, options=options, encoding=encoding, timeout=COMMAND_SECONDS)
        taken = await _recipients(client, transaction, peer, encoding, outcomes)
        if taken:
            answer = await client.data(transaction.content, timeout=DATA_SECONDS)
            outcome = _of_response(answer.code, answer.message, peer.name)
            outcomes.update(dict.fromkeys(taken, outcome))
        with contextlib.suppress(aiosmtplib.SMTPException, OSError):
            await client.quit(timeout=5)  # the message is safe or not by now; a rude goodbye changes nothing
    finally:
        client.close()


async def _recipients(
    client: aiosmtplib.SMTP, transaction: Transaction, peer: Peer, encoding: str, outcomes: dict[str, Outcome]
) -> Sequence[str]:
    taken = []
    for path in transaction.forward_paths:
        try:
            await client.rcpt(path, encoding=encoding, timeout=COMMAND_SECONDS)
        except aiosmtplib.SMTPRecipientRefused as refused:
            outcomes[path] = _of_response(refused.code, refused.message, peer.name)
            continue
        taken.append(path)
    return taken


async def _connect(peer: Peer, ehlo_name: str) -> aiosmtplib.SMTP:
    """A greeted, EHLO'd and (as `peer.tls` asks) encrypted connection to the first address that answers."""
    last: Outcome = transient("4.4.1", "no address to dial", peer.name)
    for address in peer.addresses:
        try:
            return await _open(peer, address, ehlo_name, encrypt=peer.tls != "none")
        except _BrokenTls as wrong:
            if peer.tls == "opportunistic":
                log.info("TLS does not work there, going plain", extra={"fields": {"host": peer.name}})
                with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                    return await _open(peer, address, ehlo_name, encrypt=False)
            last = transient("4.7.5", f"TLS: {wrong}", peer.name)
        except aiosmtplib.SMTPResponseException as refused:
            last = _of_response(refused.code, refused.message, peer.name)
            if last.result is Result.PERMANENT:  # a greeting of 5yz speaks for this host only: try elsewhere, later
                last = Outcome(Result.TRANSIENT, "4.3.2", last.text, peer.name, None)
        except (aiosmtplib.SMTPException, OSError) as wrong:
            last = transient("4.4.1", f"{address}: {_words(wrong)}", peer.name)
    raise _Ended(last)


class _BrokenTls(Exception):
    pass


async def _open(peer: Peer, address: str, ehlo_name: str, *, encrypt: bool) -> aiosmtplib.SMTP:
    context = _tls_context(peer) if encrypt else None
    implicit = encrypt and peer.tls == "implicit"
    sock = await _dial(address, peer.port)
    client = aiosmtplib.SMTP(
        hostname=peer.name,
        port=None,
        sock=sock,
        local_hostname=ehlo_name,
        timeout=CONNECT_SECONDS,
        use_tls=implicit,
        start_tls=False,
        tls_context=context if implicit else None,
    )
    try:
        try:
            await client.connect()
        except ssl.SSLError as wrong:
            raise _BrokenTls(_words(wrong)) from wrong
        except aiosmtplib.SMTPConnectError as wrong:
            if implicit and isinstance(wrong.__cause__, ssl.SSLError):
                raise _BrokenTls(_words(wrong.__cause__)) from wrong
            raise
        await client._ehlo_or_helo_if_needed()
        if context is not None and not implicit:
            await _start_tls(client, peer, context)
    except BaseException:
        client.close()
        sock.close()
        raise
    return client


async def _start_tls(client: aiosmtplib.SMTP, peer: Peer, context: ssl.SSLContext) -> None:
    if not client.supports_extension("starttls"):
        if peer.tls == "opportunistic":
            return
        raise _BrokenTls("the host does not offer STARTTLS")
    try:
        await client.starttls(tls_context=context, server_hostname=_tls_name(peer))
        await client.ehlo()
    except (aiosmtplib.SMTPException, OSError) as wrong:
        raise _BrokenTls(_words(wrong)) from wrong


async def _dial(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _tls_context(peer: Peer) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=peer.ca_file)
    if peer.tls == "opportunistic":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _tls_name(peer: Peer) -> str | None:
    try:
        ipaddress.ip_address(peer.name)
    except ValueError:
        return peer.name
    return peer.name if peer.tls != "opportunistic" else None


def _require_extensions(client: aiosmtplib.SMTP, transaction: Transaction, peer: Peer) -> None:
    if transaction.smtputf8 and not client.supports_extension("smtputf8"):
        raise _Ended(permanent("5.6.7", "the next host cannot take internationalized addresses", peer.name))
    if transaction.body_8bit and not client.supports_extension("8bitmime"):
        raise _Ended(permanent("5.6.3", "the next host cannot take 8-bit content", peer.name))


def _mail_options(client: aiosmtplib.SMTP, transaction: Transaction) -> list[str]:
    options = []
    if client.supports_extension("size"):
        options.append(f"SIZE={len(transaction.content)}")
    if transaction.body_8bit:
        options.append("BODY=8BITMIME")
    if transaction.smtputf8:
        options.append("SMTPUTF8")
    return options


async def _log_in(client: aiosmtplib.SMTP, peer: Peer) -> None:
    if peer.user is None or peer.password is None:
        return
    if client.get_transport_info("sslcontext") is None:
        raise _Ended(transient("4.7.0", "no TLS, so the password was not sent", peer.name))
    try:
        await client.login(peer.user, peer.password)
    except aiosmtplib.SMTPAuthenticationError as refused:
        raise _Ended(transient("4.7.8", f"login refused: {refused.code} {_flat(refused.message)}", peer.name)) from None
    except aiosmtplib.SMTPException as wrong:
        raise _Ended(transient("4.7.0", f"login failed: {_words(wrong)}", peer.name)) from None


def _of_response(code: int, message: str, said_by: str) -> Outcome:
    text = _flat(message)
    enhanced = _ENHANCED.match(text)
    if code not in range(200, 600):
        return transient("4.4.2", text or "the connection was lost", said_by)
    status = enhanced[1] if enhanced and enhanced[1][0] == str(code)[0] else f"{code // 100}.0.0"
    text = text[enhanced.end() :] if enhanced else text
    if not 200 <= code <= 299 and not 400 <= code <= 599:
        return transient("4.5.0", f"unexpected reply {code} {text}", said_by)
    return Outcome.of_reply(Reply(code, status, text), said_by)


def _flat(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:500]


def _words(wrong: BaseException) -> str:
    return _flat(str(wrong)) or type(wrong).__name__
