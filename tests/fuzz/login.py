"""Targets for AUTH: whatever a client says, an exchange ends, and only who knows the password is let in."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress

from egressguard.mail.reply import Reply
from egressguard.smtp.auth import Authenticator, Credentials
from egressguard.smtp.mechanisms import authenticate
from egressguard.smtp.replies import Refusal
from egressguard.smtp.scram import ClientFirst, ScramError, ScramServer, parse_client_first
from egressguard.store.verifier import MIN_ITERATIONS, Verifier, fake_verifier, make_verifier
from tests.fuzz.grammar import check_refusal
from tests.fuzz.memory import Finding, MemoryLoop
from tests.smtp.scram_client import ScramClient

NAME, PASSWORD = "anna", "pencil"
FINAL = b"!final"
"""A line that stands for the right answer to SCRAM's challenge: no fuzzer finds a proof by itself."""
FIRST = b"!first"
CLIENT = ipaddress.IPv4Address("192.0.2.7")
MECHANISMS = ("PLAIN", "LOGIN", "SCRAM-SHA-256")
_VERIFIER = make_verifier(PASSWORD, salt=b"0123456789abcdef", iterations=MIN_ITERATIONS)


class CheapAccounts:
    """auth.Accounts where looking at a password costs nothing."""

    def __init__(self, password: str = PASSWORD) -> None:
        self._password = password

    def verify(self, name: str, password: str) -> bool:
        return (name.lower(), password) == (NAME, self._password)

    def offers_scram(self) -> bool:
        return True

    def scram_verifier(self, name: str) -> Verifier | None:
        return _VERIFIER if name.lower() == NAME else None

    def fake_verifier(self, name: str) -> Verifier:
        return fake_verifier(b"key", name.lower())

    def standing(self, name: str) -> str:
        return "as ever"


class _Gone(ConnectionError):
    """The client has no more to say."""


class _Client:
    """Says the input's lines, one for each question."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        self._scram = ScramClient(NAME, PASSWORD)
        self.said: list[bytes] = []
        self.proved = False

    async def ask(self, reply: Reply) -> bytes:
        if reply.code != 334 or reply.status:
            raise Finding(f"a question is 334: {reply}")
        challenge = base64.b64decode(reply.text, validate=True)
        if not self._lines:
            raise _Gone
        line = self._lines.pop(0)
        if line == FIRST:
            line = base64.b64encode(self._scram.first())
        if line == FINAL:
            with contextlib.suppress(KeyError, ValueError, AssertionError):  # that was no SCRAM challenge of ours
                line = base64.b64encode(self._scram.final(challenge))
                self.proved = True
        self.said.append(line)
        return line


def auth(octets: bytes) -> None:
    """The first octet: the mechanism, and whether the first line is an initial response. Lines end with LF."""
    flags = octets[0] if octets else 0
    mechanism, lines = MECHANISMS[flags % 3], octets[1:].split(b"\n")
    initial = lines.pop(0).decode("utf-8", "ignore").strip(" ") if flags & 4 else ""
    client = _Client(lines)
    loop = MemoryLoop()
    try:
        outcome = loop.run_until_complete(_exchange(mechanism, initial, client))
        loop.no_trouble()
    finally:
        loop.close()
    if outcome is Credentials.OK and not _knew(mechanism, initial, client):
        raise Finding(f"{mechanism} {initial!r} {client.said} was let in")


async def _exchange(mechanism: str, initial: str, client: _Client) -> Credentials | None:
    authenticator = Authenticator(CheapAccounts(), clock=asyncio.get_running_loop().time)
    try:
        result, name = await authenticate(mechanism, initial, client.ask, authenticator, CLIENT)
    except _Gone:
        return None
    except Refusal as refusal:
        check_refusal(refusal.reply)
        return None
    if result is Credentials.OK and name.lower() != NAME:
        raise Finding(f"let in as {name!r}")
    return result


def _knew(mechanism: str, initial: str, client: _Client) -> bool:
    said = ([initial.encode()] if initial else []) + client.said
    if mechanism == "SCRAM-SHA-256":
        return client.proved
    words = [base64.b64decode(line) for line in said]
    if mechanism == "LOGIN":
        return [words[0].lower(), words[1]] == [NAME.encode(), PASSWORD.encode()]
    authorization, name, password = words[0].split(b"\0")
    return authorization in {b"", name} and (name.lower(), password) == (NAME.encode(), PASSWORD.encode())


def scram(octets: bytes) -> None:
    """The client's two messages, apart by LF, without base64; the server's nonce is known."""
    first_message, _, final_message = octets.partition(b"\n")
    try:
        first = parse_client_first(first_message)
    except ScramError:
        return
    _check_first(first_message, first)
    server = ScramServer(first, _VERIFIER, known=True, nonce="srv")
    if not server.challenge.startswith(f"r={first.nonce}srv,s=".encode()):
        raise Finding(f"challenge {server.challenge!r} to {first_message!r}")
    try:
        server.finish(final_message)
    except ScramError:
        return
    nonce_and_binding = dict(part.split(b"=", 1) for part in final_message.split(b",") if b"=" in part)
    if nonce_and_binding.get(b"r") != f"{first.nonce}srv".encode():
        raise Finding(f"a proof for another nonce was taken: {final_message!r}")
    if base64.b64decode(nonce_and_binding[b"c"]) != first.gs2_header.encode():
        raise Finding("another channel binding was taken")


def _check_first(message: bytes, first: ClientFirst) -> None:
    if (first.gs2_header + first.bare).encode() != message:
        raise Finding(f"{message!r} was taken apart as {first}")
    if not first.name or first.gs2_header[:2] not in {"n,", "y,"} or any(c < "!" or c > "~" for c in first.nonce):
        raise Finding(f"{first} was taken")
