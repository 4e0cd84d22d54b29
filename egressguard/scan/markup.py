"""HTML and SVG that make a file in the reader's browser, or bring one along in their text ("HTML smuggling").

What a script computes cannot be known without running it; what is found here is what it needs for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.encodings import from_all_letters, octet_of
from egressguard.scan.kinds import SHORTCUT, SVG, ZIP, archive_kinds, media_type
from egressguard.scan.octets import WINDOW_OCTETS, Octets, gather, part, windows
from egressguard.scan.searching import finditer, has_word, match, replaced, run_end, search

MAX_BLOBS = 200
_MADE = re.compile(
    rb"new\s+(?:Blob|File)\b|createObjectURL|msSaveOrOpenBlob|msSaveBlob|showSaveFilePicker", re.IGNORECASE
)
_MADE_WORDS = (b"blob", b"file", b"createobjecturl")
"""One of them is in all that _MADE finds."""
_DECODED = re.compile(
    rb"\batob\b|Uint8Array|fromCharCode|charCodeAt|base64|decodeURIComponent|unescape\s*\(", re.IGNORECASE
)
_SCRIPT = re.compile(
    rb"<(?:\w{1,20}:)?script\b|\bon(?:load|click|error|begin|mouse\w{2,9})\s*=|javascript:", re.IGNORECASE
)
_DATA_URI = re.compile(rb"data:([\w.+/-]{0,100})((?:;[\w=.+-]{1,60}){0,8}),(?=[A-Za-z0-9+/=%_\s.-]{16})", re.IGNORECASE)
_URI_LETTERS = re.compile(rb"[A-Za-z0-9+/=%_\s.-]*")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNFINISHED_PERCENT = re.compile(rb"%[0-9A-Fa-f]?\Z")
_BLOB = re.compile(rb"""["'`>]\s*((?:[A-Za-z0-9+/]{4}\s*+){16,}+[A-Za-z0-9+/]{0,3}+={0,2}+)\s*+["'`<]""")
_OPENING = re.compile(rb"""["'`>]\s*(?=(?:[A-Za-z0-9+/]{4}\s*+){16})""")
_QUADS = re.compile(rb"\s*+(?:[A-Za-z0-9+/]{4}\s*+)*+")
_CLOSING = re.compile(rb"""([A-Za-z0-9+/]{0,3}+={0,2}+)\s*+["'`<]""")
"""_BLOB in three, for a text that is not in memory."""
_QUAD_OCTETS = 4
_PROGRAMS = frozenset({"application/x-dosexec", "application/x-executable", "application/x-mach-binary", SHORTCUT})


def active_in_markup(content: Octets, kind: str) -> Iterator[str]:
    text = _eight_bit(content)
    if _may_make(text) and search(_MADE, text) and search(_DECODED, text):
        yield "a script that makes a file"
    if kind == SVG and search(_SCRIPT, text):
        yield "a script in a picture"
    if any(True for _ in carried_files(content)):
        yield "a file in its text"


def carried_files(content: Octets) -> Iterator[Octets]:
    """Archives and programs that stand in the text in base64; pictures and fonts are what such texts are for."""
    text = _eight_bit(content)
    seen: set[Octets] = set()
    for number, octets in enumerate(_blobs(text)):
        if number >= MAX_BLOBS:
            return
        kind = media_type(octets)
        if octets not in seen and (kind == ZIP or kind in _PROGRAMS or archive_kinds(octets, kind)):
            seen.add(octets)
            yield octets


def _may_make(text: Octets) -> bool:
    if isinstance(text, bytes):
        lowered = text.lower()
        return any(word in lowered for word in _MADE_WORDS)
    return any(has_word(text, word) for word in _MADE_WORDS)


def _blobs(text: Octets) -> Iterator[Octets]:
    for found in finditer(_DATA_URI, text) if has_word(text, b"data:") else ():
        written = windows(text, found.end(), run_end(text, found.end(), len(text), _URI_LETTERS))
        packed = gather(replaced(_PERCENT, octet_of, written, _UNFINISHED_PERCENT))
        yield _decoded(packed) if b"base64" in found[2].lower() else packed
    if isinstance(text, bytes):
        yield from (_decoded(found[1]) for found in _BLOB.finditer(text))
    else:
        yield from map(_decoded, _large_blobs(text))


def _large_blobs(text: Octets) -> Iterator[Octets]:
    """As _BLOB's groups; of the letters only a window is looked at at a time."""
    at = 0
    while (opening := search(_OPENING, text, at)) is not None:
        start = end = opening.end()
        for _ in range(len(text)):
            window = text[end : end + WINDOW_OCTETS]
            taken = _QUADS.match(window)
            end += taken.end() if taken else 0
            if not taken or not taken.end() or len(window) - taken.end() >= _QUAD_OCTETS:
                break
        closing = match(_CLOSING, text, end)
        at = closing.end() if closing else opening.end()
        if closing:
            yield part(text, start, closing.end(1))


def _decoded(text: Octets) -> Octets:
    return gather(from_all_letters(windows(text)))


def _eight_bit(content: Octets) -> Octets:
    if b"\0" not in content[:64]:
        return content
    return gather(window.translate(None, b"\0") for window in windows(content))
