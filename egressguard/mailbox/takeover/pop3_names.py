"""UIDLs: what POP3 clients of the source call a message, so that none downloads all mail again.

Contract
    Pure. A UIDL is 1 to 70 octets from "!" to "~" (RFC 1939 s7); what would be none is None.
    A format is written as Dovecot's pop3_uidl_format: %u UID, %v UIDVALIDITY, %f base name of the file, with a width
    and X for hexadecimal digits, as in %08Xu%08Xv.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

COURIER_FILE = "courierpop3dsizelist"

DOVECOT = "%08Xu%08Xv"
"""Its default."""
UW = "%08Xv%08Xu"
QMAIL = "%f"
NONE = ""

_UIDL = re.compile(r"[!-~]{1,70}")
_VARIABLE = re.compile(r"%(?:(0?)(\d{1,2}))?(X?)([uvfg])")
_COURIER_HEAD = re.compile(rb"/[23] \d{1,10} \d{1,10}(?: .*)?")
_COURIER_LINE = re.compile(rb"(\S{1,255}) \d{1,20} (\d{1,10}):(\d{1,10})(?::\d+)?")


class FormatError(ValueError):
    """Not a format that we know; the message says what is."""


def check_format(text: str) -> str:
    """Raises FormatError."""
    if text and ("%" in _VARIABLE.sub("", text) or not _UIDL.fullmatch(_VARIABLE.sub("", text) or "-")):
        raise FormatError(f"not a UIDL format: {text[:60]!r}; expected %u, %v, %f such as in {DOVECOT} or %v.%u")
    return text


def render_uidl(form: str, uid: int, uid_validity: int | None, base: str) -> str | None:
    """The UIDL of a message by a checked format; None where there can be none."""
    if not form or (uid_validity is None and "v" in form):
        return None
    values = {"u": uid, "v": uid_validity or 0, "f": base, "g": base}

    def value(found: re.Match[str]) -> str:
        given = values[found[4]]
        text = f"{given:x}" if found[3] and isinstance(given, int) else str(given)
        return text.rjust(int(found[2] or 0), "0" if found[1] else " ")

    return checked(_VARIABLE.sub(value, form))


def checked(uidl: str | None) -> str | None:
    return uidl if uidl and _UIDL.fullmatch(uidl) else None


def parse_courier_sizes(lines: list[bytes]) -> dict[str, str]:
    """Base name -> UIDL in the order that POP3 shows, from the list that Courier's POP3 server keeps; {} when it is
    another file."""
    if not lines or not _COURIER_HEAD.fullmatch(lines[0]):
        return {}
    found = {}
    for line in lines[1:]:
        if match := _COURIER_LINE.fullmatch(line):
            base = match[1].decode("utf-8", "surrogateescape").partition(":")[0]
            uidl = checked(f"UID{int(match[2])}-{int(match[3])}" if int(match[2]) else base)
            if uidl:
                found[base] = uidl
    return found


def without_repeats(uidls: Iterable[str | None]) -> list[str | None]:
    """A UIDL is unique in a mailbox (RFC 1939 s7): the first keeps it."""
    seen: set[str] = set()
    out: list[str | None] = []
    for uidl in uidls:
        out.append(None if uidl is None or uidl in seen else uidl)
        if uidl:
            seen.add(uidl)
    return out
