"""What a file really is, by its content: the few kinds that matter here exactly, the rest by puremagic."""

from __future__ import annotations

import puremagic

UNKNOWN = "application/octet-stream"
ZIP = "application/zip"
_SNIFFED_OCTETS = 8192
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"MZ", "application/x-dosexec"),
    (b"\x7fELF", "application/x-executable"),
    (b"\xcf\xfa\xed\xfe", "application/x-mach-binary"),
    (b"\xfe\xed\xfa\xcf", "application/x-mach-binary"),
    (b"#!", "text/x-script"),
    (b"L\x00\x00\x00\x01\x14\x02\x00", "application/x-ms-shortcut"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"PK\x03\x04", ZIP),
    (b"PK\x05\x06", ZIP),
    (b"%PDF-", "application/pdf"),
    (b"\x1f\x8b", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"\xfd7zXZ\x00", "application/x-xz"),
)


def media_type(content: bytes) -> str:
    """The media type of `content`; application/octet-stream when nothing is known about it."""
    head = content[:_SNIFFED_OCTETS]
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    try:
        return puremagic.from_string(head, mime=True).lower() or UNKNOWN
    except (puremagic.PureError, ValueError):
        return UNKNOWN
