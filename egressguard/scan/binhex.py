"""BinHex 4.0 (RFC 1741): six bits a character, runs packed, then a name, a data fork and a resource fork."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from egressguard.scan.encodings import from_all_letters
from egressguard.scan.octets import Octets, gather, part, windows

_ALPHABET = b"!\"#$%&'()*+,-012345689@ABCDEFGHIJKLMNPQRSTUVXYZ[`abcdefhijklmpqr"
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_BASE64 = bytes.maketrans(_ALPHABET, _BASE64)
_NOT_OURS = bytes(octet for octet in range(256) if octet not in _ALPHABET)
_MOST_OCTETS = 64 * 1024 * 1024
_FLUSH_OCTETS = 1024 * 1024


def unhex(text: Octets) -> tuple[tuple[str, ...], Octets] | None:
    """(names, the data fork) of the file that starts at the first colon, None when there is none."""
    start = text.find(b"\n:")
    if start < 0:
        start = text.find(b"\r:")
    if start < 0:
        return None
    end = text.find(b":", start + 2)
    body = windows(text, start + 2, end if end > 0 else len(text))
    letters = (window.translate(None, _NOT_OURS).translate(_TO_BASE64) for window in body)
    return _forks(gather(_unpacked(from_all_letters(letters))))


def _unpacked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A run is an octet, 0x90 and a count; a count of 0 means 0x90 itself. Of `out` the last octet stays: for a run."""
    out = bytearray()
    size, rest = 0, b""
    for chunk in chunks:
        packed, position = rest + chunk, 0
        mark = packed.find(b"\x90")
        while 0 <= mark < len(packed) - 1 and size + len(out) < _MOST_OCTETS:
            out += packed[position:mark]
            count = packed[mark + 1]
            if count == 0:
                out.append(0x90)
            elif out:
                out += out[-1:] * (count - 1)
            position = mark + 2
            mark = packed.find(b"\x90", position)
            if len(out) > _FLUSH_OCTETS:
                yield bytes(out[:-1])
                size += len(out) - 1
                del out[:-1]
        if size + len(out) >= _MOST_OCTETS:
            break
        end = mark if mark >= 0 else len(packed)
        out += packed[position:end]
        rest = packed[end:]
    yield bytes(out) + rest


def _forks(file: Octets) -> tuple[tuple[str, ...], Octets] | None:
    if not file:
        return None
    length = file[0]
    name = file[1 : 1 + length].decode("latin-1")
    head = 1 + length + 1 + 4 + 4 + 2
    size = int.from_bytes(file[head : head + 4], "big")
    start = head + 8 + 2
    return (name,), part(file, start, start + size)
