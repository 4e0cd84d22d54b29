"""BinHex 4.0 (RFC 1741): six bits a character, runs packed, then a name, a data fork and a resource fork."""

from __future__ import annotations

from egressguard.scan.encodings import from_letters

_ALPHABET = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_BASE64 = bytes.maketrans(_ALPHABET, _BASE64)
_NOT_OURS = bytes(octet for octet in range(256) if octet not in _ALPHABET)
_MOST_OCTETS = 64 * 1024 * 1024


def unhex(text: bytes) -> tuple[tuple[str, ...], bytes] | None:
    """(names, the data fork) of the file that starts at the first colon, None when there is none."""
    start = text.find(b"\n:")
    if start < 0:
        start = text.find(b"\r:")
    if start < 0:
        return None
    end = text.find(b":", start + 2)
    body = text[start + 2 : end if end > 0 else len(text)].translate(None, _NOT_OURS)
    return _forks(_unpack(from_letters(body.translate(_TO_BASE64))))


def _unpack(packed: bytes) -> bytes:
    """A run is an octet, 0x90 and a count; a count of 0 means 0x90 itself."""
    out = bytearray()
    position = 0
    while position < len(packed) and len(out) < _MOST_OCTETS:
        mark = packed.find(b"\x90", position)
        if mark < 0 or mark + 1 >= len(packed):
            out += packed[position:]
            break
        out += packed[position:mark]
        count = packed[mark + 1]
        if count == 0:
            out.append(0x90)
        elif out:
            out += out[-1:] * (count - 1)
        position = mark + 2
    return bytes(out)


def _forks(file: bytes) -> tuple[tuple[str, ...], bytes] | None:
    if not file:
        return None
    length = file[0]
    name = file[1 : 1 + length].decode("latin-1")
    head = 1 + length + 1 + 4 + 4 + 2
    size = int.from_bytes(file[head : head + 4], "big")
    start = head + 8 + 2
    return (name,), file[start : start + size]
