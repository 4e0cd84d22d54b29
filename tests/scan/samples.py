"""Messages and archives for the scanner's tests, made here so that no scanner eats the checkout."""

from __future__ import annotations

import io
import zipfile
from email.message import EmailMessage

from egressguard.scan.eicar import _SIGNATURE as EICAR
from tests.scan.tricks import File

PROGRAM = b"MZ\x90\x00" + b"\0" * 60

__all__ = ["EICAR", "EICAR_ZIP", "INVOICE", "PROGRAM", "mail_with", "text_mail", "zip_of"]


def zip_of(*members: tuple[str, bytes]) -> bytes:
    """The same members make the same octets, at whatever time."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return target.getvalue()


def mail_with(name: str | None, content: bytes) -> bytes:
    message = EmailMessage()
    message["Subject"] = "a file"
    message.set_content("see the file")
    message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def text_mail(text: bytes) -> bytes:
    return b"Subject: x\r\nContent-Type: text/plain\r\n\r\n" + text + b"\r\n"


EICAR_ZIP = File(b"eicar.zip", zip_of(("eicar.com", EICAR)))
INVOICE = File(b"invoice.exe", b"not even a program; the name is enough\x01\x02\x03" * 5)
