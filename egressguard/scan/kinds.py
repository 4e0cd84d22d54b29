"""What a file really is, by its content: the few kinds that matter here exactly, the rest by puremagic."""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.octets import Octets
from egressguard.scan.signatures import media_type_of

UNKNOWN = "application/octet-stream"
ZIP = "application/zip"
ISO = "application/x-iso9660-image"
TAR = "application/x-tar"
CPIO = "application/x-cpio"
HTML = "text/html"
SVG = "image/svg+xml"
PDF = "application/pdf"
RTF = "application/rtf"
OLE = "application/x-ole-storage"
ONENOTE = "application/onenote"
SHORTCUT = "application/x-ms-shortcut"

_SNIFFED_OCTETS = 8192
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"MZ", "application/x-dosexec"),
    (b"\x7fELF", "application/x-executable"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xfe\xed\xfa\xcf", "application/x-mach-binary"),
    (b"#!", "text/x-script"),
    (b"L\x00\x00\x00\x01\x14\x02\x00", SHORTCUT),
    (b"[InternetShortcut]", "application/x-mswinurl"),
    (b"[Desktop Entry]", "application/x-desktop"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OLE),
    (b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3", ONENOTE),  # [MS-ONESTORE] s2.3.1
    (b"{\\rt", RTF),  # Word opens it without the f, too
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"PK\x07\x08PK\x03\x04", ZIP),
    (b"PK00PK\x03\x04", ZIP),
    (b"%PDF-", PDF),
    (b"\x1f\x8b", "application/gzip"),
    (b"\x1f\x9d", "application/x-compress"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"\xfd7zXZ\x00", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"\x04\x22\x4d\x18", "application/x-lz4"),
    (b"LZIP", "application/x-lzip"),
    (b"]\x00\x00", "application/x-lzma"),
    (b"MSCF", "application/vnd.ms-cab-compressed"),
    (b"!<arch>\n", "application/x-archive"),
    (b"070701", CPIO),
    (b"070702", CPIO),
    (b"070707", CPIO),
    (b"conectix", "application/x-vhd"),
    (b"vhdxfile", "application/x-vhdx"),
    (b"MSWIM\0\0\0", "application/x-ms-wim"),
    (b"xar!", "application/x-xar"),
    (b"\x60\xea", "application/x-arj"),
    (b"ZOO ", "application/x-zoo"),
    (b"ITSF", "application/vnd.ms-htmlhelp"),
)
_BY_FIRST_OCTET = {magic[:1]: tuple(pair for pair in _MAGIC if pair[0][:1] == magic[:1]) for magic, _ in _MAGIC}

PACKED = frozenset(
    {
        "application/gzip",
        "application/x-compress",
        "application/x-xz",
        "application/x-bzip2",
        "application/zstd",
        "application/x-lz4",
        "application/x-lzip",
        "application/x-lzma",
    }
)
"""One file (it may be a tar archive) made small."""

ARCHIVES = frozenset(
    {
        ISO,
        TAR,
        "application/x-7z-compressed",
        "application/vnd.rar",
        "application/vnd.ms-cab-compressed",
        "application/x-archive",
        CPIO,
        "application/x-lha",
    }
)
"""Files of many files, besides ZIP."""

CLOSED = {
    "application/x-vhd": "a disk image",
    "application/x-vhdx": "a disk image",
    "application/x-apple-diskimage": "a disk image",
    "application/x-udf-image": "a disk image",
    "application/x-ms-wim": "a disk image",
    "application/x-xar": "an archive of kind xar",
    "application/x-arj": "an archive of kind ARJ",
    "application/x-zoo": "an archive of kind ZOO",
    "application/x-ace": "an archive of kind ACE",
    "application/vnd.ms-htmlhelp": "a help file",
}
"""Kinds that hold files which nothing here can read, in words."""

_HOLDING = frozenset({*PACKED, *ARCHIVES, *CLOSED})

_LHA = re.compile(rb"..-l[hz][0-9ds]-", re.DOTALL)
_BZIP2 = re.compile(rb"BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)")
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?[\s\0]*<(?:!doctype html|!--|html|head|body|script|svg|\?xml)", re.IGNORECASE)
_BLOCK_OCTETS = 512
"""Of tar archives, and of the ends of disk images."""
_SECTOR = 2048
_VOLUMES = 16 * _SECTOR  # ECMA-119 s6.2.1: the first volume descriptor


def dangerous_type(content: Octets) -> str | None:
    """The media type of what programs, archives and documents start with; None for all else. Fast."""
    for magic, kind in _BY_FIRST_OCTET.get(content[:1], ()):
        if content.startswith(magic):
            return kind
    return next(_elsewhere(content), None)


def media_type(content: Octets) -> str:
    """The media type of `content`; application/octet-stream when nothing is known about it."""
    head = content[:_SNIFFED_OCTETS]
    if known := dangerous_type(content) or _markup(head):
        return known
    return media_type_of(head) or UNKNOWN


def archive_kinds(content: Octets, kind: str) -> frozenset[str]:
    """All the kinds of archive that `content`, whose media type is `kind`, is as well: an ISO image may begin with
    anything, a tar archive with a name."""
    return _HOLDING.intersection((kind, *_elsewhere(content)))


def _elsewhere(content: Octets) -> Iterator[str]:
    """Kinds whose mark does not stand at the very beginning."""
    head, tail = content[:_BLOCK_OCTETS], content[-_BLOCK_OCTETS:]
    if head.startswith(b"BZh") and _BZIP2.match(head):
        yield "application/x-bzip2"
    if head[2:4] == b"-l" and _LHA.match(head):
        yield "application/x-lha"
    if head[257:262] == b"ustar" or _is_old_tar(head):
        yield TAR
    volume = content[_VOLUMES + 1 : _VOLUMES + 6]
    if volume == b"CD001":
        yield ISO
    if volume == b"BEA01":  # ECMA-167: UDF alone
        yield "application/x-udf-image"
    if head[7:14] == b"**ACE**":
        yield "application/x-ace"
    if tail.startswith(b"koly"):
        yield "application/x-apple-diskimage"
    if tail.startswith(b"conectix"):
        yield "application/x-vhd"


def _is_old_tar(header: bytes) -> bool:
    """A header of the time before POSIX: only its sum tells."""
    digits = header[148:156].strip(b" \0")
    if not digits.isdigit() or len(header) < _BLOCK_OCTETS or not header[0]:
        return False
    if len(digits) > 7 or not all(0x30 <= digit <= 0x37 for digit in digits):
        return False
    return sum(header) - sum(header[148:156]) + 8 * 0x20 == int(digits, 8)


def _markup(head: bytes) -> str | None:
    """HTML and SVG, in eight bits or in UTF-16."""
    text = head.replace(b"\0", b"").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    if not _MARKUP.match(text):
        return None
    if b"<svg" in text.lower():
        return HTML if b"<html" in text.lower() else SVG
    return HTML if re.search(rb"<(?:!doctype html|html|head|body|script)", text, re.IGNORECASE) else None
