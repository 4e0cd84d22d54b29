"""Macros and passwords in office documents: enough to know that they are there, nothing is run or unpacked.

Sources: [MS-OVBA] s2.2.1 (the storage _VBA_PROJECT), [MS-OFFCRYPTO] s2.3 (the stream EncryptedPackage),
ISO 32000-1 s7.5.5 (the trailer's Encrypt).
"""

from __future__ import annotations

import re

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_VBA_NAME = "_VBA_PROJECT".encode("utf-16-le")  # names in an OLE directory are UTF-16
_ENCRYPTED_NAME = "EncryptedPackage".encode("utf-16-le")
_PDF_ENCRYPT = re.compile(rb"/Encrypt[ \t\r\n]+[0-9]{1,10}[ \t\r\n]+[0-9]{1,5}[ \t\r\n]+R")


def has_macro(name: str, content: bytes) -> bool:
    """A VBA project: as an OLE file of its own (old formats, vbaProject.bin inside new ones)."""
    return content.startswith(OLE) and (_VBA_NAME in content or name.lower() == "vbaproject.bin")


def is_encrypted(content: bytes) -> bool:
    """An office document or PDF that asks for a password."""
    if content.startswith(OLE):
        return _ENCRYPTED_NAME in content
    return content.startswith(b"%PDF-") and _PDF_ENCRYPT.search(content) is not None
