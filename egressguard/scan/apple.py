"""Files as Macs wrap them: AppleSingle and AppleDouble (RFC 1740), MacBinary. Bounded, never raises.

Contract
    `files` gives the name that the wrapping gives, with the data fork; AppleDouble has the name alone, its data is
    another part. What only looks like MacBinary gives nothing: all that its header says has to fit.
"""

from __future__ import annotations

from collections.abc import Iterator

from egressguard.scan.octets import Octets, part

SINGLE, DOUBLE = b"\x00\x05\x16\x00", b"\x00\x05\x16\x07"
_DATA_FORK, _REAL_NAME = 1, 3
_HEAD_OCTETS, _ENTRY_OCTETS = 26, 12
_MAX_ENTRIES = 100
_NAME_OCTETS = 1024
_BINARY_OCTETS, _BINARY_NAME = 128, 63

Wrapped = tuple[tuple[str, ...], Octets]


def files(content: Octets) -> Iterator[Wrapped]:
    if content.startswith((SINGLE, DOUBLE)):
        yield from _entries(content)
    elif content[:1] == b"\0":
        yield from _binary(content)


def _entries(content: Octets) -> Iterator[Wrapped]:
    found: dict[int, Octets] = {}
    for number in range(min(int.from_bytes(content[24:26], "big"), _MAX_ENTRIES)):
        entry = content[_HEAD_OCTETS + number * _ENTRY_OCTETS :][:_ENTRY_OCTETS]
        kind, start, size = (int.from_bytes(entry[at : at + 4], "big") for at in (0, 4, 8))
        found.setdefault(kind, part(content, start, start + size))
    name = found.get(_REAL_NAME, b"")[:_NAME_OCTETS]
    if name or _DATA_FORK in found:
        yield _names(name), found.get(_DATA_FORK, b"")


def _binary(content: Octets) -> Iterator[Wrapped]:
    length = content[1] if len(content) >= _BINARY_OCTETS else 0
    name = content[2 : 2 + length]
    data, resource = (int.from_bytes(content[at : at + 4], "big") for at in (83, 87))
    fits = _BINARY_OCTETS + data + resource <= len(content) + 127
    if 0 < length <= _BINARY_NAME and content[74] == content[82] == 0 and fits and b"\0" not in name:
        yield _names(name), part(content, _BINARY_OCTETS, _BINARY_OCTETS + data)


def _names(name: bytes) -> tuple[str, ...]:
    try:
        return (name.decode("utf-8"),) if name else ()
    except UnicodeDecodeError:
        return (name.decode("mac-roman"),)
