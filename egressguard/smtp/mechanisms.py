"""SMTP AUTH's exchanges (RFC 4954): PLAIN (RFC 4616), LOGIN and SCRAM-SHA-256 (RFC 7677), one line at a time.

Contract
    An exchange ends in (what came of it, the name it was about), or in Refusal when the client cancels or does not
    speak the mechanism. Whether somebody may try at all (TLS, EHLO, not logged in) is the dialogue's question.
    Names come back as the client gave them, prepared where the mechanism says so; who keeps them folds their case.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable

from egressguard.mail.reply import Reply
from egressguard.net.flow import IPAddress
from egressguard.smtp import replies
from egressguard.smtp.auth import Authenticator, Credentials
from egressguard.smtp.replies import Refusal
from egressguard.smtp.scram import ScramError, ScramServer, WrongProof, parse_client_first
from egressguard.store.verifier import Verifier

Ask = Callable[[Reply], Awaitable[bytes]]
"""Send a 334 and return the client's line without CRLF."""
Exchange = Callable[[str, Ask, Authenticator, IPAddress], Awaitable[tuple[Credentials, str]]]


def offered_mechanisms(authenticator: Authenticator) -> tuple[str, ...]:
    """What EHLO names. SCRAM only where somebody has a verifier: a client takes it and does not try another."""
    return ("PLAIN", "LOGIN", SCRAM) if authenticator.offers_scram else ("PLAIN", "LOGIN")


async def authenticate(
    mechanism: str, initial: str, ask: Ask, authenticator: Authenticator, client: IPAddress
) -> tuple[Credentials, str]:
    """(what came of it, the name). `mechanism` is one of `offered_mechanisms`; `initial` is the initial response,
    "" = none. Raises Refusal, and what `ask` raises."""
    return await _EXCHANGES[mechanism](initial, ask, authenticator, client)


async def _plain(initial: str, ask: Ask, authenticator: Authenticator, client: IPAddress) -> tuple[Credentials, str]:
    message = _text(initial.encode() if initial else await ask(Reply(334, "", "")))
    parts = message.split("\0")
    if len(parts) != 3:
        raise Refusal(replies.AUTH_SYNTAX)
    authorization, name, password = parts
    if authorization not in {"", name}:  # nobody may act as somebody else
        raise Refusal(replies.AUTH_WRONG)
    return await authenticator.check(name, password, client), name


async def _login(initial: str, ask: Ask, authenticator: Authenticator, client: IPAddress) -> tuple[Credentials, str]:
    """Two prompts that everybody ignores, in the words that everybody expects."""
    name = _text(initial.encode() if initial else await ask(_challenge(b"Username:")))
    password = _text(await ask(_challenge(b"Password:")))
    return await authenticator.check(name, password, client), name


async def _scram(initial: str, ask: Ask, authenticator: Authenticator, client: IPAddress) -> tuple[Credentials, str]:
    message = _octets(initial.encode() if initial else await ask(Reply(334, "", "")))
    try:
        first = parse_client_first(message)
    except WrongProof:
        raise Refusal(replies.AUTH_WRONG) from None
    except ScramError:
        raise Refusal(replies.AUTH_SYNTAX) from None
    server = await authenticator.begin_scram(first, client)
    if isinstance(server, Credentials):
        return server, first.name
    proven = await _scram_proof(server, ask)
    return await authenticator.end_scram(first.name, client, verifier=proven), first.name


async def _scram_proof(server: ScramServer, ask: Ask) -> Verifier | None:
    """The verifier that the client's proof was right for."""
    message = _octets(await ask(_challenge(server.challenge)))
    try:
        ours = server.finish(message)
    except WrongProof:
        return None
    except ScramError:
        raise Refusal(replies.AUTH_SYNTAX) from None
    # RFC 4954 s4: what we have to say at success is a challenge too, which the client answers with nothing.
    if _octets(await ask(_challenge(ours))) != b"":
        raise Refusal(replies.AUTH_SYNTAX)
    return server.verifier


SCRAM = "SCRAM-SHA-256"
_EXCHANGES: dict[str, Exchange] = {"PLAIN": _plain, "LOGIN": _login, SCRAM: _scram}


def _challenge(octets: bytes) -> Reply:
    return Reply(334, "", base64.b64encode(octets).decode())


def _text(line: bytes) -> str:
    try:
        return _octets(line).decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(replies.AUTH_SYNTAX) from None


def _octets(line: bytes) -> bytes:
    """RFC 4954 s4: "*" cancels, "=" and an empty line are the empty string, all else is base64."""
    if line == b"*":
        raise Refusal(replies.AUTH_CANCELLED)
    if line == b"=":
        return b""
    try:
        return base64.b64decode(line, validate=True)
    except binascii.Error:
        raise Refusal(replies.AUTH_SYNTAX) from None
