"""What an S/MIME opaque signature (RFC 8551 s3.5.2) or a compressed message (s3.6, RFC 3274) wraps. Never raises.

The octet strings inside, in BER or DER; PEM's lines about it are taken off first.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from egressguard.scan.encodings import base64
from egressguard.scan.octets import WINDOW_OCTETS, Octets, gather, part, windows
from egressguard.scan.searching import match, run_end

_DATA = bytes.fromhex("06092a864886f70d010701")
"""The object identifier id-data (RFC 5652 s4): the signed content follows."""

_OCTET_STRING, _CONSTRUCTED_STRING, _CONTEXT_0 = 0x04, 0x24, 0xA0
_COMPRESSED = bytes.fromhex("060b2a864886f70d0109100109")
"""id-ct-compressedData."""
_PEM = re.compile(rb"\s{0,100}-----BEGIN [A-Z0-9 ]{1,40}-----")
_PEM_LETTERS = re.compile(rb"[A-Za-z0-9+/=\s]*")
MAX_INFLATED_OCTETS = 32 * 1024 * 1024
_SHORTEST = 16
_DEEPEST = 8
_MOST_PIECES = 100_000


def is_wrapping(media_type: str, names: tuple[str, ...]) -> bool:
    return "pkcs7" in media_type or any(name.lower().endswith((".p7m", ".p7z")) for name in names)


def wrapped(content: Octets, problems: list[str]) -> Octets | None:
    """The message inside, None when there is none."""
    content = _without_pem(content)
    inner = signed_content(content)
    if inner is None or content.find(_COMPRESSED, 0, 64) < 0:
        return inner
    try:
        message = gather(_inflated(inner, problems))
    except zlib.error:
        problems.append("a compressed message that cannot be read")
        return None
    return message


def _inflated(content: Octets, problems: list[str]) -> Iterator[bytes]:
    """Raises zlib.error."""
    inflating, left = zlib.decompressobj(), MAX_INFLATED_OCTETS
    for window in windows(content):
        packed, is_more = window, True
        while is_more and left and not inflating.eof:
            piece = inflating.decompress(packed, min(left, WINDOW_OCTETS))
            yield piece
            packed, left, is_more = inflating.unconsumed_tail, left - len(piece), bool(piece)
        if packed and not inflating.eof:
            problems.append("a compressed message that is too large to be read")
            return


def _without_pem(content: Octets) -> Octets:
    pem = match(_PEM, content)
    if pem is None:
        return content
    return base64(content, pem.end(), run_end(content, pem.end(), len(content), _PEM_LETTERS))


def signed_content(content: Octets) -> Octets | None:
    """What follows id-data, None when nothing does."""
    start = content.find(_DATA)
    if start < 0:
        return None
    pieces: list[Octets] = []
    _collect(content, start + len(_DATA), _DEEPEST, pieces)
    inner = gather(window for piece in pieces for window in windows(piece))
    return inner if len(inner) >= _SHORTEST else None


def _collect(content: Octets, position: int, levels: int, pieces: list[Octets]) -> int:
    """Follow the strings from `position` on; the position after the last."""
    while levels and position + 2 <= len(content) and len(pieces) < _MOST_PIECES:
        tag = content[position]
        if tag not in (_OCTET_STRING, _CONSTRUCTED_STRING, _CONTEXT_0):
            return position
        size, body = _length(content, position + 1)
        if tag == _OCTET_STRING:
            if size is None:
                return position
            pieces.append(part(content, body, body + size))
            position = body + size
            continue
        after = _collect(content, body, levels - 1, pieces)
        ended = content[after : after + 2] == b"\0\0"  # as the indefinite form ends (X.690 s8.1.3.6)
        position = body + size if size is not None else after + 2 * ended
    return position


def _length(content: Octets, position: int) -> tuple[int | None, int]:
    first = content[position]
    if first < 0x80:
        return first, position + 1
    if first == 0x80:
        return None, position + 1
    count = first & 0x7F
    return int.from_bytes(content[position + 1 : position + 1 + count], "big"), position + 1 + count
