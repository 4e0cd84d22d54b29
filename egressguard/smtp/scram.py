"""SCRAM-SHA-256, the server's side (RFC 5802, RFC 7677): a client's messages in, ours or a refusal out.

Contract
    Pure: no file, no clock, no chance; the nonce and the verifier are handed in. Nothing but ScramError is raised.
    No channel binding: "n" and "y" are taken (we offer no -PLUS), "p" is refused. Nobody acts as somebody else: the
    authorization identity is empty or the name itself.
    A name without a verifier gets the same messages as any other, and fails at the same step. Comparing takes the
    same time whatever is compared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

from egressguard.store.saslprep import SaslprepError, saslprep
from egressguard.store.verifier import KEY_OCTETS, Verifier

MESSAGE_OCTETS = 2048
NONCE_CHARACTERS = 256

_NAME = r"(?:[^\0,=]|=2C|=3D)+"  # saslname: "," and "=" are written so
_NONCE = r"[\x21-\x2b\x2d-\x7e]"
_EXTENSIONS = r"(?:,[A-Za-z]=[^\0,]*)*"  # that we do not know, and must pass over (RFC 5802 s5.1)
_CLIENT_FIRST = re.compile(
    rf"((n|y|p=[A-Za-z0-9.-]+),(?:a=({_NAME}))?,)(n=({_NAME}),r=({_NONCE}{{1,{NONCE_CHARACTERS}}}){_EXTENSIONS})"
)
_CLIENT_FINAL = re.compile(
    rf"(c=([A-Za-z0-9+/=]+),r=({_NONCE}{{1,{2 * NONCE_CHARACTERS}}}){_EXTENSIONS}),p=([A-Za-z0-9+/=]+)"
)
_OUR_NONCE = re.compile(rf"{_NONCE}{{1,{NONCE_CHARACTERS}}}")


class ScramError(Exception):
    """The client's message is not one, or asks for what we do not do."""


class WrongProof(ScramError):
    """The client does not know the password, or there is no such account."""


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """`name` is prepared (RFC 4013); the rest is as the client wrote it."""

    name: str
    gs2_header: str
    bare: str
    nonce: str


def parse_client_first(message: bytes) -> ClientFirst:
    """Raises ScramError; WrongProof when somebody wants to act as somebody else."""
    match = _CLIENT_FIRST.fullmatch(_text(message))
    if match is None:
        raise ScramError("expected a client-first-message")
    gs2_header, binding, authorization, bare, name, nonce = match.groups()
    if binding not in {"n", "y"}:
        raise ScramError("channel binding is not offered")
    prepared = _prepared(name)
    if authorization is not None and _prepared(authorization) != prepared:
        raise WrongProof("nobody may act as somebody else")
    return ClientFirst(prepared, gs2_header, bare, nonce)


class ScramServer:
    """One exchange after the client's first message. `known`: the verifier is a real one."""

    def __init__(self, first: ClientFirst, verifier: Verifier, *, known: bool, nonce: str) -> None:
        if not _OUR_NONCE.fullmatch(nonce):
            raise ValueError("expected a nonce of printable ASCII without comma")
        self._first = first
        self._verifier = verifier
        self._known = known
        self._nonce = first.nonce + nonce
        salt = base64.b64encode(verifier.salt).decode("ascii")
        self._challenge = f"r={self._nonce},s={salt},i={verifier.iterations}"

    @property
    def verifier(self) -> Verifier:
        """The one whose password the client has proven to know, after `finish`."""
        return self._verifier

    @property
    def challenge(self) -> bytes:
        """The server-first-message."""
        return self._challenge.encode("utf-8")

    def finish(self, message: bytes) -> bytes:
        """The server-final-message to a client-final-message that is right. Raises ScramError, WrongProof."""
        match = _CLIENT_FINAL.fullmatch(_text(message))
        if match is None:
            raise ScramError("expected a client-final-message")
        without_proof, binding, nonce, proof_text = match.groups()
        if _decoded(binding) != self._first.gs2_header.encode("utf-8"):
            raise ScramError("the channel binding is another one than announced")
        if not hmac.compare_digest(nonce.encode(), self._nonce.encode()):
            raise ScramError("the nonce is another one than agreed")
        said = f"{self._first.bare},{self._challenge},{without_proof}".encode()
        if not self._proves(_decoded(proof_text), said):
            raise WrongProof("the proof does not fit")
        return b"v=" + base64.b64encode(hmac.digest(self._verifier.server_key, said, "sha256"))

    def _proves(self, proof: bytes, said: bytes) -> bool:
        if len(proof) != KEY_OCTETS:
            raise ScramError(f"expected a proof of {KEY_OCTETS} octets")
        signature = hmac.digest(self._verifier.stored_key, said, "sha256")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        fits = hmac.compare_digest(hashlib.sha256(client_key).digest(), self._verifier.stored_key)
        return fits and self._known


def _text(message: bytes) -> str:
    if len(message) > MESSAGE_OCTETS:
        raise ScramError(f"a message has at most {MESSAGE_OCTETS} octets")
    try:
        return message.decode("utf-8")
    except UnicodeDecodeError:
        raise ScramError("expected UTF-8") from None


def _prepared(name: str) -> str:
    try:
        prepared = saslprep(name.replace("=2C", ",").replace("=3D", "="), stored=False)
    except SaslprepError:
        raise ScramError("the name has characters that are not allowed") from None
    if not prepared:
        raise ScramError("expected a name")
    return prepared


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ScramError("expected base64") from None
