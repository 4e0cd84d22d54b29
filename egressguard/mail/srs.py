"""The Sender Rewriting Scheme: a reverse-path of ours that says whose it was, and the way back. Pure.

Contract
    SRS0=HASH=DAY=DOMAIN=LOCAL-PART at our domain; another's SRS0 becomes SRS1=HASH=THEIR-DOMAIN=REST, and so does
    another's SRS1: however often mail is forwarded, an address grows once.
    Only what we made is undone: HASH is 40 bits of HMAC-SHA256 over the rest, whose case does not count (hosts on the
    way may change it). A bounce of SRS1 goes to who made the SRS0, which alone knows whether it did and when.
    What does not fit into a local part (64 octets), or is no dot-string, is not rewritten.
"""

from __future__ import annotations

import base64
import enum
import hashlib
import hmac
from collections.abc import Sequence

from egressguard.mail.address import AddressError, domain_of, parse_address

DAYS = 1024
"""A day is two digits of base32: it comes round after that many."""
CLOCK_DAYS = 1
"""Another gateway of the site may be in tomorrow already."""
HASH_CHARACTERS = 8
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SEPARATORS = "=+-"
FIRST, FURTHER = "SRS0", "SRS1"


class Unfit(enum.Enum):
    """Why there is no way back."""

    FORGED = "forged"
    EXPIRED = "expired"


def is_rewritten(path: str) -> bool:
    """Whether its local part looks like one of this scheme's, ours or another's."""
    return path[:4].upper() in {FIRST, FURTHER} and path[4:5] in set(_SEPARATORS)


def rewritten(reverse_path: str, domain: str, secret: bytes, day: int) -> str | None:
    """A path at `domain` that leads back to `reverse_path` (not the null one); None: it cannot be rewritten.

    `day` is the number of days since the epoch."""
    local_part, _, source = reverse_path.rpartition("@")
    kind = local_part[:4].upper() if is_rewritten(reverse_path) else ""
    if kind == FURTHER and local_part[4] == "=":
        _, _, rest = local_part.split("=", 2) if local_part.count("=") > 1 else ("", "", "")
        body, name = rest, FURTHER
    elif kind == FIRST:
        body, name = f"{source}={local_part[4:]}", FURTHER
    else:
        body, name = f"{_stamp(day)}={source}={local_part}", FIRST
    path = f"{name}={_hash(secret, name, body)}={body}@{domain}"
    return path if body and _is_path(path) and _is_path(reverse_path) else None


def restored(path: str, secrets: Sequence[bytes], day: int, max_age_days: int) -> str | Unfit:
    """Where a bounce to `path` goes."""
    name, (digest, body) = path[:4].upper(), _parts(path)
    given = digest.upper().encode("utf-8", "surrogatepass")
    if not any(hmac.compare_digest(_hash(secret, name, body).encode(), given) for secret in secrets):
        return Unfit.FORGED
    stamp, _, rest = body.partition("=")
    if name == FURTHER:
        back = f"{FIRST}{rest}@{stamp}"
    else:
        if (day - _day(stamp) + CLOCK_DAYS) % DAYS > max_age_days + CLOCK_DAYS:
            return Unfit.EXPIRED
        source, _, local_part = rest.partition("=")
        back = f"{local_part}@{source}"
    return back if _is_path(back) else Unfit.FORGED


def _parts(path: str) -> tuple[str, str]:
    """(hash, what it is of); the separator behind SRS0 and SRS1 may be any of three."""
    digest, _, body = path.rpartition("@")[0][5:].partition("=")
    return digest, body


def _hash(secret: bytes, name: str, body: str) -> str:
    octets = f"{name}={body}".lower().encode("utf-8", "surrogatepass")
    return base64.b32encode(hmac.digest(secret, octets, hashlib.sha256)).decode()[:HASH_CHARACTERS]


def _stamp(day: int) -> str:
    high, low = divmod(day % DAYS, len(_DIGITS))
    return _DIGITS[high] + _DIGITS[low]


def _day(stamp: str) -> int:
    """Of a stamp whose hash was right: it is two digits."""
    high, low = (_DIGITS.index(digit) for digit in stamp.upper())
    return high * len(_DIGITS) + low


def _is_path(path: str) -> bool:
    """One that every host takes: the local part no longer than RFC 5321 has it, and without quotes."""
    try:
        parsed = parse_address(path, utf8=True)
    except AddressError:
        return False
    return '"' not in parsed.local_part and not domain_of(path).startswith("[")
