"""Add an ARC set to a message that is handed on (RFC 8617 s5.1): what came, what we found, and that the chain is whole.

Contract
    A set is added only to a chain that was found whole, or where there is none: a broken one stays broken (s5.1.2), and
    of one that nobody could verify we say nothing. A chain of MOST_SETS gets no more.
"""

from __future__ import annotations

from egressguard.senderauth.chain import MOST_SETS, SET_NAMES, read_sets
from egressguard.senderauth.sign_fields import (
    Signable,
    canonical,
    key_tags,
    message_tags,
    names_to_sign,
    relaxed,
    signed_field,
)
from egressguard.senderauth.sign_keys import SigningKey
from egressguard.senderauth.verdict import Refused

_RESULTS, _MESSAGE, _SEAL = SET_NAMES
_ALREADY_SIGNED = "DKIM-Signature"


def arc_set(
    key: SigningKey,
    domain: str,
    selector: str,
    message: Signable,
    signed: tuple[str, ...],
    *,
    results: bytes,
    chain_result: str,
    now: float,
) -> bytes:
    """Seal, message signature and results, to put on top. Raises Refused.

    `results` is the value of our Authentication-Results; `chain_result` what the check of the chain came to."""
    if key.algorithm != "rsa-sha256":
        raise Refused("policy", "an ARC set needs an RSA key")
    sets = read_sets(message.fields)
    if chain_result != ("pass" if sets else "none"):
        raise Refused("policy", f"the chain so far is {chain_result}")
    if len(sets) >= MOST_SETS:
        raise Refused("policy", f"the chain has {MOST_SETS} sets")
    number = b"i=%d" % (len(sets) + 1)
    aar = b"ARC-Authentication-Results: " + number + b"; " + results.strip() + b"\r\n"
    names = (*names_to_sign(message.fields, signed, ()), *_signatures(message))
    tags = [number, *message_tags(key, domain, selector, message, names, now)]
    ams = signed_field(key, b"ARC-Message-Signature", tags, canonical(message.fields, names))
    ours = {_RESULTS: aar, _MESSAGE: ams}
    before = [relaxed(name, one[name][1]) for one in sets for name in SET_NAMES]
    before += [relaxed(name, ours[name].partition(b":")[2]) for name in (_RESULTS, _MESSAGE)]
    state = b"cv=pass" if sets else b"cv=none"
    seal = signed_field(key, b"ARC-Seal", [number, state, *key_tags(key, domain, selector, now)], b"".join(before))
    return seal + ams + aar


def _signatures(message: Signable) -> tuple[bytes, ...]:
    """Signatures that came along are signed (s4.1.2), but for more than verifiers look at."""
    wanted = _ALREADY_SIGNED.lower().encode()
    return tuple(wanted for name, _ in message.fields if name.lower() == wanted)[:10]
