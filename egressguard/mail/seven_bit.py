"""A message with 8-bit or binary content in seven bits, part by part (RFC 6152 s3, RFC 2045 s6). Pure.

Contract
    What a reader decodes stays the same, octet for octet, in every part. Nothing is changed but the encoding of bodies
    that need it and the Content-Transfer-Encoding fields that tell of it; what names no MIME gets the fields that
    RFC 1428 gives it.
    The result is "7bit" as RFC 2045 s2.7 has it, lines of at most 998 octets in all of it.
    None where that cannot be: a signature would break (DKIM, ARC, multipart/signed), a field is not ASCII, MIME is not
    what it should be or two readers might see different parts in it. Nothing is repaired.
    No encoded line can be taken for a boundary. Bounded: parts, depth, header sections; bodies are never copied whole.
"""

from __future__ import annotations

import email.errors
import email.message
import email.parser
import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass

from egressguard.mail.header import HEADER_OCTETS
from egressguard.mail.transfer_encoding import Encoding, Octets, copied, encoded, look_at

MAX_PARTS = 1000
MAX_DEPTH = 20

_SIGNATURES = ("DKIM-Signature", "DomainKey-Signature", "ARC-Seal", "ARC-Message-Signature")
_OWN_SIGNATURES = re.compile(
    rb"(?:(?:DKIM-Signature|ARC-Seal|ARC-Message-Signature|ARC-Authentication-Results):"
    rb"[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*"
)
_CHANGELESS = frozenset({"multipart/signed", "multipart/encrypted"})
"""RFC 1847 s2.1: the first part must arrive as it was signed."""
_OPAQUE_MESSAGES = re.compile(r"message/global(-[a-z]+)*")
"""RFC 6532 s3.7, RFC 6533 s5: unlike other messages they may be encoded as a whole."""
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary"})

_SECTION = re.compile(rb"(?:[!-9;-~]+:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*")
_LONG_LINE = re.compile(rb"[^\r\n]{999}")
_ENCODING_FIELD = re.compile(rb"(?mi)^content-transfer-encoding:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*")
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")  # RFC 2046 s5.1.1
_BEHIND_DELIMITER = re.compile(rb"(--)?[ \t]*")
_LIKE_QUOTED = re.compile(rb"=[0-9A-F]{2}")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+")
_BOUNDARY_PARAMETER = re.compile(r"boundary[\s*0-9]*=")
_PARSER_FAULTS = (ValueError, LookupError, AttributeError, TypeError, AssertionError, email.errors.MessageError)
"""What the standard library's parser has raised on malformed fields."""
_NO_MIME = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=unknown-8bit\r\n"  # RFC 1428 s3


@dataclass(frozen=True, slots=True)
class Edit:
    """The octets from `start` to `end` become `text`, or, if there is none, themselves in `encoding`."""

    start: int
    end: int
    text: bytes = b""
    encoding: Encoding = Encoding.SEVEN_BIT


def plan_seven_bit(octets: Octets, front: bytes = b"") -> tuple[Edit, ...] | None:
    """What to change, from the beginning to the end; None when the message cannot be in seven bits.

    `front`: fields that stand before `octets`."""
    try:
        edits = list(_Planner(octets).message(0, len(octets), front))
    except (_Unfit, *_PARSER_FAULTS):
        return None
    return tuple(sorted(edits, key=lambda edit: edit.start))


def own_signatures(octets: Octets) -> int:
    """How many octets of signatures stand on top. They are ours: what came along stands below our Received."""
    found = _OWN_SIGNATURES.match(octets)
    return found.end() if found else 0


def render_edited(octets: Octets, edits: tuple[Edit, ...]) -> Iterator[bytes]:
    """The message after the edits, in pieces."""
    at = 0
    for edit in edits:
        yield from copied(octets, at, edit.start)
        if edit.text:
            yield edit.text
        else:
            yield from encoded(octets, edit.start, edit.end, edit.encoding)
        at = edit.end
    yield from copied(octets, at, len(octets))


class _Unfit(Exception):
    """The message cannot be in seven bits."""


@dataclass(frozen=True, slots=True)
class _Entity:
    """A header section from `start` to `body - 2` (an empty line parts it from the body), the body from there to `end`.

    `boundaries` are those of the multiparts it lies in."""

    start: int
    body: int
    end: int
    section: bytes
    header: email.message.Message
    boundaries: tuple[bytes, ...]
    depth: int

    @property
    def encoding(self) -> str:
        return str(self.header.get("Content-Transfer-Encoding", "7bit")).strip().lower()

    def labelled(self, encoding: Encoding) -> Edit:
        """The field that tells of `encoding`: in the place of the old one, or as the last."""
        text = b"Content-Transfer-Encoding: " + encoding.value.encode() + b"\r\n"
        found = _ENCODING_FIELD.search(self.section)
        at = found.span() if found else (len(self.section), len(self.section))
        return Edit(self.start + at[0], self.start + at[1], text)


class _Planner:
    """Walks down a message. Everything raises _Unfit."""

    def __init__(self, octets: Octets) -> None:
        self._octets = octets
        self._parts = 0

    def message(
        self, start: int, end: int, front: bytes = b"", boundaries: tuple[bytes, ...] = (), depth: int = 0
    ) -> Iterator[Edit]:
        """A message, or one that is a part of another."""
        entity = self._entity(start, end, boundaries, depth)
        if entity is None:
            return
        ours = _parsed(front)
        if not front.isascii():
            raise _Unfit
        if any(name in entity.header or name in ours for name in _SIGNATURES):
            self._must_be_clean(entity.body, end)  # it was changed only if something in it had to be
            return
        if "Content-Type" in ours or "Content-Transfer-Encoding" in ours:
            raise _Unfit
        edits = list(self._inside(entity))
        if edits and "MIME-Version" not in entity.header and "MIME-Version" not in ours:
            place = entity.start + len(entity.section)
            named = "Content-Type" in entity.header
            yield Edit(place, place, _NO_MIME.partition(b"\n")[0] + b"\n" if named else _NO_MIME)
        yield from edits

    def _entity(
        self, start: int, end: int, boundaries: tuple[bytes, ...], depth: int, default_type: str = "text/plain"
    ) -> _Entity | None:
        """None: there is no body, and nothing to do."""
        self._parts += 1
        if self._parts > MAX_PARTS or depth > MAX_DEPTH or start > end:
            raise _Unfit
        if self._octets[start : min(start + 2, end)] == b"\r\n":
            section, body = b"", start + 2
        else:
            place = self._octets.find(b"\r\n\r\n", start, min(end, start + HEADER_OCTETS))
            if place < 0:
                self._must_be_clean(start, end)
                return None
            section, body = self._octets[start : place + 2], place + 4
        if not section.isascii() or not _SECTION.fullmatch(section) or _LONG_LINE.search(section) or b"\0" in section:
            raise _Unfit
        header = _parsed(section)
        header.set_default_type(default_type)
        if any(len(header.get_all(name, [])) > 1 for name in ("Content-Type", "Content-Transfer-Encoding")):
            raise _Unfit
        return _Entity(start, body, end, section, header, boundaries, depth)

    def _inside(self, entity: _Entity) -> Iterator[Edit]:
        kind, main = entity.header.get_content_type(), entity.header.get_content_maintype()
        named = str(entity.header.get("Content-Type", "")).lower()
        if not _MEDIA_TYPE.fullmatch(kind):
            raise _Unfit
        if main not in {"multipart", "message"} and ("multipart" in named or "message/" in named):
            raise _Unfit  # a type that some read as such and others do not
        if kind in _CHANGELESS:
            self._must_be_clean(entity.body, entity.end)
        elif main == "multipart" or kind == "message/rfc822":
            yield from self._composite(entity, main)
        elif main == "message" and not _OPAQUE_MESSAGES.fullmatch(kind):
            self._must_be_clean(entity.body, entity.end)
        else:
            yield from self._leaf(entity, is_text=main in {"text", "message"})

    def _composite(self, entity: _Entity, main: str) -> Iterator[Edit]:
        """What may be nothing but 7bit, 8bit or binary (RFC 2045 s6.4): its parts are encoded, not itself."""
        if entity.encoding not in _PLAIN_ENCODINGS:
            return self._must_be_clean(entity.body, entity.end)
        if entity.encoding != "7bit":
            yield entity.labelled(Encoding.SEVEN_BIT)
        if main == "multipart":
            yield from self._multipart(entity)
        else:
            yield from self.message(entity.body, entity.end, b"", entity.boundaries, entity.depth + 1)
        return None

    def _multipart(self, entity: _Entity) -> Iterator[Edit]:
        named, text = str(entity.header.get("Content-Type", "")).lower(), entity.header.get_boundary()
        if text is None or not _BOUNDARY.fullmatch(text) or len(_BOUNDARY_PARAMETER.findall(named)) != 1:
            raise _Unfit
        boundaries = (*entity.boundaries, text.encode("ascii"))
        default_type = "message/rfc822" if entity.header.get_content_subtype() == "digest" else "text/plain"
        for start, end in self._parts_of(entity, boundaries[-1]):
            part = self._entity(start, end, boundaries, entity.depth + 1, default_type)
            if part is not None:
                yield from self._inside(part)

    def _parts_of(self, entity: _Entity, boundary: bytes) -> Iterator[tuple[int, int]]:
        """From and to where each part goes. What stands before and behind them can only be as it is."""
        delimiter = re.compile(rb"(\r\n|[\r\n])--" + re.escape(boundary) + rb"([^\r\n]{0,100})")
        end_before, begun = entity.body - 2, -1  # the empty line's CRLF may be the first delimiter's
        for found in delimiter.finditer(self._octets, entity.body - 2, entity.end):
            behind = _BEHIND_DELIMITER.fullmatch(found[2])
            line_end = self._octets[found.end() : min(found.end() + 2, entity.end)]
            if found[1] != b"\r\n" or behind is None or line_end not in {b"\r\n", b""}:
                raise _Unfit  # a boundary for some readers only
            if begun < 0:
                self._must_be_clean(end_before, found.start())
            else:
                yield begun, found.start()
            begun = found.end() + 2
            if behind[1]:
                return self._must_be_clean(found.end(), entity.end)
        raise _Unfit  # it never ends

    def _leaf(self, entity: _Entity, *, is_text: bool) -> Iterator[Edit]:
        look = look_at(self._octets, entity.body, entity.end)
        if look.is_seven_bit:
            if entity.encoding in {"8bit", "binary"}:
                yield entity.labelled(Encoding.SEVEN_BIT)
            return
        if entity.encoding not in _PLAIN_ENCODINGS:
            raise _Unfit
        quotable = is_text and look.is_quotable and not self._may_look_like_boundary(entity)
        encoding = Encoding.QUOTED_PRINTABLE if quotable else Encoding.BASE64
        yield entity.labelled(encoding)
        yield Edit(entity.body, entity.end, encoding=encoding)

    def _may_look_like_boundary(self, entity: _Entity) -> bool:
        """Whether a boundary could stand at the beginning of a line of this body in quoted-printable.

        Base64 has no hyphens."""
        for boundary in entity.boundaries:
            if _LIKE_QUOTED.search(boundary) or self._octets.find(boundary, entity.body, entity.end) >= 0:
                return True
        return False

    def _must_be_clean(self, start: int, end: int) -> None:
        if not look_at(self._octets, start, end).is_seven_bit:
            raise _Unfit


def _parsed(section: bytes) -> email.message.Message:
    return email.parser.BytesHeaderParser(policy=email.policy.compat32).parsebytes(section)
