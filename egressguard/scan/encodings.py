"""Transfer encodings as mail programs undo them: the plain way, and the other ways where the body is odd. Never raises.

Contract
    `decode` gives the plain reading first: characters outside base64's alphabet are skipped and the first padding
    ends it (RFC 2045 s6.8); a bad escape in quoted-printable stands for itself (s6.7).
    Another reading comes along only where the body gives reason for one. Time and memory grow with the body, once.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile

from egressguard.scan.octets import Octets, gather, part, stored, windows
from egressguard.scan.searching import match, replaced, search

ODD_OCTETS = 4 * 1024 * 1024
"""A body that is odd and larger than this is read the plain way only; `decode` says so."""

MAX_BLOBS = 16
_BEGINS = (b"begin ", b"begin-base64")
_LINE_OCTETS = 16 * 1024
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_NOT_LETTERS = bytes(octet for octet in range(256) if octet not in _LETTERS)
_NOT_URL_LETTERS = bytes(octet for octet in range(256) if octet not in _LETTERS and octet not in b"-_")
_JUNK = re.compile(rb"[^A-Za-z0-9+/=\s]")
_NOT_LETTERS_OR_PADDING = bytes(octet for octet in _NOT_LETTERS if octet != 0x3D)
_PADDING = re.compile(rb"={2,}")
_ENDED = re.compile(rb"[^=]=*[^=](?:==|=?[^=]=)")
"""A group of four that padding ends: what follows the first letter is skipped."""
_NO_JUNK = bytes(octet for octet in range(256) if _JUNK.match(bytes((octet,))) is None)
_LETTER = re.compile(rb"[A-Za-z0-9+/]")
_LINE = re.compile(rb"[^\r\n]+")
_BASE64_LINE = re.compile(rb"[A-Za-z0-9+/ \t]+={0,2}[ \t]*\Z")
_BASE64_START = re.compile(rb"\s{0,100}(?:[A-Za-z0-9+/](?:\r?\n|\r)?){48}")
_SOFT_BREAK = re.compile(rb"=[ \t]*(?:\r\n|\n|\r|\Z)")
_SOFT_BREAK_IN_TEXT = re.compile(rb"=[ \t]*(?:\r\n|\n|\r)")
_ESCAPE = re.compile(rb"=([0-9A-Fa-f]{2})")
_LOOSE_ESCAPE = re.compile(rb"=[ \t]?([0-9A-Fa-f])[ \t]?([0-9A-Fa-f])")
_TRAILING_BLANKS = re.compile(rb"(?<![ \t])[ \t]+(?=\r?\n)")
_UNFINISHED_BREAK = re.compile(rb"=[ \t]*\r?\Z")
_UNFINISHED_ESCAPE = re.compile(rb"=[ \t]?[0-9A-Fa-f]?[ \t]?\Z")
_UNFINISHED_BLANKS = re.compile(rb"[ \t]+\r?\Z")
_MANY_BLANKS = re.compile(rb"[ \t]{32768}")
"""More than any line has; in a large body they would have to be kept to know what follows."""


def decode(encoding: str, content: Octets, start: int, end: int) -> list[Octets]:
    """The readings of content[start:end], the plain one first; `encoding` is one of heading's."""
    if encoding == "base64":
        plain = base64(content, start, end)
        return [plain, *_odd_base64(content, start, end, plain)]
    body = part(content, start, end)
    if encoding == "quoted-printable":
        return _quoted_printable(body)
    if encoding == "uuencode":
        return [uudecode(body)]
    return [body]


def base64(content: Octets, start: int, end: int) -> Octets:
    """The plain reading: junk is skipped, the first padding ends it, a cut-off end is made up for."""
    if not isinstance(content, bytes):
        content, start, end = part(content, start, end), 0, end - start
    if not isinstance(content, bytes):
        return gather(_base64_pieces(windows(content)))
    with memoryview(content) as view, view[start:end] as body:
        try:
            return binascii.a2b_base64(body)
        except (binascii.Error, ValueError):
            return from_letters(bytes(body).translate(None, _NOT_LETTERS))


def _base64_pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """As base64 of all chunks in a row, decoded in whole groups of four letters."""
    rest = b""
    for chunk in chunks:
        text = rest + chunk.translate(None, _NOT_LETTERS_OR_PADDING)
        whole, rest = _whole_groups(text)
        decoded = binascii.a2b_base64(whole)
        yield decoded
        if len(decoded) < (len(whole) - whole.count(b"=")) // 4 * 3:
            return  # padding has ended it
        if ended := _ENDED.match(rest):
            yield from_letters(ended.group().replace(b"=", b""))
            return
    yield from_letters(rest.replace(b"=", b""))


def _whole_groups(text: bytes) -> tuple[bytes, bytes]:
    """Cut before the letters that make no group yet; of padding between those as much is kept as could end one."""
    over = (len(text) - text.count(b"=")) % 4
    end = len(text)
    for _ in range(over):
        end = len(text[:end].rstrip(b"=")) - 1
    return text[:end], _PADDING.sub(b"==", text[end:])


def from_letters(letters: bytes) -> bytes:
    """Nothing but letters of the alphabet, in any number."""
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def from_all_letters(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What the letters in `chunks` stand for, whatever is between them."""
    rest = b""
    for chunk in chunks:
        letters = rest + chunk.translate(None, _NOT_LETTERS)
        whole = len(letters) // 4 * 4
        yield binascii.a2b_base64(letters[:whole])
        rest = letters[whole:]
    yield from_letters(rest)


def is_odd_base64(content: Octets, start: int, end: int) -> bool:
    """Whether something stands in it that readers treat differently: junk, or letters after the first padding."""
    padding = content.find(b"=", start, end)
    if padding >= 0 and search(_LETTER, content, padding, end) is not None:
        return True
    return any(window.translate(None, _NO_JUNK) for window in windows(content, start, end))


def looks_like_base64(content: Octets, start: int, end: int) -> bool:
    """Whether the body starts with letters of base64 and nothing between them but line ends."""
    return match(_BASE64_START, content, start, end) is not None


def has_many_blanks(body: Octets) -> bool:
    """Whether more blanks stand in a row than `decode` knows what to do with in a large body in quoted-printable."""
    return search(_MANY_BLANKS, body) is not None


def _odd_base64(content: Octets, start: int, end: int, plain: Octets) -> list[Octets]:
    if end - start > ODD_OCTETS or not is_odd_base64(content, start, end):
        return []
    body = content[start:end]
    found = [from_letters(body.translate(None, _NOT_LETTERS))]  # padding is skipped like junk
    found += [from_letters(b) for b in _after_padding(body)]
    if b"-" in body or b"_" in body:
        found.append(from_letters(body.translate(None, _NOT_URL_LETTERS).replace(b"-", b"+").replace(b"_", b"/")))
    clean = b"".join(line for line in map(re.Match.group, _LINE.finditer(body)) if _BASE64_LINE.match(line))
    found.append(from_letters(clean.translate(None, _NOT_LETTERS)))
    masked = body.translate(_SEVEN_BITS)
    if masked != body:
        found.append(from_letters(masked.translate(None, _NOT_LETTERS)))
    return [blob for blob in map(stored, dict.fromkeys(found)) if blob and blob != plain]


_SEVEN_BITS = bytes(octet & 0x7F for octet in range(256))


def _after_padding(body: bytes) -> list[bytes]:
    """Each blob of several that were put one after another, with its padding or without."""
    blobs = re.split(rb"=+", body, maxsplit=MAX_BLOBS)
    return [blob.translate(None, _NOT_LETTERS) for blob in blobs[1:] if len(blob) > 4]


def _quoted_printable(body: Octets) -> list[Octets]:
    if not isinstance(body, bytes):
        strict = gather(replaced(_ESCAPE, octet_of, _joined(body), _UNFINISHED_ESCAPE))
        lax = gather(replaced(_LOOSE_ESCAPE, _loose_octet, _joined(body), _UNFINISHED_ESCAPE))
        return [strict] if lax == strict else [strict, lax]
    joined = _SOFT_BREAK.sub(b"", _TRAILING_BLANKS.sub(b"", body))
    plain, loose = _ESCAPE.sub(octet_of, joined), _LOOSE_ESCAPE.sub(_loose_octet, joined)
    return [plain] if loose == plain else [plain, loose]


def _joined(body: Octets) -> Iterator[bytes]:
    """Lines without the blanks at their ends, and without soft breaks between them."""
    bare = replaced(_TRAILING_BLANKS, b"", windows(body), _UNFINISHED_BLANKS)
    return replaced(_SOFT_BREAK_IN_TEXT, b"", bare, _UNFINISHED_BREAK, at_end=_SOFT_BREAK)


def octet_of(found: re.Match[bytes]) -> bytes:
    """Of an escape's two hexadecimal digits."""
    return bytes((int(found[1], 16),))


def _loose_octet(found: re.Match[bytes]) -> bytes:
    return bytes((int(found[1] + found[2], 16),))


def uudecode(body: Octets) -> Octets:
    """What stands between "begin" and "end"; a body without "begin" is all lines."""
    if not isinstance(body, bytes):
        return _large_uudecode(body)
    out = bytearray()
    for line in _lines(body):
        if line.startswith(_BEGINS):
            out.clear()
            continue
        if _is_end(line):
            break
        out += _uu_line(line)
    return bytes(out)


def _large_uudecode(body: Octets) -> Octets:
    first = 0
    for number, line in enumerate(_lines(body)):
        if line.startswith(_BEGINS):
            first = number + 1
        elif _is_end(line):
            break
    behind = islice(_lines(body), first, None)
    return gather(map(_uu_line, takewhile(lambda line: not _is_end(line), behind)))


def _is_end(line: bytes) -> bool:
    return line.rstrip() == b"end"


def _lines(body: Octets) -> Iterator[bytes]:
    """None of them is empty; of one that is longer than any of uuencode the beginning."""
    rest = b""
    for window in windows(body):
        text = rest + window
        end = max(text.rfind(b"\r"), text.rfind(b"\n")) + 1
        yield from map(re.Match.group, _LINE.finditer(text, 0, end))
        rest = text[end:] if len(text) - end <= _LINE_OCTETS else text[end : end + _LINE_OCTETS] + b"!"
    yield from map(re.Match.group, _LINE.finditer(rest))


_UU_LETTERS = bytes(octet if 32 <= octet <= 96 else 32 for octet in range(256))


def _uu_line(line: bytes) -> bytes:
    try:
        return binascii.a2b_uu(line)
    except binascii.Error:  # letters too many, or blanks at its end lost: the count says what is meant
        count = (line[0] - 32) & 63
        need = (count * 8 + 5) // 6
        kept = line[1 : 1 + need].translate(_UU_LETTERS).ljust(need, b" ")
        try:
            return binascii.a2b_uu(bytes((32 + count,)) + kept)
        except binascii.Error:
            return b""


def ydecode(body: Octets) -> Octets:
    """yEnc's lines, escapes undone: 42 taken off each octet, 64 more after "="."""
    kept = (window.replace(b"\r", b"").replace(b"\n", b"") for window in windows(body))
    pieces = replaced(_YENC_ESCAPE, lambda found: bytes(((found[1][0] - 64) & 255,)), kept, _UNFINISHED_YENC)
    return gather(piece.translate(_LESS_42) for piece in pieces)


_LESS_42 = bytes((octet - 42) & 255 for octet in range(256))
_YENC_ESCAPE = re.compile(rb"=(.)", re.DOTALL)
_UNFINISHED_YENC = re.compile(rb"(?<!=)=(?:==)*\Z")
