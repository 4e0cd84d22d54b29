"""ARC (RFC 8617 s5.2): is the chain of those who handled a message unbroken?

Contract
    The rules of the chain are here, the arithmetic is dkimpy's. dkimpy's own verifier of chains verifies every old
    ARC-Message-Signature (s5.2 asks for the newest only), wants fields in order and "i=" after a blank, and has no
    bound of sets. At most MOST_SETS sets; keys are asked for all at once, on the event loop.
    A pass says that the chain is whole, and nothing of whether its members can be trusted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from egressguard.senderauth.key_record import parse_key
from egressguard.senderauth.message import Fields, Message
from egressguard.senderauth.resolver import Questions, Records
from egressguard.senderauth.signature import (
    BLANKS_IN_A_ROW,
    Signature,
    check_body,
    check_fields,
    parse_signature,
    read_tags,
    signed_names,
)
from egressguard.senderauth.signatures import key_records
from egressguard.senderauth.verdict import Refused, Verdict, plain
from egressguard.senderauth.workers import Workers

MOST_SETS = 50  # RFC 8617 s4.2.1

_RESULTS, _MESSAGE, _SEAL = b"arc-authentication-results", b"arc-message-signature", b"arc-seal"
SET_NAMES = (_RESULTS, _MESSAGE, _SEAL)
_IN_MESSAGE = (b"i", b"a", b"b", b"bh", b"d", b"h", b"s")
_IN_SEAL = (b"i", b"a", b"b", b"cv", b"d", b"s")
_INSTANCE = re.compile(rb"0*([1-9][0-9]?)")
_FIRST_TAG = re.compile(rb"\s{0,%d}i\s{0,%d}=([^;]{1,%d});" % ((BLANKS_IN_A_ROW,) * 3))


@dataclass(frozen=True, slots=True)
class Chain:
    """`sets` by instance from 1, each name -> field; `newest` and `seals` are what is to be verified."""

    fields: Fields
    sets: tuple[Mapping[bytes, tuple[bytes, bytes]], ...]
    newest: Signature
    seals: tuple[Signature, ...]

    @property
    def key_names(self) -> list[str]:
        return sorted({signature.key_name for signature in (self.newest, *self.seals)})


async def check_arc(message: Message, questions: Questions, workers: Workers, now: float) -> Verdict:
    """ "none": there is no chain; "temperror": DNS gave no key; "policy": the body is not at hand. `now` in seconds."""
    if b"arc-" not in message.header_section.lower():
        return Verdict("arc", "none")
    try:
        chain = await workers.run(read_chain, message, now)
        if chain is None:
            return Verdict("arc", "none")
        if not message.whole:
            return Verdict("arc", "policy", "the message is too large to be verified")
        found = await asyncio.gather(*(key_records(questions, name) for name in chain.key_names))
        return await workers.run(_verify, message, chain, dict(zip(chain.key_names, found, strict=True)))
    except Refused as refused:  # whatever is wrong with a link, the chain is broken
        return Verdict("arc", "fail", refused.reason)


def read_chain(message: Message, now: float) -> Chain | None:
    """None: there is none. Raises Refused: it is broken as it stands (s5.2 steps 1 to 3)."""
    fields = message.fields()
    sets = read_sets(fields)
    if not sets:
        return None
    seals = tuple(_seal(one[_SEAL], instance, now) for instance, one in enumerate(sets, 1))
    field = sets[-1][_MESSAGE]
    newest = parse_signature(field, _relaxed(read_tags(field[1])), required=_IN_MESSAGE, arc=True, now=now)
    if _SEAL in signed_names(newest):
        raise Refused("fail", "the newest ARC-Message-Signature signs ARC-Seal")
    return Chain(fields, sets, newest, seals)


def read_sets(fields: Fields) -> tuple[Mapping[bytes, tuple[bytes, bytes]], ...]:
    """The ARC sets among `fields`, by instance from 1: name -> field. Raises Refused: not all of them are whole."""
    sets: dict[int, dict[bytes, tuple[bytes, bytes]]] = {}
    for field in fields:
        if field[0].lower() not in SET_NAMES:
            continue
        name, instance = field[0].lower(), _instance(field)
        one = sets.setdefault(instance, {})
        if name in one:
            raise Refused("fail", f"set {instance} has a field twice")
        one[name] = field
    for instance in range(1, len(sets) + 1):
        if len(sets.get(instance, ())) != len(SET_NAMES):
            raise Refused("fail", f"set {instance} is not complete")
    return tuple(sets[instance] for instance in range(1, len(sets) + 1))


def _instance(field: tuple[bytes, bytes]) -> int:
    name, value = field
    if name.lower() == _RESULTS:
        found = _FIRST_TAG.match(value)
        text = found[1].strip() if found else b""
    else:
        text = read_tags(value).get(b"i", b"")
    number = _INSTANCE.fullmatch(text)
    if not number or int(number[1]) > MOST_SETS:
        raise Refused("fail", f"an instance is not between 1 and {MOST_SETS}")
    return int(number[1])


def _seal(field: tuple[bytes, bytes], instance: int, now: float) -> Signature:
    tags = read_tags(field[1])
    expected = b"none" if instance == 1 else b"pass"
    if tags.get(b"cv") != expected:
        raise Refused("fail", f"seal {instance} says cv={plain(tags.get(b'cv', b'').decode('ascii', 'replace'), 20)}")
    if b"h" in tags:
        raise Refused("fail", f"seal {instance} has h=")  # s4.1.3
    return parse_signature(field, _relaxed(tags), required=_IN_SEAL, arc=True, now=now)


def _relaxed(tags: Mapping[bytes, bytes]) -> Mapping[bytes, bytes]:
    return {b"c": b"relaxed/relaxed", **tags}


def _verify(message: Message, chain: Chain, keys: Mapping[str, Records]) -> Verdict:
    """Steps 4 to 6. Raises Refused."""
    if any(records.failed for records in keys.values()):
        return Verdict("arc", "temperror", "DNS gave no answer for a key")
    if check_body(chain.newest, message):
        raise Refused("fail", "l= leaves octets of the body unsigned")
    names = signed_names(chain.newest)
    check_fields(chain.newest, names, chain.fields, parse_key(keys[chain.newest.key_name].values, b"rsa-sha256"))
    for instance in range(len(chain.seals), 0, -1):
        _verify_seal(chain, instance, keys)
    return Verdict("arc", "pass", f"{len(chain.sets)} sets, the newest of {chain.seals[-1].domain}")


def _verify_seal(chain: Chain, instance: int, keys: Mapping[str, Records]) -> None:
    """A seal covers all fields of all sets up to its own, in their order, itself last (s5.1.1)."""
    seal = chain.seals[instance - 1]
    names = [name for _ in range(instance) for name in SET_NAMES][:-1]
    # Fields are picked from the lowest up: the oldest set has to stand lowest, wherever it stood.
    ordered = [one[name] for one in reversed(chain.sets[:instance]) for name in reversed(SET_NAMES)]
    try:
        check_fields(seal, names, ordered, parse_key(keys[seal.key_name].values, b"rsa-sha256"))
    except Refused as refused:
        raise Refused("fail", f"seal {instance}: {refused.reason}") from refused
