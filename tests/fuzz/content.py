"""Targets for what follows 354 or BDAT, and for what we send there ourselves: cut anywhere, one answer, one message.

Contract
    The plain reading has the whole message at once and searches it; the product reads it in pieces.
"""

from __future__ import annotations

import email
import re

from egressguard.mail.seven_bit import plan_seven_bit, render_edited
from egressguard.smtp.chunked import ChunkedData
from egressguard.smtp.dotted import DottedData
from egressguard.smtp.stuffing import BadOctets, Stuffing
from tests.fuzz.memory import Finding
from tests.fuzz.pieces import flags_and_pieces, pieces_of

LIMIT = 300
MOST_OCTETS = 4096
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")


def octet_by_octet(octets: bytes) -> list[bytes]:
    return [bytes([octet]) for octet in octets]


def data(octets: bytes) -> None:
    """What a client sends after 354, and behind it."""
    pieces = pieces_of(octets, MOST_OCTETS)
    whole = b"".join(pieces)
    wanted = _read_plainly(whole)
    for cut in (pieces, [whole], octet_by_octet(whole)):
        if (heard := _heard(cut)) != wanted:
            raise Finding(f"{heard} instead of {wanted}")


Message = tuple[bytes | None, bytes | None]
"""(content, None = none was taken; what stands behind it, None = it has no end)."""


def _read_plainly(octets: bytes) -> Message:
    if octets.startswith(b".\r\n"):
        text, rest = b"", octets[3:]
    else:
        text, end, rest = octets.partition(b"\r\n.\r\n")
        if not end:
            return None, None
        text += b"\r\n"
    content = b"".join(line.removeprefix(b".") for line in re.split(rb"(?<=\r\n)", text))
    return None if _BARE.search(text) or len(content) > LIMIT else content, rest


def _heard(pieces: list[bytes]) -> Message:
    reader, content = DottedData(LIMIT), b""
    for number, piece in enumerate(pieces):
        fed = reader.feed(piece)
        content += fed.content
        if len(content) > LIMIT:
            raise Finding("more content than there may be")
        if fed.rest is not None:
            rest = fed.rest + b"".join(pieces[number + 1 :])
            return None if reader.malformed or reader.too_big else content, rest
    return None, None


def bdat(octets: bytes) -> None:
    """The first octet: BODY=BINARYMIME or text. The rest is what the chunks hold."""
    flags, pieces = flags_and_pieces(octets, MOST_OCTETS)
    whole = b"".join(pieces)
    binary = bool(flags & 1)
    spoilt = len(whole) > LIMIT or (not binary and _BARE.search(whole) is not None)
    wanted = None if spoilt else whole
    for cut in (pieces, [whole], octet_by_octet(whole)):
        if (heard := _chunks(cut, binary=binary)) != wanted:
            raise Finding(f"{heard!r} instead of {wanted!r}")


def _chunks(pieces: list[bytes], *, binary: bool) -> bytes | None:
    reader, content = ChunkedData(LIMIT, binary=binary), b""
    for piece in pieces:
        content += reader.feed(piece)
        if len(content) > LIMIT:
            raise Finding("more content than there may be")
    reader.end()
    return None if reader.malformed or reader.too_big else content


def stuffing(octets: bytes) -> None:
    """What we send: whoever takes any of these for an end sees one message, and it says what it said."""
    pieces = pieces_of(octets, MOST_OCTETS)
    whole = b"".join(pieces)
    sent = _stuffed([whole])
    if _stuffed(octet_by_octet(whole)) != sent or _stuffed(pieces) != sent:
        raise Finding("it depends on how the content is cut")
    if (sent is None) != (_BARE.search(whole) is not None):
        raise Finding(f"{whole!r} became {sent!r}")
    if sent is None:
        return
    lax = re.split(rb"(?:\r\n|\r|\n)\.(?:\r\n|\r|\n)", b"\r\n" + sent)
    if len(lax) != 2 or lax[1]:
        raise Finding(f"two messages in {sent!r}")
    content, rest = _read_plainly_unbounded(sent)
    if rest or content != (whole if not whole or whole.endswith(b"\r\n") else whole + b"\r\n"):
        raise Finding(f"{whole!r} arrives as {content!r}")


def seven_bit(octets: bytes) -> None:
    """A message for a host of seven bits: refused, or a reader that is not ours sees the same parts in it."""
    whole = octets[:MOST_OCTETS]
    edits = plan_seven_bit(whole)
    if edits is None:
        return
    made = b"".join(render_edited(whole, edits))
    if not made.isascii() or _BARE.search(made) or max(map(len, made.split(b"\r\n"))) > 998:
        raise Finding(f"not in seven bits: {made!r}")
    if b"message/global" not in whole.lower() and _leaves(made) != _leaves(whole):  # Python reads no encoded message
        raise Finding(f"{whole!r} reads otherwise: {made!r}")


def _leaves(octets: bytes) -> list[tuple[str, object]]:
    parts = email.message_from_bytes(octets).walk()
    return [(part.get_content_type(), part.is_multipart() or part.get_payload(decode=True)) for part in parts]


def _stuffed(pieces: list[bytes]) -> bytes | None:
    writer = Stuffing()
    try:
        return b"".join(map(writer.add, pieces)) + writer.end()
    except BadOctets:
        return None


def _read_plainly_unbounded(sent: bytes) -> tuple[bytes, bytes]:
    text, _, rest = (b"\r\n" + sent).partition(b"\r\n.\r\n")
    return (text + b"\r\n").replace(b"\r\n.", b"\r\n")[2:], rest
