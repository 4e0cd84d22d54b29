"""SCRAM-SHA-256 verifiers (RFC 5802 s3, RFC 7677) and the lines that keep them beside the password file.

Contract
    A verifier proves that a client knows the password without telling it; it does not let anybody log in elsewhere.
    A line is `name:SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey:bound`, the form of RFC 5803 between its ends.
    `bound` ties it to one Argon2 hash of the password file: when that line is changed, by whatever, the verifier is
    dead. The first line, `#key base64`, makes the salts that unknown names are shown.
    A line that cannot be understood is left out; it never lets anybody in.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from egressguard.store.saslprep import SaslprepError, saslprep

SCHEME = "SCRAM-SHA-256"
MIN_ITERATIONS = 4096  # RFC 7677 s4
ITERATIONS = 10_000
"""Every client pays for them at each login, small devices too; who has the file faces Argon2 beside it anyway."""
MAX_ITERATIONS = 1_000_000
SALT_OCTETS = 16
KEY_OCTETS = 32  # of SHA-256

_B64 = r"[A-Za-z0-9+/]+={0,2}"
_VERIFIER = re.compile(rf"SCRAM-SHA-256\$([0-9]{{4,7}}):({_B64})\$({_B64}):({_B64})")
_LINE = re.compile(r"([a-z0-9][a-z0-9._-]{0,63}):(SCRAM-SHA-256\$[^\s]{1,300}):([0-9a-f]{32})")
_KEY_LINE = re.compile(rf"#key ({_B64})")


class VerifierError(ValueError):
    """The text is no verifier, or the password can have none; the message says why."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What the server keeps of a password; octets."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


def make_verifier(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> Verifier:
    """Takes milliseconds. Raises VerifierError: empty, or nothing that SASLprep allows."""
    try:
        prepared = saslprep(password, stored=True).encode("utf-8")
    except (SaslprepError, UnicodeEncodeError) as wrong:
        raise VerifierError(str(wrong)) from None
    if not prepared:
        raise VerifierError("expected a password")
    salt = secrets.token_bytes(SALT_OCTETS) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepared, salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return Verifier(salt, iterations, hashlib.sha256(client_key).digest(), server_key)


def fake_verifier(key: bytes, name: str) -> Verifier:
    """What a name without a verifier is shown: the same at each question, and like any other. No password fits it."""
    salt = hmac.digest(key, b"salt\0" + name.encode("utf-8", "replace"), "sha256")[:SALT_OCTETS]
    return Verifier(salt, ITERATIONS, secrets.token_bytes(KEY_OCTETS), secrets.token_bytes(KEY_OCTETS))


def parse_verifier(text: str) -> Verifier:
    """RFC 5803. Raises VerifierError."""
    match = _VERIFIER.fullmatch(text)
    if match is None:
        raise VerifierError(f"expected {SCHEME}$iterations:salt$StoredKey:ServerKey")
    salt, stored_key, server_key = map(_decoded, match.group(2, 3, 4))
    iterations = int(match[1])
    if len(stored_key) != KEY_OCTETS or len(server_key) != KEY_OCTETS:
        raise VerifierError(f"expected keys of {KEY_OCTETS} octets")
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise VerifierError(f"expected {MIN_ITERATIONS} to {MAX_ITERATIONS} iterations")
    return Verifier(salt, iterations, stored_key, server_key)


def render_verifier(verifier: Verifier) -> str:
    salt, stored_key, server_key = map(_encoded, (verifier.salt, verifier.stored_key, verifier.server_key))
    return f"{SCHEME}${verifier.iterations}:{salt}${stored_key}:{server_key}"


def bound_to(password_hash: str) -> str:
    """What names one Argon2 hash."""
    return hashlib.sha256(b"scram\0" + password_hash.encode("utf-8", "surrogateescape")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Verifiers:
    """What the file says: `by_owner` has the verifier of a name and of the hash that `bound_to` names."""

    salt_key: bytes = field(default_factory=lambda: secrets.token_bytes(KEY_OCTETS))
    by_owner: dict[tuple[str, str], Verifier] = field(default_factory=dict)

    def of(self, name: str, password_hash: str) -> Verifier | None:
        return self.by_owner.get((name, bound_to(password_hash)))

    def having(self, name: str, password_hash: str, verifier: Verifier) -> Verifiers:
        return Verifiers(self.salt_key, {**self.by_owner, (name, bound_to(password_hash)): verifier})

    def only(self, owners: Iterable[tuple[str, str]]) -> Verifiers:
        """Those of these names and password hashes."""
        kept = {(name, bound_to(password_hash)) for name, password_hash in owners}
        return Verifiers(self.salt_key, {owner: found for owner, found in self.by_owner.items() if owner in kept})


def parse_verifiers(text: str) -> tuple[Verifiers, list[int]]:
    """(the verifiers, the numbers of lines that are none). Of two lines with one owner the first holds."""
    salt_key: bytes | None = None
    by_owner: dict[tuple[str, str], Verifier] = {}
    faults: list[int] = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if (key := _KEY_LINE.fullmatch(line)) is not None:
                salt_key = salt_key or _decoded(key[1])
            elif line:
                name, bound, verifier = _parse_line(line)
                by_owner.setdefault((name, bound), verifier)
        except VerifierError:
            faults.append(number)
    return Verifiers(salt_key, by_owner) if salt_key else Verifiers(by_owner=by_owner), faults


def render_verifiers(verifiers: Verifiers) -> str:
    """The whole file; "" when there is nobody in it."""
    if not verifiers.by_owner:
        return ""
    lines = [f"{name}:{render_verifier(found)}:{bound}\n" for (name, bound), found in verifiers.by_owner.items()]
    return f"#key {_encoded(verifiers.salt_key)}\n" + "".join(lines)


def _parse_line(line: str) -> tuple[str, str, Verifier]:
    match = _LINE.fullmatch(line)
    if match is None:
        raise VerifierError("expected name:verifier:bound")
    return match[1], match[3], parse_verifier(match[2])


def _encoded(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise VerifierError("expected base64") from None
