"""Changes of a message at random, at the places that readers disagree about. Pure but for the dice.

Contract
    A change takes dice and a message and gives a message; where it finds nothing to change, it gives the same one.
    The same dice make the same change. Any number of changes may follow one another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

from tests.scan.tricks import TOP

Change = Callable[[Random, bytes], bytes]

ODD = (
    b" ", b"\t", b"\0", b"\x0b", b"\x0c", b"\xa0", b'"', b"\\", b"(", b")", b";", b",", b"=", b":", b"<", b">", b"-",
    b"--", b"\r", b"\n", b"\r\n", b"\r\n ", b"\r\n\t", b"\n ", b"?", b"%", b"'", b"*", b"\x7f", b"\x80", b"\xc3\xa9",
    b"/", b"*0", b"*1", b"*0*", b"''", b"=?utf-8?Q?", b"?=", b"(x)", b'""', b"\x1a", b"\x01", b"\xef\xbb\xbf",
    b"\xe2\x80\x8b", b"\r\r\n", b"\n\n", b"\r\n\r\n", b"\n\r", b".", b"..", b"a", b"=20", b"=\r\n", b"=3D", b"x",
    b"&", b"#", b"!", b"[", b"]", b"{", b"@", b"\x1f",
)  # fmt: skip
ENCODINGS = (
    b"base64", b"BASE64", b'"base64"', b"base64;", b"base64 ", b"x-base64", b"base-64", b"base64, 7bit", b"7bit",
    b"8bit", b"binary", b"quoted-printable", b"Quoted-Printable", b"x-uuencode", b"uuencode", b"x-uue", b"",
    b"(c)base64", b"base64(c)", b"base 64", b"x-yencode", b"=?us-ascii?q?base64?=", b"b", b"bit7", b"base64 base64",
    b"\tbase64", b"mime-base64", b"x-b64", b"BinHex40", b"mac-binhex40",
)  # fmt: skip
TYPES = (
    b"multipart/mixed", b"multipart/alternative", b"multipart/related", b"multipart/x", b"multipart", b"multipart/",
    b"Multipart/Mixed", b"text/plain", b"text/html", b"message/rfc822", b"application/octet-stream",
    b"message/delivery-status", b"multipart/digest", b"multipart/signed", b"multipart/report",
    b"application/x-multipart", b'"multipart/mixed"', b"multipart /mixed", b"multipart/mixed(c)", b"message/partial",
    b"text/rfc822-headers", b"application/pdf", b"application/ms-tnef", b"message/global", b"multipart\\mixed",
    b"multipart/mixed/x", b"", b"text", b"/", b"message/external-body", b"application/applefile",
    b"multipart/appledouble", b"multipart/form-data", b"application/zip", b"image/gif",
)  # fmt: skip
FIELDS = (
    b"Content-Type", b"Content-Transfer-Encoding", b"Content-Disposition", b"content-type", b"CONTENT-TYPE",
    b"Content_Type", b"Content-Type ", b"Content-Transfer-encoding", b"Content-Encoding", b"Content-ID",
    b"Content-Description", b"X-Content-Type", b"Content-Name", b"Subject", b"MIME-Version", b"Mime-Version",
    b"Content-Location", b"Content-Length",
)  # fmt: skip
VALUES = (
    b"attachment", b"inline", b"attachment; filename=a.txt", b"text/plain; name=a.txt", b"text/plain; boundary=bb",
    b"multipart/mixed; boundary=cc", b"multipart/mixed; boundary=bb", b'attachment; filename="eicar.zip"',
)  # fmt: skip
NAME_PARAMETERS = (
    b"filename", b"name", b"FileName", b"filename*", b"filename*0", b"filename*1", b"filename*0*", b"name*",
    b"name*0", b"file", b"x", b"Filename ", b" filename",
)  # fmt: skip
BOUNDARY_PARAMETERS = (
    b"boundary", b"Boundary", b"boundary*", b"boundary*0", b"boundary*1", b"bound", b"boundary ", b" boundary",
    b"x=y;boundary",
)  # fmt: skip
LINE_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b" \r\n", b"", b"\r\n\r\n", b"\x0b\r\n", b"\0\r\n", b"\x85")
IN_BASE64 = (
    b"=", b"\r\n", b" ", b"!", b"-", b"\0", b"==", b"\r\n\r\n", b".", b"\n", b"_", b"\xff", b"\r\n--bb", b"=\r\n",
    b"*", b"\t", b">",
)  # fmt: skip
QUOTINGS = (
    b"=%s", b'="%s"', b"='%s'", b'="%s', b'=%s"', b'=""%s"', b"=%s;", b"= %s", b"=%s x", b'="%s";"', b'="\\%s"',
    b"=?%s", b"=(c)%s", b"=us-ascii''%s", b'="=?us-ascii?Q?%s?="', b'="%s\r\n "', b'="\r\n %s"', b"=%s,",
)  # fmt: skip
HALVES = (b'="%s" "%s"', b'="%s"%s')

_HEAD_OCTETS = 5000
_LOOKED_AT_OCTETS = 100_000
_LOOKED_AT_LINES = 400
_SHORT_OCTETS = 200
_LINE_OF_INTEREST = re.compile(
    rb"^(?:[A-Za-z-]+[ \t]*:[^\n]*|--[^\n]*|[ \t][^\n]*|begin [^\n]*|\r?)$", re.MULTILINE
)  # a field or its fold, a delimiter, the beginning of uuencode, an empty line
_STARTS_OF_INTEREST = re.compile(rb"[A-Za-z-]+[ \t]*:|--|[ \t]|\r?\n")
_ENCODING = re.compile(rb"(?i)Content-Transfer-Encoding:[ \t]*([^\r\n]*)")
_TYPE = re.compile(rb"(?i)Content-Type:[ \t]*([^\r\n;]*)")
_PARAMETER = re.compile(rb"(?i)filename|name|boundary")
_PARAMETER_VALUE = re.compile(rb'="?([A-Za-z0-9.]+)"?')
_BASE64_LINE = re.compile(rb"^[A-Za-z0-9+/=]{20,}\r?$", re.MULTILINE)


def changed(dice: Random, message: bytes) -> bytes:
    """The message with one change, those of single octets the most likely."""
    (change,) = dice.choices(CHANGES, WEIGHTS)
    return change(dice, message)


def place(dice: Random, message: bytes) -> int:
    """Mostly in a line of a header or a delimiter, sometimes anywhere."""
    lines = list(_LINE_OF_INTEREST.finditer(message, 0, _LOOKED_AT_OCTETS))
    if not lines or dice.random() > 0.9:
        return dice.randint(0, len(message))
    start, end = dice.choice(lines).span()
    return dice.randint(start, min(len(message), end + 1))


def replaced(dice: Random, message: bytes, found: Sequence[re.Match[bytes]], group: int, by: Sequence[bytes]) -> bytes:
    """With one of `by` in place of the group of one of the finds."""
    if not found:
        return message
    start, end = dice.choice(found).span(group)
    return message[:start] + dice.choice(by) + message[end:]


def octets_added(dice: Random, message: bytes) -> bytes:
    at = place(dice, message)
    return message[:at] + dice.choice(ODD) + message[at:]


def many_octets_added(dice: Random, message: bytes) -> bytes:
    at = place(dice, message)
    return message[:at] + dice.choice(ODD) * dice.choice((1, 2, 100, 1000)) + message[at:]


def octets_dropped(dice: Random, message: bytes) -> bytes:
    at = place(dice, message)
    return message[:at] + message[at + dice.choice((1, 1, 1, 2, 3)) :]


def octet_replaced(dice: Random, message: bytes) -> bytes:
    at = place(dice, message)
    return message[:at] + dice.choice(ODD) + message[at + 1 :]


def piece_dropped(dice: Random, message: bytes) -> bytes:
    start, end = piece(dice, message)
    return message[:start] + message[end:]


def piece_doubled(dice: Random, message: bytes) -> bytes:
    start, end = piece(dice, message)
    return message[:end] + message[start:]


def piece(dice: Random, message: bytes) -> tuple[int, int]:
    start, end = sorted((place(dice, message), place(dice, message)))
    return start, min(end, start + _SHORT_OCTETS)


def line_of_interest(dice: Random, lines: list[bytes]) -> int:
    found = [number for number, line in enumerate(lines[:_LOOKED_AT_LINES]) if _STARTS_OF_INTEREST.match(line)]
    return dice.choice(found or [0])


def by_lines(change: Callable[[Random, list[bytes]], None]) -> Change:
    """A change of the list of lines, each with its end; there is one at least."""

    def by_octets(dice: Random, message: bytes) -> bytes:
        lines = message.splitlines(keepends=True) or [b""]
        change(dice, lines)
        return b"".join(lines)

    return by_octets


def line_doubled(dice: Random, lines: list[bytes]) -> None:
    line = lines[line_of_interest(dice, lines)]
    lines.insert(line_of_interest(dice, lines), line)


def lines_swapped(dice: Random, lines: list[bytes]) -> None:
    one, other = line_of_interest(dice, lines), line_of_interest(dice, lines)
    lines[one], lines[other] = lines[other], lines[one]


def line_dropped(dice: Random, lines: list[bytes]) -> None:
    del lines[line_of_interest(dice, lines)]


def line_ended_otherwise(dice: Random, lines: list[bytes]) -> None:
    at = line_of_interest(dice, lines)
    lines[at] = lines[at].rstrip(b"\r\n") + dice.choice(LINE_ENDS)


def field_added(dice: Random, lines: list[bytes]) -> None:
    values = (*TYPES, *ENCODINGS) if dice.random() < 0.6 else VALUES
    at = line_of_interest(dice, lines)
    lines.insert(at, dice.choice(FIELDS) + b": " + dice.choice(values) + b"\r\n")


def all_lines_ended_otherwise(dice: Random, message: bytes) -> bytes:
    return message.replace(b"\r\n", dice.choice((b"\n", b"\r", b"\r\r\n", b"\n\r")))


def other_encoding(dice: Random, message: bytes) -> bytes:
    return replaced(dice, message, list(_ENCODING.finditer(message)), 1, ENCODINGS)


def other_type(dice: Random, message: bytes) -> bytes:
    return replaced(dice, message, list(_TYPE.finditer(message)), 1, TYPES)


def other_parameter(dice: Random, message: bytes) -> bytes:
    found = list(_PARAMETER.finditer(message, 0, _HEAD_OCTETS))
    if not found:
        return message
    one = dice.choice(found)
    by = BOUNDARY_PARAMETERS if one.group().lower() == b"boundary" else NAME_PARAMETERS
    return replaced(dice, message, [one], 0, by)


def other_quotes(dice: Random, message: bytes) -> bytes:
    """About the value of a parameter, or in its midst."""
    found = list(_PARAMETER_VALUE.finditer(message, 0, _HEAD_OCTETS))
    if not found:
        return message
    one = dice.choice(found)
    value = one[1]
    by = [quoting % value for quoting in QUOTINGS]
    by += [halves % (value[:2], value[2:]) for halves in HALVES]
    by.append(b"=%%%02x%s" % (value[0], value[1:]))
    return replaced(dice, message, [one], 0, by)


def wrapped(dice: Random, message: bytes) -> bytes:
    """In another message: as the whole of it, or as a part."""
    mixed, last = b"Content-Type: multipart/mixed; boundary=oo\r\n\r\n--oo\r\n", b"\r\n--oo--\r\n"
    attached = b"Content-Type: message/rfc822\r\n\r\n" + message
    digest = b"Content-Type: multipart/digest; boundary=oo\r\n\r\n--oo\r\n\r\n" + message + last
    return TOP + dice.choice((attached, digest, mixed + message + last, mixed + attached + last))


def base64_spoiled(dice: Random, message: bytes) -> bytes:
    found = list(_BASE64_LINE.finditer(message))
    if not found:
        return message
    at = dice.randint(*dice.choice(found).span())
    return message[:at] + dice.choice(IN_BASE64) + message[at:]


def spliced(dice: Random, message: bytes, other: bytes) -> bytes:
    """The beginning of the one and the end of the other."""
    return message[: place(dice, message)] + other[place(dice, other) :]


TABLE: tuple[tuple[int, Change], ...] = (
    (8, octets_added),
    (1, many_octets_added),
    (2, octets_dropped),
    (2, octet_replaced),
    (1, piece_dropped),
    (1, piece_doubled),
    (2, by_lines(line_doubled)),
    (2, by_lines(lines_swapped)),
    (2, by_lines(line_dropped)),
    (2, by_lines(line_ended_otherwise)),
    (2, by_lines(field_added)),
    (2, all_lines_ended_otherwise),
    (2, other_encoding),
    (2, other_type),
    (2, other_parameter),
    (2, other_quotes),
    (2, wrapped),
    (2, base64_spoiled),
)
WEIGHTS = tuple(weight for weight, _ in TABLE)
CHANGES = tuple(change for _, change in TABLE)
