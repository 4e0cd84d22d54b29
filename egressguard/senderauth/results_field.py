"""Authentication-Results (RFC 8601): write our own, and find those that claim to be ours.

Contract
    Pure. A field is one field whatever the values are: nothing of theirs gets past its quotes, no line is over 998.
    An incoming field counts as forged when its authserv-id is ours, or cannot be told (s5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.senderauth.domains import ascii_domain
from egressguard.senderauth.verdict import SenderAuthentication, Verdict

VALUE_CHARACTERS = 320  # the longest address
SERV_ID_CHARACTERS = 2000
"""An authserv-id that does not stand within these, behind whatever comments, cannot be told."""
NAME = "Authentication-Results"

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_BARE = re.compile(rf"(?:(?:{_ATOM}(?:\.{_ATOM})*)?@)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_TOKEN = re.compile(r"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+")  # RFC 2045 s5.1
_UNSAFE = re.compile(r"[^ -~]")

_LINE = re.compile(rb"[^\n]*\n|[^\n]+\Z")
_IS_OURS = re.compile(rb"authentication-results[ \t]*:", re.IGNORECASE)
_SERV_ID = re.compile(r'"((?:[^"\\]|\\.)*)"|([^\s;()"]+)', re.DOTALL)


def authentication_results(hostname: str, result: SenderAuthentication) -> bytes:
    """The whole field with its CRLF; `hostname` is our authserv-id. The reason is told where it is no pass."""
    verdicts = [result.spf, *([] if result.helo.properties == result.spf.properties else [result.helo])]
    verdicts += [*result.dkim, result.dmarc, result.arc]
    infos = [_info(verdict) for verdict in verdicts]
    return (";\r\n\t".join([f"{NAME}: {_value(hostname)}", *infos]) + "\r\n").encode("ascii")


def _info(verdict: Verdict) -> str:
    parts = [f"{verdict.method}={verdict.result}"]
    if verdict.reason and verdict.result not in ("pass", "none"):
        parts.append(f"reason={_quoted(verdict.reason)}")
    parts += [f"{name}={_value(value)}" for name, value in verdict.properties if value]
    return "\r\n\t ".join(parts)


def _value(text: str) -> str:
    text = text[:VALUE_CHARACTERS]
    return text if _BARE.fullmatch(text) or _TOKEN.fullmatch(text) else _quoted(text)


def _quoted(text: str) -> str:
    safe = _UNSAFE.sub("?", text[:VALUE_CHARACTERS])
    return '"' + safe.replace("\\", "\\\\").replace('"', '\\"') + '"'


def forged_results(header_section: bytes, hostname: str) -> tuple[int, ...]:
    """Where the names of those Authentication-Results fields begin that claim our authserv-id."""
    own, places, at = _known(hostname), [], 0
    for lines in _fields(header_section):
        if _is_forged(lines, own):
            places.append(at)
        at += sum(map(len, lines))
    return tuple(places)


def _fields(header_section: bytes) -> Iterator[list[bytes]]:
    """Each field's lines; a line that begins with a blank belongs to what stands above it."""
    lines: list[bytes] = []
    for found in _LINE.finditer(header_section):
        if lines and found[0][:1] not in (b" ", b"\t"):
            yield lines
            lines = []
        lines.append(found[0])
    if lines:
        yield lines


def _is_forged(lines: list[bytes], own: str) -> bool:
    if not _IS_OURS.match(lines[0]):
        return False
    value = b"".join(lines).partition(b":")[2].decode("utf-8", "replace")
    claimed = authserv_id(value[:SERV_ID_CHARACTERS])
    return claimed is None or _known(claimed) == own


def _known(name: str) -> str:
    name = name.strip().removesuffix(".")
    return ascii_domain(name) or name.lower()


def authserv_id(value: str) -> str | None:
    """Who says that they made this field (RFC 8601 s2.2); None: nobody can tell."""
    at = _behind_comments(value)
    found = _SERV_ID.match(value, at) if at is not None else None
    if not found:
        return None
    return re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if found[2] is None else found[2]


def _behind_comments(value: str) -> int | None:
    at, depth = 0, 0
    while at < len(value):
        character = value[at]
        if character == "(":
            depth += 1
        elif character == ")" and depth:
            depth -= 1
        elif character == "\\" and depth:
            at += 1
        elif not depth and not character.isspace():
            return at
        at += 1
    return None
