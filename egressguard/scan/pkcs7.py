"""What an S/MIME opaque signature wraps (RFC 8551 s3.5.2): the octet strings inside, in BER or DER. Never raises."""

from __future__ import annotations

_DATA = bytes.fromhex("06092a864886f70d010701")
"""The object identifier id-data (RFC 5652 s4): the signed content follows."""

_OCTET_STRING, _CONSTRUCTED_STRING, _CONTEXT_0 = 0x04, 0x24, 0xA0
_SHORTEST = 16
_DEEPEST = 8
_MOST_PIECES = 100_000


def signed_content(content: bytes) -> bytes | None:
    """The message inside a SignedData, None when there is none."""
    start = content.find(_DATA)
    if start < 0:
        return None
    pieces: list[bytes] = []
    _collect(content, start + len(_DATA), _DEEPEST, pieces)
    inner = b"".join(pieces)
    return inner if len(inner) >= _SHORTEST else None


def _collect(content: bytes, position: int, levels: int, pieces: list[bytes]) -> int:
    """Follow the strings from `position` on; the position after the last."""
    while levels and position + 2 <= len(content) and len(pieces) < _MOST_PIECES:
        tag = content[position]
        if tag not in (_OCTET_STRING, _CONSTRUCTED_STRING, _CONTEXT_0):
            return position
        size, body = _length(content, position + 1)
        if tag == _OCTET_STRING:
            if size is None:
                return position
            pieces.append(content[body : body + size])
            position = body + size
            continue
        after = _collect(content, body, levels - 1, pieces)
        ended = content[after : after + 2] == b"\0\0"  # as the indefinite form ends (X.690 s8.1.3.6)
        position = body + size if size is not None else after + 2 * ended
    return position


def _length(content: bytes, position: int) -> tuple[int | None, int]:
    first = content[position]
    if first < 0x80:
        return first, position + 1
    if first == 0x80:
        return None, position + 1
    count = first & 0x7F
    return int.from_bytes(content[position + 1 : position + 1 + count], "big"), position + 1 + count
