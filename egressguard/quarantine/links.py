"""Links by which people release what was held for them: signed, good for a while, for one message and one addressee.

Contract
    Pure. Whoever has a token has its grant and nothing else; one that was altered, is signed with another secret or
    is over grants nothing. That it works only once is the quarantine's doing: what was released is gone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

EVERYBODY = "*"
"""An administrator's: to all recipients."""
LEAST_SECRET_CHARACTERS = 32
TOKEN_CHARACTERS = 1200  # an address has up to 254 octets, in UTF-8 and base64
_PURPOSE = b"egressguard quarantine release 1\0"


@dataclass(frozen=True, slots=True)
class Grant:
    """May release `message_id` to `address` (a recipient, or EVERYBODY) until `expires_at`; `holder` got the link."""

    message_id: str
    address: str
    holder: str
    expires_at: int


class WeakSecret(ValueError):
    """The secret is too short to sign with."""


def make_token(secret: str, grant: Grant) -> str:
    """Safe in a URL's path. Raises WeakSecret."""
    told = "\n".join((grant.message_id, str(grant.expires_at), grant.address, grant.holder)).encode()
    return f"{_text(told)}.{_text(_seal(secret, told))}"


def read_token(secret: str, token: str, now: float) -> Grant | None:
    """None: it grants nothing. Raises WeakSecret."""
    told, seal = (_octets(part) for part in token.partition(".")[::2]) if len(token) <= TOKEN_CHARACTERS else (b"", b"")
    if not hmac.compare_digest(_seal(secret, told), seal):
        return None
    try:
        message_id, expires_at, address, holder = told.decode().split("\n")
    except ValueError:
        return None
    grant = Grant(message_id, address, holder, int(expires_at))
    return grant if now < grant.expires_at else None


def _seal(secret: str, told: bytes) -> bytes:
    if len(secret) < LEAST_SECRET_CHARACTERS:
        raise WeakSecret(f"a secret needs {LEAST_SECRET_CHARACTERS} characters")
    return hmac.new(secret.encode(), _PURPOSE + told, hashlib.sha256).digest()


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _octets(text: str) -> bytes:
    """b"" for what is no base64 as `_text` writes it."""
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        return b""
    return octets if _text(octets) == text else b""
