"""Make signatures over header fields and body: DKIM-Signature (RFC 6376), relaxed/relaxed. Pure but for the key.

Contract
    Nothing of the message is changed: what comes out is a field to put on top.
    A message that verifiers may read in different ways is not signed: Refused says why.
    A signed field that is there is named once more than it is there, so that nobody can add another; fields of
    `oversigned` are named even where there is none.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from egressguard.senderauth.message import Fields, Message, Octets, body_digest
from egressguard.senderauth.sign_keys import SigningKey
from egressguard.senderauth.verdict import Refused

MOST_NAMES = 150
"""Verifiers, ours too (senderauth.signature), take no endless h=."""
LINE_CHARACTERS = 70

_BLANKS = re.compile(rb"[ \t]+")
CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Signable:
    """`fields` from the top, ours in front of the message's own; `body_hash` in base64."""

    fields: Fields
    body_hash: bytes


def signable(front: bytes, section: bytes, content: Octets) -> Signable:
    """What there is to sign of `front`, and behind it `content`, which begins with `section`. Raises Refused."""
    for part in (front, section):
        if not part.count(b"\r") == part.count(b"\n") == part.count(CRLF):
            raise Refused("permerror", "a line of the header section does not end in CRLF")
    rest = len(section)
    if content[rest : rest + 2] not in (b"", CRLF):
        raise Refused("permerror", "the header section is malformed")
    fields = Message(front + section, None).fields()
    digest, _ = body_digest(content, rest + 2, relaxed=True)
    return Signable(fields, base64.b64encode(digest))


def names_to_sign(fields: Fields, signed: tuple[str, ...], oversigned: tuple[str, ...]) -> tuple[bytes, ...]:
    """The value of h=, lower case. Raises Refused."""
    there = Counter(name.lower() for name, _ in fields)
    names: list[bytes] = []
    for name, always in _wanted(signed, oversigned).items():
        if always or name in there:
            names += [name] * (there[name] + 1)
    if len(names) > MOST_NAMES:
        raise Refused("policy", f"more than {MOST_NAMES} header fields to sign")
    return tuple(names)


@lru_cache(64)
def _wanted(signed: tuple[str, ...], oversigned: tuple[str, ...]) -> dict[bytes, bool]:
    """The rules' names in lower case -> whether each is signed where there is none, too."""
    always = [name.lower().encode("ascii") for name in oversigned]
    return {name: name in always for name in [*(name.lower().encode("ascii") for name in signed), *always]}


def dkim_signature(
    key: SigningKey, domain: str, selector: str, message: Signable, names: Sequence[bytes], now: float
) -> bytes:
    """The whole field with its CRLF."""
    tags = [b"v=1", *message_tags(key, domain, selector, message, names, now)]
    return signed_field(key, b"DKIM-Signature", tags, canonical(message.fields, names))


def message_tags(
    key: SigningKey, domain: str, selector: str, message: Signable, names: Sequence[bytes], now: float
) -> list[bytes]:
    """The tags that a DKIM-Signature and an ARC-Message-Signature have in common."""
    return [
        *key_tags(key, domain, selector, now),
        b"c=relaxed/relaxed",
        b"bh=" + message.body_hash,
        _names_tag(tuple(names)),
    ]


@lru_cache(256)
def _names_tag(names: tuple[bytes, ...]) -> bytes:
    """Most mail of a site has the same fields."""
    return b"h=" + b"".join(_broken(b"%s:" % name for name in names))[:-1]


def key_tags(key: SigningKey, domain: str, selector: str, now: float) -> list[bytes]:
    tags = (f"a={key.algorithm}", f"d={domain}", f"s={selector}", f"t={int(now)}")
    return [tag.encode("ascii") for tag in tags]


def signed_field(key: SigningKey, name: bytes, tags: Sequence[bytes], before: bytes) -> bytes:
    """The field `name`, its signature (b=) over `before` and over itself."""
    value = b" " + _lines(tags) + b";\r\n\tb="
    signature = base64.b64encode(key.sign(before + relaxed(name, value)[: -len(CRLF)]))
    pieces = (signature[at : at + LINE_CHARACTERS] for at in range(0, len(signature), LINE_CHARACTERS))
    return name + b":" + value + b"\r\n\t ".join(pieces) + CRLF


def canonical(fields: Fields, names: Iterable[bytes]) -> bytes:
    """The fields called `names`, each name the lowest one left (RFC 6376 s5.4.2), in relaxed form."""
    left: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        left.setdefault(name.lower(), []).append(value)
    return b"".join(relaxed(name, left[name].pop()) for name in names if left.get(name))


def relaxed(name: bytes, value: bytes) -> bytes:
    """One field, canonicalised (RFC 6376 s3.4.2)."""
    line = value.replace(CRLF, b"")
    if b"\t" in line or b"  " in line:
        line = _BLANKS.sub(b" ", line)
    return name.lower() + b":" + line.strip(b" ") + CRLF


def _lines(tags: Iterable[bytes]) -> bytes:
    return b";".join(_broken(tag if at == 0 else b" " + tag for at, tag in enumerate(tags)))


def _broken(words: Iterable[bytes]) -> Iterator[bytes]:
    """`words`, a new line where one would be over LINE_CHARACTERS; what has line ends of its own starts one."""
    room = LINE_CHARACTERS
    for word in words:
        if len(word) < room and CRLF not in word:
            room -= len(word) + 1
            yield word
        else:
            room = LINE_CHARACTERS - len(word.rpartition(CRLF)[2])
            yield CRLF + b"\t" + word.lstrip(b" ")
