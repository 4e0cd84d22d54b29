"""HTML and SVG that make a file in the reader's browser, or bring one along in their text ("HTML smuggling").

What a script computes cannot be known without running it; what is found here is what it needs for it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from egressguard.scan.kinds import SHORTCUT, SVG, ZIP, archive_kinds, media_type

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
_DATA_URI = re.compile(rb"data:([\w.+/-]{0,100})((?:;[\w=.+-]{1,60}){0,8}),([A-Za-z0-9+/=%_\s.-]{16,})", re.IGNORECASE)
_BLOB = re.compile(rb"""["'`>]\s*((?:[A-Za-z0-9+/]{4}\s*+){16,}+[A-Za-z0-9+/]{0,3}+={0,2}+)\s*+["'`<]""")
_PROGRAMS = frozenset({"application/x-dosexec", "application/x-executable", "application/x-mach-binary", SHORTCUT})


def active_in_markup(content: bytes, kind: str) -> Iterator[str]:
    text = _eight_bit(content)
    lowered = text.lower()
    if any(word in lowered for word in _MADE_WORDS) and _MADE.search(text) and _DECODED.search(text):
        yield "a script that makes a file"
    if kind == SVG and _SCRIPT.search(text):
        yield "a script in a picture"
    if any(True for _ in carried_files(content)):
        yield "a file in its text"


def carried_files(content: bytes) -> Iterator[bytes]:
    """Archives and programs that stand in the text in base64; pictures and fonts are what such texts are for."""
    text = _eight_bit(content)
    seen: set[bytes] = set()
    for number, octets in enumerate(_blobs(text)):
        if number >= MAX_BLOBS:
            return
        kind = media_type(octets)
        if octets not in seen and (kind == ZIP or kind in _PROGRAMS or archive_kinds(octets, kind)):
            seen.add(octets)
            yield octets


def _blobs(text: bytes) -> Iterator[bytes]:
    for found in _DATA_URI.finditer(text) if b"data:" in text.lower() else ():
        packed = unquote_to_bytes(found[3])
        yield _decoded(packed) if b"base64" in found[2].lower() else packed
    for found in _BLOB.finditer(text):
        yield _decoded(found[1])


def _decoded(text: bytes) -> bytes:
    text = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
    try:
        return binascii.a2b_base64(text[: len(text) - (len(text) % 4 == 1)] + b"==")
    except binascii.Error:
        return b""


def _eight_bit(content: bytes) -> bytes:
    return content.replace(b"\0", b"") if b"\0" in content[:64] else content
