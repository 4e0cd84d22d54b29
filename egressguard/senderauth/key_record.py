"""A DKIM public key as DNS has it (RFC 6376 s3.6.1, RFC 8301, RFC 8463), before dkimpy may use it.

Contract
    Pure. RSA keys have 1024 to 8192 bits and a short exponent: verifying with what others may publish else takes hours.
    A key serves what its record says: its algorithm, its hashes, mail. Whatever does not fit raises Refused.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dkim
import nacl.exceptions
from dkim.util import InvalidTagValueList, parse_tag_value

from egressguard.senderauth.verdict import Refused

RECORD_OCTETS = 4096
RSA_BITS = range(1024, 8192 + 1)  # RFC 8301 s3.2 has the lower bound
EXPONENT_BITS = 33  # 65537 has 17; RFC 8017 allows any

_FAULTS = (dkim.DKIMException, binascii.Error, nacl.exceptions.CryptoError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Key:
    """`material` is dkimpy's. `testing` (t=y): the domain only tries DKIM; `same_domain` (t=s): i= is not below d=."""

    material: Any
    bits: int
    kind: bytes
    testing: bool = False
    same_domain: bool = False


def parse_key(texts: tuple[bytes, ...], algorithm: bytes) -> Key:
    """The key for signatures of `algorithm` ("rsa-sha256") in the TXT records found. Raises Refused.

    Which of several records counts is ours to choose (RFC 6376 s3.6.2.2): the first in order that looks like a key."""
    records = [tags for tags in map(_tags, sorted(texts)) if tags is not None and b"p" in tags]
    if not records:
        raise Refused("permerror", "no key record")
    return _key(records[0], algorithm)


def _tags(text: bytes) -> Mapping[bytes, bytes] | None:
    if len(text) > RECORD_OCTETS:
        return None
    try:
        return dict(parse_tag_value(text))
    except InvalidTagValueList:
        return None


def _key(tags: Mapping[bytes, bytes], algorithm: bytes) -> Key:
    if not tags[b"p"].strip():
        raise Refused("permerror", "the key is revoked")
    _serves(tags, algorithm)
    kind = tags.get(b"k", b"rsa")
    material, bits = _material(kind, tags[b"p"])
    flags = _listed(tags.get(b"t", b""))
    return Key(material, bits, kind, testing=b"y" in flags, same_domain=b"s" in flags)


def _serves(tags: Mapping[bytes, bytes], algorithm: bytes) -> None:
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        raise Refused("permerror", "the key record is of an unknown version")
    if tags.get(b"k", b"rsa") != algorithm.partition(b"-")[0]:
        raise Refused("permerror", "the key is for another algorithm")
    if b"h" in tags and b"sha256" not in _listed(tags[b"h"]):
        raise Refused("permerror", "the key is not for sha256")
    if not {b"*", b"email"} & _listed(tags.get(b"s", b"*")):
        raise Refused("permerror", "the key is not for mail")


def _listed(value: bytes) -> set[bytes]:
    return {item.strip() for item in value.split(b":")}


def _material(kind: bytes, octets: bytes) -> tuple[Any, int]:
    try:
        material, bits, _, _ = dkim.evaluate_pk("", b"k=" + kind + b"; p=" + octets)
    except _FAULTS as wrong:
        raise Refused("permerror", "the key cannot be read") from wrong
    if kind == b"rsa":
        if bits not in RSA_BITS:
            raise Refused("policy", f"an RSA key of {bits} bits")
        exponent = material["publicExponent"]
        if exponent < 3 or exponent % 2 == 0 or exponent.bit_length() > EXPONENT_BITS:
            raise Refused("policy", "an RSA key with an unusual exponent")
    return material, bits
