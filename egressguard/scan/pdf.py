"""What a PDF does by itself, and the files it carries: by a bounded reading of its objects that never raises.

Names are read with their escapes undone, and in object streams, too. A document with a password is not opened.
Source: ISO 32000-1 s7.3.5 (names), s7.5.7 (object streams), s7.11.4 (embedded files), s12.6.4 (actions).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

_STREAM = re.compile(rb"stream\r?\n")
_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")
_DICTIONARY_OCTETS = 2048
MAX_STREAMS = 5000
MAX_STREAM_OCTETS = 8 << 20
MAX_ALL_OCTETS = 32 << 20


def active_in_pdf(content: bytes) -> Iterator[str]:
    text = _unescaped(content)
    texts = [text, *(_unescaped(inside) for inside in _object_streams(text, content))]

    def named(*names: bytes) -> bool:
        return any(re.search(rb"/(?:%s)(?![A-Za-z0-9_])" % b"|".join(names), text) for text in texts)

    if named(b"Launch"):
        yield "an action that starts a program"
    if named(b"JavaScript", b"JS") and named(b"OpenAction"):
        yield "a script that runs when it is opened"
    if named(b"RichMedia"):
        yield "rich media"


def embedded_files(content: bytes) -> Iterator[bytes]:
    """What stands in streams of the type EmbeddedFile."""
    if b"EmbeddedFile" in _unescaped(content):
        for head, octets in _streams(content):
            if re.search(rb"/EmbeddedFile(?![A-Za-z])", head):
                yield octets


def _object_streams(text: bytes, content: bytes) -> Iterator[bytes]:
    if b"/ObjStm" in text:
        for head, octets in _streams(content):
            if b"/ObjStm" in head:
                yield octets


def _streams(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each stream's dictionary, unescaped, and its octets; of filters only Flate is undone."""
    left, reached = MAX_ALL_OCTETS, 0
    for number, found in enumerate(_STREAM.finditer(content)):
        if number >= MAX_STREAMS or left <= 0:
            return
        head = content[max(reached, found.start() - _DICTIONARY_OCTETS) : found.start()]
        head = _unescaped(head[max(head.rfind(b" obj"), 0) :])
        reached = found.end()
        if b"/ObjStm" not in head and b"/EmbeddedFile" not in head:
            continue
        end = content.find(b"endstream", reached)
        octets = content[reached : end if end >= 0 else len(content)]
        if re.search(rb"/Fl(?:ateDecode)?(?![A-Za-z])", head):
            octets = _inflated(octets, min(MAX_STREAM_OCTETS, left))
        left -= len(octets)
        yield head, octets


def _inflated(octets: bytes, most: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(octets, most)
    except zlib.error:
        return b""


def _unescaped(content: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), content) if b"#" in content else content
