"""Macros and passwords are facts: seen in the file formats themselves, whatever a file is called."""

from __future__ import annotations

import io
import zipfile

import pytest

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.examine import examine
from egressguard.scan.office import OLE, has_macro, is_encrypted
from egressguard.scan.protocol import decode_report, encode_report

VBA = OLE + b"\0" * 500 + "_VBA_PROJECT".encode("utf-16-le") + b"\0" * 100
LOCKED = OLE + b"\0" * 500 + "EncryptedPackage".encode("utf-16-le")


@pytest.mark.parametrize(
    ("name", "content", "macro", "encrypted"),
    [
        ("a.doc", VBA, True, False),
        ("a.doc", OLE + b"plain", False, False),
        ("a.docx", LOCKED, False, True),
        ("vbaProject.bin", OLE, True, False),
        ("vbaProject.bin", b"text that only has the name", False, False),
        ("a.pdf", b"%PDF-1.7\n... trailer << /Encrypt 12 0 R >>", False, True),
        ("a.pdf", b"%PDF-1.7\n... the word /Encrypt alone", False, False),
        ("a.txt", "_VBA_PROJECT".encode("utf-16-le"), False, False),
        ("", b"", False, False),
    ],
)
def test_what_is_seen(name: str, content: bytes, macro: bool, encrypted: bool) -> None:
    assert (has_macro(name, content), is_encrypted(content)) == (macro, encrypted)


def message(name: str, content: bytes) -> bytes:
    from base64 import encodebytes

    head = f'Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="{name}"\r\n'
    return head.encode() + b"Content-Transfer-Encoding: base64\r\n\r\n" + encodebytes(content)


def zipped(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_dot_", "."), content)
    return packed.getvalue()


def test_a_macro_inside_a_new_format_is_found_and_travels_to_the_relay() -> None:
    report = examine(message("a.docm", zipped(word_dot_xml=b"<x/>", vbaProject_dot_bin=OLE)), Scan())
    assert report.verdict is Verdict.CLEAN and report.attachments is not None
    assert [(a.path[-1], a.macro) for a in report.attachments] == [
        ("a.docm", False),
        ("word.xml", False),
        ("vbaProject.bin", True),
    ]
    assert decode_report(encode_report(report)) == report


def test_an_encrypted_member_is_marked() -> None:
    packed = bytearray(zipped(secret_dot_exe=b"x"))
    for offset in (packed.index(b"PK\x03\x04") + 6, packed.index(b"PK\x01\x02") + 8):
        packed[offset] |= 1  # the flag that says: encrypted
    report = examine(message("a.zip", bytes(packed)), Scan())
    assert report.attachments is not None
    assert [(a.path, a.encrypted) for a in report.attachments] == [(("a.zip",), False), (("a.zip", "secret.exe"), True)]
