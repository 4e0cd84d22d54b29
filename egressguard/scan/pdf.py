"""What a PDF does by itself, and the files it carries: by a bounded reading of its objects that never raises.

Names are read with their escapes undone, and in object streams, too. A document with a password is not opened.
Source: ISO 32000-1 s7.3.5 (names), s7.5.7 (object streams), s7.11.4 (embedded files), s12.6.4 (actions).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from egressguard.scan.encodings import octet_of
from egressguard.scan.octets import Octets, gather, part, windows
from egressguard.scan.searching import finditer, replaced, search

_STREAM = re.compile(rb"stream\r?\n")
_ESCAPE = re.compile(rb"#([0-9A-Fa-f]{2})")
_UNFINISHED_ESCAPE = re.compile(rb"#[0-9A-Fa-f]?\Z")
_DICTIONARY_OCTETS = 2048
MAX_STREAMS = 5000
MAX_STREAM_OCTETS = 8 << 20
MAX_ALL_OCTETS = 32 << 20


def active_in_pdf(content: Octets) -> Iterator[str]:
    text = _unescaped(content)
    texts = [text, *(_unescaped(inside) for inside in _object_streams(text, content))]

    def named(*names: bytes) -> bool:
        name = re.compile(rb"/(?:%s)(?![A-Za-z0-9_])" % b"|".join(names))
        return any(search(name, text) for text in texts)

    if named(b"Launch"):
        yield "an action that starts a program"
    if named(b"JavaScript", b"JS") and named(b"OpenAction"):
        yield "a script that runs when it is opened"
    if named(b"RichMedia"):
        yield "rich media"


def embedded_files(content: Octets) -> Iterator[Octets]:
    """What stands in streams of the type EmbeddedFile."""
    if _unescaped(content).find(b"EmbeddedFile") >= 0:
        for head, octets in _streams(content):
            if re.search(rb"/EmbeddedFile(?![A-Za-z])", head):
                yield octets


def _object_streams(text: Octets, content: Octets) -> Iterator[Octets]:
    if text.find(b"/ObjStm") >= 0:
        for head, octets in _streams(content):
            if b"/ObjStm" in head:
                yield octets


def _streams(content: Octets) -> Iterator[tuple[bytes, Octets]]:
    """Each stream's dictionary, unescaped, and its octets; of filters only Flate is undone."""
    left, reached = MAX_ALL_OCTETS, 0
    for number, found in enumerate(finditer(_STREAM, content)):
        if number >= MAX_STREAMS or left <= 0:
            return
        head = content[max(reached, found.start() - _DICTIONARY_OCTETS) : found.start()]
        head = _ESCAPE.sub(octet_of, head[max(head.rfind(b" obj"), 0) :])
        reached = found.end()
        if b"/ObjStm" not in head and b"/EmbeddedFile" not in head:
            continue
        end = content.find(b"endstream", reached)
        octets = part(content, reached, end if end >= 0 else len(content))
        if re.search(rb"/Fl(?:ateDecode)?(?![A-Za-z])", head):
            octets = _inflated(octets, min(MAX_STREAM_OCTETS, left))
        left -= len(octets)
        yield head, octets


def _inflated(octets: Octets, most: int) -> bytes:
    inflating, out = zlib.decompressobj(), bytearray()
    try:
        for window in windows(octets):
            if len(out) >= most or inflating.eof:
                break
            out += inflating.decompress(window, most - len(out))
    except zlib.error:
        return b""
    return bytes(out)


def _unescaped(content: Octets) -> Octets:
    if content.find(b"#") < 0:
        return content
    return gather(replaced(_ESCAPE, octet_of, windows(content), _UNFINISHED_ESCAPE))
