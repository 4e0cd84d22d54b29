"""What acts by itself in a file, and the files that documents carry: one place that knows which reader reads what.

Contract
    Nothing raises, nothing is run, all is bounded. `active_in` gives words for people, empty for most files.
    `carried` gives what stands inside a document that is no archive; it is looked into like an archive's member.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterator

from egressguard.scan.kinds import HTML, OLE, ONENOTE, PDF, RTF, SHORTCUT, SVG, media_type
from egressguard.scan.markup import active_in_markup, carried_files
from egressguard.scan.octets import Octets, gather, part, windows
from egressguard.scan.office import active_in_ole, active_in_package, active_in_rtf
from egressguard.scan.pdf import active_in_pdf, embedded_files
from egressguard.scan.searching import replaced, search

MAX_CARRIED = 200
_ONENOTE_FILE = bytes.fromhex("e716e3bd65261145a4c48d4d0b7a9eac")  # [MS-ONESTORE] s2.6.13: FileDataStoreObject
_OBJECT = re.compile(rb"\\objdata\b", re.IGNORECASE)
_BRACE = re.compile(rb"[{}]")
_UNFINISHED_WORD = re.compile(rb"\\[a-z]{0,32}-?[0-9]{0,10}\Z", re.IGNORECASE)
_NOT_HEX = re.compile(rb"\\[a-z]{1,32}-?[0-9]{0,10} ?|[^0-9a-f]", re.IGNORECASE)
_DDE_CELL = re.compile(rb"""(?:^|[,;\t"])[ \t]{0,20}[=+@-][ \t]{0,20}[A-Za-z_.]{2,40}\|[ \t]{0,20}['"]""", re.MULTILINE)
_STARTS = re.compile(rb"^[ \t]{0,20}Exec[ \t]{0,20}=", re.MULTILINE)
_LEADS_TO_A_FILE = re.compile(
    rb"^[ \t]{0,20}(?:URL|IconFile)[ \t]{0,20}=[ \t]{0,20}(?:file:|\\\\|[a-z]:\\)", re.MULTILINE | re.IGNORECASE
)
_DOCUMENTS = ("image/", "application/pdf", "application/zip", "audio/", "video/")
_TABLES = (".csv", ".slk", ".iqy", ".dif")
_SEEN_OCTETS = 1 << 20


def active_in(name: str, content: Octets, kind: str) -> tuple[str, ...]:
    """What the file does of itself when a person opens it."""
    return tuple(dict.fromkeys(_active(name, content, kind)))


def _active(name: str, content: Octets, kind: str) -> Iterator[str]:
    kind = _read_as(name, kind)
    if reader := _READERS.get(kind):
        yield from reader(content)
    elif name.lower().endswith(_TABLES) and _DDE_CELL.search(content[:_SEEN_OCTETS]):
        yield "a DDE cell"
    yield from active_in_package(name, content)


def _active_in_onenote(content: Octets) -> Iterator[str]:
    if any(not media_type(file).startswith(_DOCUMENTS) for file in _onenote_files(content)):
        yield "an embedded file"


def _active_shortcut(content: Octets) -> Iterator[str]:
    head = content[:_SEEN_OCTETS]
    if head.startswith(b"L\0") or _STARTS.search(head):
        yield "a shortcut"
    elif _LEADS_TO_A_FILE.search(head):
        yield "a shortcut to a file"


def _read_as(name: str, kind: str) -> str:
    """A browser takes a file for HTML that is called so and begins with anything."""
    return HTML if name.lower().endswith((".html", ".htm", ".shtml", ".xhtml", ".xht")) else kind


def carried(name: str, content: Octets, kind: str) -> list[tuple[str, Octets]]:
    """(a name that says where it was, content) of each file in a document."""
    reader = {
        PDF: embedded_files,
        HTML: carried_files,
        SVG: carried_files,
        ONENOTE: _onenote_files,
        RTF: _rtf_objects,
    }.get(_read_as(name, kind))
    if reader is None:
        return []
    found = []
    for number, octets in enumerate(reader(content)):
        if number >= MAX_CARRIED:
            break
        found.append((f"embedded-{number + 1}", octets))
    return found


def _onenote_files(content: Octets) -> Iterator[Octets]:
    at = content.find(_ONENOTE_FILE)
    while at >= 0:
        length = int.from_bytes(content[at + 16 : at + 24], "little")
        yield part(content, at + 36, at + 36 + length)
        at = content.find(_ONENOTE_FILE, at + 16)


def _rtf_objects(content: Octets) -> Iterator[Octets]:
    """What objects hold, from where a file begins in them (OLE 1 puts its own header in front)."""
    end = 0
    while (found := search(_OBJECT, content, end)) is not None:
        brace = search(_BRACE, content, found.end())
        end = brace.start() if brace else len(content)
        octets = gather(_unhexed(replaced(_NOT_HEX, b"", windows(content, found.end(), end), _UNFINISHED_WORD)))
        starts = [
            at
            for magic in (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"MZ", b"PK\x03\x04")
            if (at := octets.find(magic)) >= 0
        ]
        yield part(octets, min(starts)) if starts else octets


def _unhexed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """An odd digit at the end is none."""
    rest = b""
    for chunk in chunks:
        digits = rest + chunk
        whole = len(digits) // 2 * 2
        yield binascii.unhexlify(digits[:whole])
        rest = digits[whole:]


_READERS: dict[str, Callable[[Octets], Iterator[str]]] = {
    OLE: active_in_ole,
    RTF: active_in_rtf,
    PDF: active_in_pdf,
    HTML: lambda content: active_in_markup(content, HTML),
    SVG: lambda content: active_in_markup(content, SVG),
    ONENOTE: _active_in_onenote,
    SHORTCUT: _active_shortcut,
    "application/x-desktop": _active_shortcut,
    "application/x-mswinurl": _active_shortcut,
}
