"""The author's domain: what DMARC is about (RFC 7489 s6.6.1, RFC 5322 s3.6.2).

Contract
    Pure, linear in the octets. One From field, whose mailboxes all are of one domain, or no author at all: what people
    are shown as the author differs from program to program as soon as the grammar is broken.
    A display name with an address in it must be quoted, unless it is the very address that follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from egressguard.mail.header import find_fields
from egressguard.senderauth.domains import ascii_domain

FROM_OCTETS = 16 * 1024
MOST_MAILBOXES = 100

_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|[<>,:;]|[^\s"<>,:;()]+|\s+', re.DOTALL)
_ADDRESS = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s"@]+)@([^\s"@]+)', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_ANOTHER = re.compile(rb"^from[ \t]*:", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Author:
    """`domain` as DNS is asked for it; "" = there is no one author's domain, and `fault` says why."""

    domain: str
    fault: str = ""


@dataclass(slots=True)
class _Mailbox:
    phrase: list[str] = field(default_factory=list)
    bracketed: list[str] | None = None
    closed: bool = False


class _Malformed(Exception):
    pass


def author_of(header_section: bytes, rest: bytes = b"") -> Author:
    """`rest` is what stands behind the header section: where that ended at a broken line, others may read on."""
    values = find_fields(header_section, "From", limit=2)
    if len(values) > 1 or (values and _reads_on(rest)):
        return Author("", "more than one From field")
    if not values:
        return Author("", "no From field")
    try:
        domains = {_domain(address) for address in _mailboxes(values[0])}
    except _Malformed:
        return Author("", "malformed From field")
    if len(domains) != 1:
        return Author("", "a From field of several domains")
    return Author(domains.pop())


def _reads_on(rest: bytes) -> bool:
    if not rest or rest.startswith((b"\r\n", b"\n")):
        return False
    return _ANOTHER.search(rest.partition(b"\r\n\r\n")[0]) is not None


def _domain(address: str) -> str:
    found = _ADDRESS.fullmatch(address)
    domain = ascii_domain(found[1]) if found else None
    if domain is None:
        raise _Malformed
    return domain


def _mailboxes(value: bytes) -> list[str]:
    """The addresses of a mailbox-list, as written. Raises _Malformed; a group (RFC 6854) is that, too."""
    text = value.decode("utf-8", "surrogateescape")
    if len(value) > FROM_OCTETS or _CONTROL.search(text):
        raise _Malformed
    found, mailbox = [], _Mailbox()
    for word in _words(text):
        if word == "," and mailbox.closed is (mailbox.bracketed is not None):
            found.append(_address(mailbox))
            mailbox = _Mailbox()
        else:
            _add(mailbox, word)
        if len(found) >= MOST_MAILBOXES:
            raise _Malformed
    return [*found, _address(mailbox)]


def _add(mailbox: _Mailbox, word: str) -> None:
    if word == "<" and mailbox.bracketed is None:
        mailbox.bracketed = []
    elif word == ">" and mailbox.bracketed is not None and not mailbox.closed:
        mailbox.closed = True
    elif word in "<>,:;":
        raise _Malformed
    elif mailbox.bracketed is None:
        mailbox.phrase.append(word)
    elif not mailbox.closed:
        mailbox.bracketed.append(word)
    elif not word.isspace():
        raise _Malformed


def _address(mailbox: _Mailbox) -> str:
    if mailbox.bracketed is None:
        return "".join(mailbox.phrase).strip()
    address = "".join(mailbox.bracketed).strip()
    named = any("@" in word and not word.startswith('"') for word in mailbox.phrase)
    if not mailbox.closed or (named and "".join(mailbox.phrase).strip().lower() != address.lower()):
        raise _Malformed
    return address


def _words(text: str) -> list[str]:
    """Words, quoted strings, specials and blanks; a comment is a blank."""
    words, at = [], 0
    while at < len(text):
        if text[at] == "(":
            at = _behind_comment(text, at)
            words.append(" ")
            continue
        found = _WORD.match(text, at)
        if not found:
            raise _Malformed
        words.append(found[0])
        at = found.end()
    return words


def _behind_comment(text: str, at: int) -> int:
    """Comments nest (RFC 5322 s3.2.2)."""
    depth = 0
    while at < len(text):
        character = text[at]
        if character == "\\":
            at += 1
        elif character in "()":
            depth += 1 if character == "(" else -1
        at += 1
        if depth == 0:
            return at
    raise _Malformed
