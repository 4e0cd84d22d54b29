"""Which message has which UID: Dovecot's dovecot-uidlist and Courier's courierimapuiddb.

Contract
    Pure. A list whose first line is not understood is no list: None. Of the lines behind it those count that can be
    right: a UID that ascends, a file name. UIDs that were given are never given again: `uid_next` lies above all.
    `render_uid_list` writes what Dovecot 2.3 and 2.4 read; reading it gives the same value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from egressguard.mailbox.takeover.source import MAX_UID

FILE = "dovecot-uidlist"
COURIER_FILE = "courierimapuiddb"
_COURIER_HEAD = re.compile(rb"1 (\d{1,10}) (\d{1,10})\s*")


@dataclass(frozen=True, slots=True)
class Given:
    """A UID; `uidl` is what POP3 clients call the message, and `pop3_order` where among the others POP3 shows it, where
    the list says so."""

    uid: int
    uidl: str | None = None
    pop3_order: int | None = None


@dataclass(slots=True)
class UidList:
    uid_validity: int
    uid_next: int
    given: dict[str, Given] = field(default_factory=dict)
    """By the file's base name."""
    guid: str = ""


def parse_dovecot(lines: list[bytes]) -> UidList | None:
    """Version 3, and version 1, which is Courier's."""
    if not lines or not lines[0].startswith(b"3 "):
        return parse_courier(lines)
    fields = {word[:1]: word[1:] for word in lines[0].split()[1:]}
    validity, following = _number(fields.get(b"V", b"")), _number(fields.get(b"N", b"1"))
    if validity is None or following is None:
        return None
    found = UidList(validity, following, guid=fields.get(b"G", b"").decode("ascii", "replace"))
    for line in lines[1:]:
        head, colon, name = line.partition(b" :")
        words = head.split(b" ")
        if colon:
            told = {word[:1]: word[1:] for word in words[1:]}
            uidl = told.get(b"P", b"").decode("ascii", "replace") or None
            _take(found, words[0], name, uidl, _number(told.get(b"O", b"")))
    return found


def parse_courier(lines: list[bytes]) -> UidList | None:
    head = _COURIER_HEAD.fullmatch(lines[0]) if lines else None
    if head is None or (validity := _number(head[1])) is None or (following := _number(head[2])) is None:
        return None
    found = UidList(validity, following)
    for line in lines[1:]:
        uid, _, name = line.partition(b" ")
        _take(found, uid, name)
    return found


def render_uid_list(
    uid_validity: int, uid_next: int, guid: str, messages: Iterable[tuple[str, Given]]
) -> Iterable[bytes]:
    """Lines, of the base name of a file and what it was given, UIDs ascending."""
    yield f"3 V{uid_validity} N{uid_next} G{guid}\n".encode()
    for base, given in messages:
        words = [str(given.uid)]
        if given.uidl:
            words.append(f"P{given.uidl}")
        if given.pop3_order:
            words.append(f"O{given.pop3_order}")
        yield f"{' '.join(words)} :{base}\n".encode("utf-8", "surrogateescape")


def base_of(name: str) -> str:
    """A message file's name without its flags."""
    return name.partition(":")[0]


def _take(found: UidList, digits: bytes, name: bytes, uidl: str | None = None, pop3_order: int | None = None) -> None:
    uid = _number(digits)
    base = base_of(name.decode("utf-8", "surrogateescape"))
    if uid is None or not base:
        return
    found.given[base] = Given(uid, uidl, pop3_order)  # a line that came later is about the file as it is now
    found.uid_next = max(found.uid_next, min(uid + 1, MAX_UID))


def _number(digits: bytes) -> int | None:
    """A UID or UIDVALIDITY: 1 to 2^32 - 1 (RFC 3501 s9, nz-number)."""
    return int(digits) if digits.isdigit() and len(digits) <= 10 and 1 <= int(digits) <= MAX_UID else None
