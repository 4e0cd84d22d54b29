"""Transfer encodings as mail programs undo them: the plain way, and the other ways where the body is odd. Never raises.

Contract
    `decode` gives the plain reading first: characters outside base64's alphabet are skipped and the first padding
    ends it (RFC 2045 s6.8); a bad escape in quoted-printable stands for itself (s6.7).
    Another reading comes along only where the body gives reason for one. Time and memory grow with the body, once.
"""

from __future__ import annotations

import binascii
import mmap
import re

Octets = bytes | mmap.mmap

ODD_OCTETS = 4 * 1024 * 1024
"""A body that is odd and larger than this is read the plain way only; `decode` says so."""

MAX_BLOBS = 16
_SLICE_OCTETS = 1 << 20
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_NOT_LETTERS = bytes(octet for octet in range(256) if octet not in _LETTERS)
_NOT_URL_LETTERS = bytes(octet for octet in range(256) if octet not in _LETTERS and octet not in b"-_")
_JUNK = re.compile(rb"[^A-Za-z0-9+/=\s]")
_NO_JUNK = bytes(octet for octet in range(256) if _JUNK.match(bytes((octet,))) is None)
_LETTER = re.compile(rb"[A-Za-z0-9+/]")
_LINE = re.compile(rb"[^\r\n]+")
_BASE64_LINE = re.compile(rb"[A-Za-z0-9+/ \t]+={0,2}[ \t]*\Z")
_BASE64_START = re.compile(rb"\s{0,100}(?:[A-Za-z0-9+/](?:\r?\n|\r)?){48}")
_SOFT_BREAK = re.compile(rb"=[ \t]*(?:\r\n|\n|\r|\Z)")
_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")
_LOOSE_ESCAPE = re.compile(rb"=[ \t]?([0-9A-Fa-f])[ \t]?([0-9A-Fa-f])")
_TRAILING_BLANKS = re.compile(rb"(?<![ \t])[ \t]+(?=\r?\n)")


def decode(encoding: str, content: Octets, start: int, end: int) -> list[bytes]:
    """The readings of content[start:end], the plain one first; `encoding` is one of heading's."""
    if encoding == "base64":
        plain = base64(content, start, end)
        return [plain, *_odd_base64(content, start, end, plain)]
    body = content[start:end]
    if encoding == "quoted-printable":
        return _quoted_printable(body)
    if encoding == "uuencode":
        return [uudecode(body)]
    return [body]


def base64(content: Octets, start: int, end: int) -> bytes:
    """The plain reading: junk is skipped, the first padding ends it, a cut-off end is made up for."""
    with memoryview(content) as view, view[start:end] as body:
        try:
            return binascii.a2b_base64(body)
        except (binascii.Error, ValueError):
            return from_letters(bytes(body).translate(None, _NOT_LETTERS))


def from_letters(letters: bytes) -> bytes:
    """Nothing but letters of the alphabet, in any number."""
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def is_odd_base64(content: Octets, start: int, end: int) -> bool:
    """Whether something stands in it that readers treat differently: junk, or letters after the first padding."""
    padding = content.find(b"=", start, end)
    if padding >= 0 and _LETTER.search(content, padding, end) is not None:
        return True
    if end - start > ODD_OCTETS:
        return _JUNK.search(content, start, end) is not None
    return bool(content[start:end].translate(None, _NO_JUNK))


def looks_like_base64(content: Octets, start: int, end: int) -> bool:
    """Whether the body starts with letters of base64 and nothing between them but line ends."""
    return _BASE64_START.match(content, start, end) is not None


def _odd_base64(content: Octets, start: int, end: int, plain: bytes) -> list[bytes]:
    if end - start > ODD_OCTETS or not is_odd_base64(content, start, end):
        return []
    body = content[start:end]
    found = [from_letters(body.translate(None, _NOT_LETTERS))]  # padding is skipped like junk
    found += [from_letters(b) for b in _after_padding(body)]
    if b"-" in body or b"_" in body:
        found.append(from_letters(body.translate(None, _NOT_URL_LETTERS).replace(b"-", b"+").replace(b"_", b"/")))
    clean = b"".join(line for line in map(re.Match.group, _LINE.finditer(body)) if _BASE64_LINE.match(line))
    found.append(from_letters(clean.translate(None, _NOT_LETTERS)))
    masked = bytes(body).translate(_SEVEN_BITS)
    if masked != body:
        found.append(from_letters(masked.translate(None, _NOT_LETTERS)))
    return [blob for blob in dict.fromkeys(found) if blob and blob != plain]


_SEVEN_BITS = bytes(octet & 0x7F for octet in range(256))


def _after_padding(body: bytes) -> list[bytes]:
    """Each blob of several that were put one after another, with its padding or without."""
    blobs = re.split(rb"=+", body, maxsplit=MAX_BLOBS)
    return [blob.translate(None, _NOT_LETTERS) for blob in blobs[1:] if len(blob) > 4]


def _quoted_printable(body: bytes) -> list[bytes]:
    joined = _SOFT_BREAK.sub(b"", _TRAILING_BLANKS.sub(b"", body))
    plain = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), joined)
    loose = _LOOSE_ESCAPE.sub(lambda match: bytes((int(match[1] + match[2], 16),)), joined)
    return [plain] if loose == plain else [plain, loose]


def uudecode(body: bytes) -> bytes:
    """What stands between "begin" and "end"; a body without "begin" is all lines."""
    out = bytearray()
    for line in map(re.Match.group, _LINE.finditer(body)):
        if line.startswith(b"begin ") or line.startswith(b"begin-base64"):
            out.clear()
            continue
        if line.rstrip() == b"end":
            break
        out += _uu_line(line)
    return bytes(out)


def _uu_line(line: bytes) -> bytes:
    try:
        return binascii.a2b_uu(line)
    except binascii.Error:  # letters too many, or blanks at its end lost: the count says what is meant
        count = (line[0] - 32) & 63
        need = (count * 8 + 5) // 6
        kept = bytes(octet if 32 <= octet <= 96 else 32 for octet in line[1 : 1 + need]).ljust(need, b" ")
        try:
            return binascii.a2b_uu(bytes((32 + count,)) + kept)
        except binascii.Error:
            return b""


def ydecode(body: bytes) -> bytes:
    """yEnc's lines, escapes undone: 42 taken off each octet, 64 more after "="."""
    kept = body.replace(b"\r", b"").replace(b"\n", b"")
    kept = re.sub(rb"=(.)", lambda match: bytes(((match[1][0] - 64) & 255,)), kept, flags=re.DOTALL)
    return kept.translate(_LESS_42)


_LESS_42 = bytes((octet - 42) & 255 for octet in range(256))
