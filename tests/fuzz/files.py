"""Targets for files that people attach: our readers of ZIP archives and of documents never raise, and are bounded."""

from __future__ import annotations

from egressguard.scan import zipped
from egressguard.scan.active import MAX_CARRIED, active_in, carried
from egressguard.scan.kinds import archive_kinds, media_type
from egressguard.scan.libarchive import Unreadable
from tests.fuzz.memory import Finding

MOST_OCTETS = 4096
MOST_UNPACKED = 1 << 20
_NAMES = ("a.csv", "a.html", "word/_rels/document.xml.rels", "word/document.xml", "xl/externalLinks/a.xml", "a.bin", "")


def archive(octets: bytes) -> None:
    """A file that may be a ZIP archive, or have one in it."""
    octets = octets[:MOST_OCTETS]
    try:
        found = zipped.find(octets)
    except zipped.Broken:
        return
    if found is None:
        return
    for _ in found.doubts():
        pass
    for entry in found.entries():
        if not entry.names:
            raise Finding("a member without a name")
        _unpack(entry.chunks)


def _unpack(chunks: object) -> None:
    size = 0
    try:
        for chunk in chunks:  # type: ignore[attr-defined]
            size += len(chunk)
            if size > MOST_UNPACKED:
                return
    except Unreadable:
        pass


def document(octets: bytes) -> None:
    """The first octet: what the file is called. The rest is the file."""
    name = _NAMES[octets[0] % len(_NAMES)] if octets else ""
    content = octets[1:MOST_OCTETS]
    kind = media_type(content)
    archive_kinds(content, kind)
    words = active_in(name, content, kind)
    files = carried(name, content, kind)
    if len(words) > 20 or len(files) > MAX_CARRIED:
        raise Finding("more than there may be")
