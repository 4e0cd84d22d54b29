"""A message as a program hands it to sendmail(1): line ends, recipients from its header, a From. Pure.

Contract
    What is there is not changed but for line ends and Bcc, which nobody may see (RFC 5322 s3.6.3).
    Addresses are parsed strictly; a bare name gets the machine's host name, as sendmail always did.
"""

from __future__ import annotations

import email.utils
from collections.abc import Iterable

from egressguard.mail.address import AddressError, parse_address
from egressguard.mail.header import fields, find_fields, split_header_section

RECIPIENT_FIELDS = (b"to", b"cc", b"bcc")
LF, CRLF = b"\n", b"\r\n"


def with_crlf(text: bytes) -> bytes:
    """CRLF at each line's end, whatever it was, and at the last line's too."""
    lines = text.replace(CRLF, LF).replace(b"\r", LF)
    if lines and not lines.endswith(LF):
        lines += LF
    return lines.replace(LF, CRLF)


def up_to_dot(text: bytes) -> bytes:
    """What stands before a line with nothing but a dot: the end for programs that say no -i."""
    before, found, _ = (LF + text.replace(CRLF, LF)).partition(b"\n.\n")
    return before[1:] + (LF if found else b"") if found else text


def recipients_of(content: bytes) -> list[str]:
    """The addresses in To, Cc and Bcc, each once, in their order."""
    section, _ = split_header_section(content)
    values = [
        field.value.decode("utf-8", "replace") for field in fields(section) if field.name.lower() in RECIPIENT_FIELDS
    ]
    found = (address for _, address in email.utils.getaddresses(values) if address)
    return list(dict.fromkeys(found))


def without_bcc(content: bytes) -> bytes:
    """The message less its Bcc fields."""
    section, rest = split_header_section(content)
    kept: list[bytes] = []
    dropping = False
    for line in section.splitlines(keepends=True):
        if line[:1] not in {b" ", b"\t"}:
            dropping = line.split(b":", 1)[0].strip().lower() == b"bcc"
        if not dropping:
            kept.append(line)
    return b"".join(kept) + rest


def with_from(content: bytes, address: str, name: str) -> bytes:
    """The message with a From where it has none."""
    section, rest = split_header_section(content)
    if find_fields(section, "From", limit=1):
        return content
    separator = b"" if section or rest.startswith(CRLF) else CRLF
    line = f"From: {email.utils.formataddr((name, address))}\r\n".encode("utf-8", "replace")
    return line + section + separator + rest


def qualified(address: str, hostname: str) -> str:
    """A Mailbox; a bare name is one of `hostname`. "" stays the null path. Raises AddressError."""
    if not address:
        return ""
    return str(parse_address(address if "@" in address else f"{address}@{hostname}", utf8=True))


def all_qualified(addresses: Iterable[str], hostname: str) -> tuple[str, ...]:
    """Raises AddressError, which names the address."""
    found = []
    for address in addresses:
        try:
            found.append(qualified(address, hostname))
        except AddressError as wrong:
            raise AddressError(f"{address!r:.80}: {wrong}") from None
    return tuple(dict.fromkeys(found))
