"""Attachments inside TNEF (winmail.dat), by [MS-OXTNEF]: names and contents, nothing else. Bounded, never raises."""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.octets import Octets, part

TNEF = b"\x78\x9f\x3e\x22"
MAX_ATTACHMENTS = 500
MAX_LEVELS = 8
_HEAD_OCTETS = 6
_TITLE_OCTETS = 64 * 1024
_TITLE, _DATA, _START, _PROPERTIES = 0x00018010, 0x0006800F, 0x00069002, 0x00069005
_LONG_NAME = re.compile(rb"(?:\x1e|\x1f)\x00(?:\x07|\x04|\x01)\x37\x01\x00\x00\x00(....)", re.DOTALL)
"""PidTagAttachLongFilename, -AttachFilename and -DisplayName as a single string: its length follows."""


def attachments(content: Octets, levels: int = MAX_LEVELS) -> Iterator[tuple[tuple[str, ...], Octets]]:
    """(names, content) of each attachment, and of those in them; a file that is cut off gives what is there."""
    for names, data in _attachments(content):
        yield names, data
        if data.startswith(TNEF) and levels:
            yield from attachments(data, levels - 1)


def _attachments(content: Octets) -> Iterator[tuple[tuple[str, ...], Octets]]:
    position = _HEAD_OCTETS
    names: list[str] = []
    data: Octets = b""
    given = 0
    while position + 9 <= len(content) and given < MAX_ATTACHMENTS:
        attribute = int.from_bytes(content[position + 1 : position + 5], "little")
        size = int.from_bytes(content[position + 5 : position + 9], "little")
        value = part(content, position + 9, position + 9 + size)
        position += 9 + size + 2
        if attribute == _START:
            if names or data:
                yield tuple(names), data
                given += 1
            names, data = [], b""
        elif attribute == _TITLE:
            names.append(value[:_TITLE_OCTETS].split(b"\0")[0].decode("latin-1"))
        elif attribute == _DATA:
            data = value
        elif attribute == _PROPERTIES:
            names += _long_names(value)
    if names or data:
        yield tuple(names), data


def _long_names(properties: Octets) -> list[str]:
    names = []
    for match in list(_LONG_NAME.finditer(properties[: 1 << 20]))[:10]:
        size = min(int.from_bytes(match[1], "little"), 1024)
        raw = properties[match.end() : match.end() + size]
        text = raw.decode("utf-16-le", "replace") if match.group()[0] == 0x1F else raw.decode("latin-1")
        names.append(text.split("\0")[0])
    return [name for name in names if name]
