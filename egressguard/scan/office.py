"""Program code, passwords and what acts by itself in office documents: enough to know that it is there.

Sources: [MS-OVBA] s2.2.1 (the storage _VBA_PROJECT), [MS-OFFCRYPTO] s2.3 (the stream EncryptedPackage), [MS-XLS]
s2.4.28 (BoundSheet8), [MS-OLEDS] s2.3.6 (Ole10Native), ISO/IEC 29500-1 s17.16.5.18 (DDE) and 29500-2 s9.3
(relationships), ISO 32000-1 s7.5.5 (the trailer's Encrypt).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from egressguard.scan.octets import Octets
from egressguard.scan.searching import has_word, search

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_RELATIONSHIPS_OCTETS = 1 << 20
_FIELDS_OCTETS = 8 << 20


def _stream(name: str) -> bytes:
    return name.encode("utf-16-le")  # as the directory of an OLE file writes names


_VBA_NAME = _stream("_VBA_PROJECT")
_ENCRYPTED_NAME = _stream("EncryptedPackage")
_WORKBOOKS = (_stream("Workbook"), _stream("Book"))
_PDF_ENCRYPT = re.compile(rb"/Encrypt[ \t\r\n]+[0-9]{1,10}[ \t\r\n]+[0-9]{1,5}[ \t\r\n]+R")
_MACRO_SHEET = re.compile(rb"\x85\x00[\x08-\xff]\x00.{4}[\x00-\x02]\x01", re.DOTALL)  # a sheet of type 1
_DDE_FIELD = re.compile(rb"\x13[ \t]{0,9}DDE(?:AUTO)?[ \t]", re.IGNORECASE)
_DDE_WIDE = re.compile(rb"\x13\0(?:[ \t]\0){0,9}D\0D\0E\0", re.IGNORECASE)
_RELATIONSHIP = re.compile(rb"<(?:\w{1,20}:)?Relationship\b[^<>]{0,4096}>")
_FETCHED = re.compile(rb"""Type\s*=\s*["'][^"'<>]{0,500}/(attachedTemplate|oleObject|frame|subDocument)["']""")
_FAR = re.compile(
    rb"""Target\s*=\s*["'](?:https?:|ftp:|mhtml:|file:/*[^/:"']{2,}/|\\\\|//|[a-z-]{2,20}:(?!/))""", re.IGNORECASE
)
_INSTRUCTION = re.compile(rb"<w:instrText\b[^<>]{0,500}>([^<]{0,4096})</w:instrText>|w:instr=\"([^\"<>]{0,4096})\"")
_DDE_WORD = re.compile(rb"\bDDE(?:AUTO)?\b")
_RTF_DDE = re.compile(rb"\\fldinst\b[^\\;]{0,200}?\bDDE(?:AUTO)?\b", re.IGNORECASE)
_RTF_TEMPLATE = re.compile(rb"\\template[\s{]{1,9}(?:https?:|ftp:|\\\\\\\\|//)", re.IGNORECASE)


def has_macro(name: str, content: Octets) -> bool:
    """A VBA project as an OLE file of its own (old formats, vbaProject.bin inside new ones), or sheets of Excel 4."""
    lower = name.lower().replace("\\", "/")
    if content.startswith(OLE):
        if _VBA_NAME in content or lower.rpartition("/")[2] == "vbaproject.bin":
            return True
        return any(book in content for book in _WORKBOOKS) and search(_MACRO_SHEET, content) is not None
    return "xl/macrosheets/" in lower


def is_encrypted(content: Octets) -> bool:
    """An office document or PDF that asks for a password."""
    if content.startswith(OLE):
        return _ENCRYPTED_NAME in content
    return content.startswith(b"%PDF-") and search(_PDF_ENCRYPT, content) is not None


def active_in_ole(content: Octets) -> Iterator[str]:
    if _stream("Ole10Native") in content:
        yield "an embedded package"
    if _stream("Equation Native") in content:
        yield "an equation object"
    if search(_DDE_FIELD, content) or search(_DDE_WIDE, content):
        yield "a DDE field"
    at = content.find(b"This program cannot be run in DOS mode")
    if at >= 0 and content.rfind(b"MZ", max(at - 512, 0), at) >= 0:
        yield "an embedded program"


def active_in_rtf(content: Octets) -> Iterator[str]:
    if has_word(content, b"\\objdata"):
        yield "an embedded object"
    if search(_RTF_DDE, content):
        yield "a DDE field"
    if search(_RTF_TEMPLATE, content):
        yield "a template from elsewhere"


def active_in_package(name: str, content: Octets) -> Iterator[str]:
    """A file inside a document of the new kind, which is a ZIP archive: `name` is the one it has there."""
    lower = name.lower().replace("\\", "/")
    if lower.endswith(".rels"):
        for relationship in _RELATIONSHIP.findall(content[:_RELATIONSHIPS_OCTETS]):
            fetched = _FETCHED.search(relationship)
            if fetched and b"External" in relationship and _FAR.search(relationship):
                yield f"{fetched[1].decode()} from elsewhere"
    elif lower.endswith(".xml"):
        if "word/" in lower and _has_dde(content[:_FIELDS_OCTETS]):
            yield "a DDE field"
        if "xl/externallinks/" in lower and b"ddeLink" in content:
            yield "a DDE link"
    elif "/activex/" in lower and lower.endswith(".bin"):
        yield "an ActiveX control"


def _has_dde(content: bytes) -> bool:
    """The words of a field may be spread over many runs."""
    pieces = [run or attribute for run, attribute in _INSTRUCTION.findall(content)]
    return _DDE_WORD.search(b"".join(pieces)) is not None or any(map(_DDE_WORD.search, pieces))
