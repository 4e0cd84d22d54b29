"""DKIM (RFC 6376): every signature of a message, each with a verdict of its own.

Contract
    At most MOST_SIGNATURES are looked at, from the top. Keys are asked for all at once, on the event loop.
    A signature that leaves octets of the body unsigned (l=) is "policy": anybody could have put them there (s8.2).
    A domain that says it is only trying DKIM (t=y) does not fail; it may pass (s3.6.1).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from egressguard.senderauth.key_record import Key, parse_key
from egressguard.senderauth.message import Fields, Message
from egressguard.senderauth.resolver import FAILED, Questions, Records, TooManyQuestions
from egressguard.senderauth.signature import (
    Signature,
    check_body,
    check_fields,
    parse_signature,
    read_tags,
    signed_names,
)
from egressguard.senderauth.verdict import Refused, Verdict, plain
from egressguard.senderauth.workers import Workers

MOST_SIGNATURES = 10

_REQUIRED = (b"v", b"a", b"b", b"bh", b"d", b"h", b"s")
_SHOWN = {b"d": "header.d", b"s": "header.s", b"a": "header.a"}


@dataclass(frozen=True, slots=True)
class Signed:
    """What stands in the message: its fields, and its signatures or why one is none."""

    fields: Fields
    signatures: tuple[Signature | Verdict, ...]


async def check_dkim(message: Message, questions: Questions, workers: Workers, now: float) -> tuple[Verdict, ...]:
    """A verdict for each signature; one "none" where there is none. `now` in seconds since the epoch."""
    if b"dkim-signature" not in message.header_section.lower():
        return (Verdict("dkim", "none", "not signed"),)
    try:
        signed = await workers.run(read_signatures, message, now)
    except Refused as refused:
        return (Verdict("dkim", refused.result, refused.reason),)
    if not signed.signatures:
        return (Verdict("dkim", "none", "not signed"),)
    names = sorted({item.key_name for item in signed.signatures if isinstance(item, Signature)})
    found = await asyncio.gather(*(key_records(questions, name) for name in names))
    return await workers.run(_verify_all, message, signed, dict(zip(names, found, strict=True)))


async def key_records(questions: Questions, name: str) -> Records:
    try:
        return await questions.ask(name, "TXT")
    except TooManyQuestions:
        return FAILED


def read_signatures(message: Message, now: float) -> Signed:
    """Raises Refused: no signature of this message can be looked at."""
    fields = message.fields()
    signatures = [field for field in fields if field[0].lower() == b"dkim-signature"][:MOST_SIGNATURES]
    return Signed(fields, tuple(_read(field, now) for field in signatures))


def _read(field: tuple[bytes, bytes], now: float) -> Signature | Verdict:
    try:
        tags = read_tags(field[1])
    except Refused as refused:
        return Verdict("dkim", refused.result, refused.reason)
    try:
        return parse_signature(field, tags, required=_REQUIRED, arc=False, now=now)
    except Refused as refused:
        return Verdict("dkim", refused.result, refused.reason, _properties(tags))


def _properties(tags: Mapping[bytes, bytes]) -> tuple[tuple[str, str], ...]:
    """Which signature it is. b= tells two of the same key apart (RFC 6008)."""
    shown = [(name, _shown(tags[tag])) for tag, name in _SHOWN.items() if tag in tags]
    start = _shown(b"".join(tags.get(b"b", b"").split())[:8])
    return (*shown, ("header.b", start)) if start else tuple(shown)


def _shown(octets: bytes) -> str:
    return plain(octets.decode("utf-8", "replace"))


def _verify_all(message: Message, signed: Signed, keys: dict[str, Records]) -> tuple[Verdict, ...]:
    return tuple(
        _verify(message, signed.fields, item, keys[item.key_name]) if isinstance(item, Signature) else item
        for item in signed.signatures
    )


def _verify(message: Message, fields: Fields, signature: Signature, records: Records) -> Verdict:
    properties = (("header.d", signature.domain), *_properties(signature.tags)[1:])
    if records.failed:
        return Verdict("dkim", "temperror", "DNS gave no answer for the key", properties)
    testing = False
    try:
        key = parse_key(records.values, signature.algorithm)
        testing = key.testing
        note = _check(message, fields, signature, key)
    except Refused as refused:
        if testing and refused.result == "fail":
            return Verdict("dkim", "neutral", f"{refused.reason}; the domain is testing", properties)
        return Verdict("dkim", refused.result, refused.reason, properties)
    return Verdict("dkim", "pass", note, properties)


def _check(message: Message, fields: Fields, signature: Signature, key: Key) -> str:
    """What is to be said of a signature that holds. Raises Refused."""
    if key.same_domain and _identity_domain(signature) != signature.tags[b"d"].lower():
        raise Refused("permerror", "i= is not of the domain d=, and the key asks for that")
    unsigned = check_body(signature, message)
    check_fields(signature, signed_names(signature), fields, key)
    if unsigned:
        raise Refused("policy", f"l= leaves {unsigned} octets of the body unsigned")
    if key.testing:
        return "the domain is testing"
    return "l= covers the whole body" if b"l" in signature.tags else ""


def _identity_domain(signature: Signature) -> bytes:
    tags = signature.tags
    return tags.get(b"i", b"@" + tags[b"d"]).lower().rpartition(b"@")[2]
