"""Files that stand in any octets, whatever the structure around them says. Pure, bounded, never raises.

Contract
    `files` finds base64 and quoted-printable of what begins like a file that can do harm, uuencode, yEnc and BinHex,
    `raw_archives` and `zip_behind` ZIP archives among or behind something else. What is more than the limits below is a
    problem in words.
    What begins like nothing known is not found here: this looks where structure hides files, it does not replace it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.binhex import unhex
from egressguard.scan.encodings import base64, octet_of, uudecode, ydecode
from egressguard.scan.octets import Octets, gather, overlapping, part, windows
from egressguard.scan.searching import match, replaced, run_end, search

MAX_FILES = 64
MAX_POSITIONS = 2000
TOO_MANY = "more that looks like hidden files than is read"
_RUN_OCTETS = 64 * 1024 * 1024
_TAIL_OCTETS = 66_000
"""A ZIP archive's directory ends within its last 65,557 octets (APPNOTE s4.3.16)."""

_ANYWHERE = (b"UEsDB", b"WDVPIVAlQ", b"0M8R4KGx", b"UmFyIRoH", b"N3q8ryc", b"f0VMR")
"""Base64 of the first octets of ZIP, EICAR, OLE, RAR, 7z, ELF: long enough to be no accident."""

_AT_LINE_START = tuple(
    end + word
    for end in (b"\n", b"\r")
    for word in (b"TVqQ", b"TVpQ", b"TVoA", b"TVpi", b"H4sIA", b"TVNDR", b"JVBERi0", b"IyEv")
)
"""Of MZ, gzip, CAB, PDF, "#!/": they mean something at the start of a line only."""

_ANCHORS_AFTER_LF = (*_ANYWHERE, *(anchor for anchor in _AT_LINE_START if anchor[:1] == b"\n"))
_ANCHORS = (*_ANYWHERE, *_AT_LINE_START)
_FIRST_OCTETS = frozenset(anchor[1:2] for anchor in _AT_LINE_START)

_LINE_WORDS = rb"(?:TV(?:qQ|pQ|oA|pi|NDR)|H4sIA|JVBERi0|IyEv)"
_AFTER_LF, _AFTER_CR = re.compile(rb"\n" + _LINE_WORDS), re.compile(rb"\r" + _LINE_WORDS)
"""Any of _AT_LINE_START."""

_RUN = re.compile(rb"[A-Za-z0-9+/\s]*")
_QP_ZIP = re.compile(rb"(?:P|=50)(?:K|=4[Bb])=(?:03|05)=\r?\n?=?0[46]")
_BEGIN = re.compile(rb"begin(-base64)?[ \t]+[0-7]{3,4}[ \t]+([^\r\n]{1,255})[ \t]*\r?\n?")
_LOOSE_BEGIN = re.compile(
    rb"(?i)begin(-base64)?[ \t]{1,20}(?:[0-7]{1,6}[ \t]{1,20})?([^\r\n]{1,2000})(?:\r\n|\r|\n){1,3}"
    rb"(?=([\x20-\x60]{1,100})(?:[\r\n]|\Z))"
)
"""Any mode or none at all, but a line of uuencode behind it: what words of a text are not followed by."""
_BEGINS = (b"begin", b"BEGIN", b"Begin")
_UU_END = re.compile(
    rb"[\r\n](?:end|====)[ \t]*(?=[\r\n]|\Z)|[\r\n\t >\0\x0b\x0c](?=begin(?:-base64)?[ \t]{1,20}[0-7]{3,4}[ \t])"
)
"""Or the next file's "begin", which no line of letters has: it is in lower case."""
_YBEGIN = re.compile(
    rb"=ybegin[^\r\n]{0,300}?(?:name=([^\r\n]{1,255}))?(?:\r\n|\r|\n)(?:=ypart[^\r\n]*(?:\r\n|\r|\n))?"
)
_SOFT_BREAK = re.compile(rb"=[ \t]{0,100}\r?\n")
_UNFINISHED_BREAK = re.compile(rb"=[ \t]{0,100}\r?\Z")
_UNFINISHED_ESCAPE = re.compile(rb"=[0-9A-Fa-f]?\Z")
_ESCAPED = re.compile(rb"=([0-9A-Fa-f]{2})")
_BINHEX = b"his file must be converted"
_BEGIN_WORDS = (b"egin", b"BEGIN")
"""The first is in "begin", "Begin" and "=ybegin"."""
_WORDS = (*_ANYWHERE, *_BEGIN_WORDS, b"=03=", b"=05=", _BINHEX)
"""Each file that does not start a line has one of them."""
_LONGEST_WORD = max(map(len, (*_WORDS, *_AT_LINE_START)))

Found = tuple[tuple[str, ...], Octets]
"""Names, content."""


def files(content: Octets, problems: list[str]) -> Iterator[Found]:
    """All files found by how they begin."""
    if places := _places(content):
        yield from _files(content, places, problems)


def _places(content: Octets) -> list[tuple[int, int]]:
    """The pieces of it in which a word stands that each of those files has: most texts have none, and are searched but
    once."""
    if isinstance(content, bytes):
        return [(0, len(content))] if _has_a_word(content) or content[:1] in _FIRST_OCTETS else []
    pieces = overlapping(content, _LONGEST_WORD - 1)
    return [(start, start + len(piece)) for start, piece in pieces if _has_a_word(piece) or not start]


def _has_a_word(octets: bytes) -> bool:
    for word in _WORDS:
        if word in octets:
            return True
    return _AFTER_LF.search(octets) is not None or (b"\r" in octets and _AFTER_CR.search(octets) is not None)


def _files(content: Octets, places: list[tuple[int, int]], problems: list[str]) -> Iterator[Found]:
    yield from _base64(content, places, problems)
    yield from _quoted_printable(content)
    if _stands(_BEGIN_WORDS, content, places):
        yield from _uuencoded(content, problems)
        yield from _yencoded(content, problems)
    if _stands((_BINHEX,), content, places):
        yield from _binhex(content, problems)


def _stands(words: tuple[bytes, ...], content: Octets, places: list[tuple[int, int]]) -> bool:
    return any(_first(word, content, places) >= 0 for word in words)


def raw_archives(content: Octets, problems: list[str]) -> Iterator[Found]:
    """ZIP archives as they are, from their first local header to the end of their directory."""
    if isinstance(content, bytes) and b"\x04" not in content:
        return  # one octet is found faster than four
    end = 0
    for start in _positions(content, b"PK\x03\x04", problems):
        if start >= end:
            end = content.find(b"PK\x05\x06", start) + 22
            if end < 22:
                return
            yield (), part(content, start, end)


def _base64(content: Octets, places: list[tuple[int, int]], problems: list[str]) -> Iterator[Found]:
    """Each run of letters from the first anchor in it on."""
    anchors = _ANCHORS if _has_bare_cr(content) else _ANCHORS_AFTER_LF
    ahead = {anchor: _first(anchor, content, places) for anchor in anchors}
    if content[:1] in _FIRST_OCTETS:
        ahead |= {a[1:]: 0 for a in _AT_LINE_START if content[: len(a) - 1] == a[1:]}
    for _ in range(MAX_FILES):
        ahead = {anchor: position for anchor, position in ahead.items() if position >= 0}
        if not ahead:
            return
        anchor = min(ahead, key=ahead.__getitem__)
        start = ahead[anchor] + (anchor[:1] in b"\r\n")
        taken = run_end(content, start, min(len(content), start + _RUN_OCTETS), _RUN)
        taken += len(content[taken : taken + 2]) - len(content[taken : taken + 2].lstrip(b"="))
        yield (), base64(content, start, taken)
        ahead = {a: p if p >= taken else content.find(a, taken - 1) for a, p in ahead.items()}
    note_too_many(problems)


def _first(anchor: bytes, content: Octets, places: list[tuple[int, int]]) -> int:
    found = (content.find(anchor, start, end) for start, end in places)
    return next((at for at in found if at >= 0), -1)


def _has_bare_cr(content: Octets) -> bool:
    """True, too, where finding out would take a copy."""
    return not isinstance(content, bytes) or content.count(b"\r") != content.count(b"\r\n")


def _positions(content: Octets, word: bytes, problems: list[str]) -> Iterator[int]:
    position = content.find(word)
    for _ in range(MAX_POSITIONS):
        if position < 0:
            return
        yield position
        position = content.find(word, position + 1)
    note_too_many(problems)


def note_too_many(problems: list[str]) -> None:
    if TOO_MANY not in problems:
        problems.append(TOO_MANY)


def _quoted_printable(content: Octets) -> Iterator[Found]:
    if content.find(b"=03=") < 0 and content.find(b"=05=") < 0:
        return
    found = search(_QP_ZIP, content)
    if found is not None:
        end = content.find(b"\n--", found.start())
        body = part(content, found.start(), min(end if end > 0 else len(content), found.start() + _RUN_OCTETS))
        joined = replaced(_SOFT_BREAK, b"", windows(body), _UNFINISHED_BREAK)
        yield (), gather(replaced(_ESCAPED, octet_of, joined, _UNFINISHED_ESCAPE))


def _uuencoded(content: Octets, problems: list[str]) -> Iterator[Found]:
    """Each "begin 644 name" at the start of a line, to its "end" or the next."""
    spent = 0
    for start in (start for word in _BEGINS for start in _positions(content, word, problems)):
        if start and content[start - 1 : start] not in (b"\r", b"\n", b"\t", b" ", b">", b"\0", b"\x0b", b"\x0c"):
            continue
        begin = match(_BEGIN, content, start) or _loose_begin(content, start)
        if begin is None:
            continue
        end = search(_UU_END, content, begin.end())
        stop = end.start() if end else len(content)
        spent += stop - begin.end()
        if spent > len(content):  # files do not overlap
            return note_too_many(problems)
        body = part(content, begin.end(), stop)
        yield _uu_names(begin[2]), base64(body, 0, len(body)) if begin[1] else uudecode(body)


def _uu_names(words: bytes) -> tuple[str, ...]:
    """What stands behind "begin", and the last word of that where there are more."""
    text = words.decode("utf-8", "replace").strip()
    return tuple(dict.fromkeys(name.strip("\"'") for name in (text, *text.split()[-1:])))


def _loose_begin(content: Octets, start: int) -> re.Match[bytes] | None:
    begin = match(_LOOSE_BEGIN, content, start)
    if begin is None or begin[1]:
        return begin
    line = begin[3].rstrip()
    letters = ((line[0] - 32 & 63) + 2) // 3 * 4 if line else 0
    return begin if letters - 4 <= len(line) - 1 <= letters + 2 else None


def _yencoded(content: Octets, problems: list[str]) -> Iterator[Found]:
    spent = 0
    for start in _positions(content, b"=ybegin", problems):
        begin = match(_YBEGIN, content, start)
        if begin is None:
            continue
        end = content.find(b"=yend", begin.end())
        stop = end if end > 0 else len(content)
        spent += stop - begin.end()
        if spent > 2 * len(content):
            return note_too_many(problems)
        name = (begin[1] or b"").decode("utf-8", "replace").strip().strip('"')
        yield (name,) if name else (), ydecode(part(content, begin.end(), stop))


def _binhex(content: Octets, problems: list[str]) -> Iterator[Found]:
    spent = 0
    for start in _positions(content, _BINHEX, problems):
        spent += len(content) - start
        if spent > 4 * len(content):
            return note_too_many(problems)
        found = unhex(part(content, start, start + _RUN_OCTETS))
        if found is not None:
            yield found


def zip_behind(content: Octets) -> Octets | None:
    """The ZIP archive that starts after something else (a picture, a text) and ends with `content`."""
    tail = max(0, len(content) - _TAIL_OCTETS)
    if content.rfind(b"\x06", tail) < 0 or content.rfind(b"PK\x05\x06", tail) < 0:
        return None
    start = content.find(b"PK\x03\x04")
    return part(content, start) if start > 0 else None
