"""The parts of a message as mail programs could offer them, in every plausible reading. Pure, bounded, never raises.

Contract
    Every leaf of the MIME tree comes out (`tree`: the plain reading), and whatever a looser reader would see:
    parts behind other delimiters (`loose`), bodies in another encoding, files in plain text (`sweep`).
    Where such a part has something that rules or engines could react to and the plain reading has not got it, the
    readings differ: a difference in words, and the caller holds the message. Deviations that hide nothing are none.
    What cannot be read, or is too much to read, is a problem in words, never an exception.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from egressguard.scan import apple, carried, outlook, pkcs7, sweep, tnef
from egressguard.scan.encodings import (
    ODD_OCTETS,
    base64,
    decode,
    has_many_blanks,
    is_odd_base64,
    looks_like_base64,
)
from egressguard.scan.heading import Describer, Heading
from egressguard.scan.kinds import dangerous_type
from egressguard.scan.loose import pieces
from egressguard.scan.names import bounded
from egressguard.scan.octets import Octets, contains, gather, part, same, stored, windows, without_end
from egressguard.scan.searching import search
from egressguard.scan.spotting import CONTENT_FIELD, content_fields
from egressguard.scan.tree import Leaf, leaves
from egressguard.values import value

MAX_LEVELS = 8
MAX_PARTS = 1500
MAX_DIFFERENCES = 20
MAX_DECODED_OCTETS = 512 * 1024 * 1024
MAX_COMPARED_OCTETS = 1024 * 1024 * 1024
_COMPARISON_OCTETS = 1000
"""What one comparison costs, however short: so that many parts are bounded, too."""

_TAIL_OCTETS = 128
"""So much junk may follow a file and it is still the same file: a line of text behind base64, decoded along with it.
Not so the directory of a ZIP archive, which makes one of what was none."""

_FIELD_OCTETS = 64 * 1024

_LF_CR = re.compile(rb"\n\r+(?!\n)")
_REMOTE = {
    "message/partial": "a piece of a message, the rest comes in others",
    "message/external-body": "a part that mail programs fetch from elsewhere",
}


@value(frozen=True, slots=True)
class Part:
    """`names` are all the names the part could be shown under; `is_text` for inline text bodies.

    `plain`: the plain reading has it; otherwise only some mail programs would see it."""

    names: tuple[str, ...]
    content: Octets
    is_text: bool
    plain: bool = True


@dataclass(slots=True)
class Walked:
    parts: list[Part] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


def walk(content: Octets, describe: Describer) -> Walked:
    """All parts of the message, what was wrong with it, and where its readings differ."""
    return _Walk(describe).run(content)


@value(frozen=True, slots=True)
class Reading:
    """A body as one reader has it. `decoded`: it stands nowhere in the message as it is."""

    content: Octets
    decoded: bool


class _Walk:
    """One message; `waiting` has octets that are to be read as a message of their own."""

    def __init__(self, describe: Describer) -> None:
        self._walked = Walked()
        self._describe = describe
        self._decoded = 0
        self._compared = 0
        self._texts: set[Octets] = set()
        self._waiting: deque[tuple[Octets, int, bool]] = deque()

    def run(self, content: Octets) -> Walked:
        self._waiting.append((content, 0, True))
        while self._waiting:
            octets, level, plain = self._waiting.popleft()
            if level > MAX_LEVELS:
                self._problem(f"encoded more than {MAX_LEVELS} times over")
                break
            if len(self._walked.parts) > MAX_PARTS or self._decoded > MAX_DECODED_OCTETS:
                self._problem("too much to read")
                break
            self._read(octets, level, plain)
        return self._walked

    def _read(self, content: Octets, level: int, plain: bool) -> None:
        self._decoded += len(content)
        known = leaves(content, self._describe, self._walked.problems)
        for leaf in known:
            self._leaf(content, leaf, level, plain)
        for piece in pieces(content, known, self._describe, self._walked.problems):
            self._piece(content, piece, level)
        self._sweep(content, level)
        self._found(sweep.raw_archives(content, self._walked.problems), level)
        for other in _other_line_ends(content):
            self._waiting.append((other, level + 1, False))

    def _leaf(self, content: Octets, leaf: Leaf, level: int, plain: bool) -> None:
        heading = leaf.heading
        if heading.crowded:
            self._problem("more names or fields than are read")
        if heading.media_type in _REMOTE:
            self._differ(_REMOTE[heading.media_type])
        readings = self._readings(content, leaf)
        first = next(readings)
        is_text = not heading.is_named and all(kind.startswith("text/") for kind in heading.types)
        if plain:
            self._walked.parts.append(Part(heading.names, first.content, is_text))
            if is_text:
                self._texts.add(first.content)
            self._inside(first, heading, level, plain=True)
        else:
            self._extra(heading, first, level, "with other line ends")
        for other in readings:
            self._variant(heading, other, level)

    def _piece(self, content: Octets, piece: Leaf, level: int) -> None:
        if piece.heading.crowded:
            self._problem("more names or fields than are read")
        for reading in self._readings(content, piece):
            self._extra(piece.heading, reading, level, "outside the parts that the boundaries make")

    def _readings(self, content: Octets, leaf: Leaf) -> Iterator[Reading]:
        """The body in each encoding that is named, and in base64 if it only looks like that."""
        encodings = list(leaf.heading.encodings)
        if "base64" not in encodings and looks_like_base64(content, leaf.start, leaf.end):
            encodings.append("base64")
        for encoding in encodings:
            large = leaf.end - leaf.start > ODD_OCTETS
            if encoding == "base64" and large and is_odd_base64(content, leaf.start, leaf.end):
                self._problem("a large part in odd base64")
            if encoding == "quoted-printable" and not isinstance(content, bytes):
                self._check_blanks(content, leaf)
            for reading in decode(encoding, content, leaf.start, leaf.end):
                self._decoded += len(reading)
                yield Reading(reading, bool(encoding))

    def _check_blanks(self, content: Octets, leaf: Leaf) -> None:
        body = part(content, leaf.start, leaf.end)
        if not isinstance(body, bytes) and has_many_blanks(body):
            self._problem("a large part with more blanks in a row than are read")

    def _inside(self, reading: Reading, heading: Heading, level: int, *, plain: bool) -> None:
        """What a part carries in its turn."""
        content = reading.content
        if content.startswith(tnef.TNEF):
            self._members(tnef.attachments(content), plain)
        self._members(apple.files(content), plain)
        self._members(outlook.attachments(content), plain)
        if pkcs7.is_wrapping(heading.media_type, heading.names):
            inner = pkcs7.wrapped(content, self._walked.problems)
            if inner is not None:
                self._waiting.append((inner, level + 1, plain))
        if heading.media_type.startswith("text/") or b"data:" in content[:100_000]:
            self._text(content, heading, level, plain)
        if not content.startswith(b"PK"):
            behind = sweep.zip_behind(content)
            if behind is not None:
                self._walked.parts.append(Part(heading.names, behind, False, plain))
        if reading.decoded:
            self._decoded_part(content, heading, level, plain)

    def _text(self, content: Octets, heading: Heading, level: int, plain: bool) -> None:
        """Files in a page's links, and in the lines of calendars and cards."""
        self._members(carried.data_uris(content, self._walked.problems), plain)
        self._members(carried.cards(content, self._walked.problems), plain)
        self._charset(content, heading.charset, level)
        if "html" in heading.media_type or heading.is_named:
            shown = carried.shown_markup(content, self._walked.problems)
            if shown is not None:
                self._members(carried.data_uris(shown, self._walked.problems), False)

    def _decoded_part(self, content: Octets, heading: Heading, level: int, plain: bool) -> None:
        """RFC 2046 s5.2.1 and s6.4 of RFC 2045 forbid encoded messages and multiparts: not all readers look inside."""
        if heading.media_type.startswith(("message/", "multipart/")):
            self._waiting.append((content, level + 1, plain and heading.media_type.startswith("message/")))
        elif any(content_fields(b"\n" + content[:_FIELD_OCTETS])):
            self._waiting.append((content, level + 1, plain and dangerous_type(content) is None))
        else:
            self._sweep(content, level)
            if looks_like_base64(content, 0, len(content)) and level < MAX_LEVELS:
                self._variant(heading, Reading(base64(content, 0, len(content)), True), level + 1)

    def _members(self, found: Iterator[sweep.Found], plain: bool) -> None:
        for names, content in found:
            self._decoded += len(content)
            self._walked.parts.append(Part(bounded(names).found, content, False, plain))

    def _charset(self, content: Octets, charset: str, level: int) -> None:
        """Text in a charset whose letters are not ASCII's: looked at as it is shown, too."""
        shown = _as_shown(content, charset)
        if shown is not None and shown != content:
            self._walked.parts.append(Part((), shown, True, False))
            self._sweep(shown, level)

    def _sweep(self, content: Octets, level: int) -> None:
        self._found(sweep.files(content, self._walked.problems), level)

    def _found(self, files: Iterator[sweep.Found], level: int) -> None:
        for names, file in files:
            self._decoded += len(file)
            named = bounded(names).found
            kind = dangerous_type(file)
            if (named or kind) and not self._is_known(named, file):
                self._differ(f"a file in the midst of text: {named[0] if named else kind}")
                self._walked.parts.append(Part(named, file, False, False))
                if level < MAX_LEVELS:
                    self._sweep(file, level + 1)

    def _variant(self, heading: Heading, reading: Reading, level: int) -> None:
        """Another reading of a body that is known under the same names: its kind decides."""
        content = reading.content
        kind = dangerous_type(content)
        if self._is_known(heading.names, content):
            return
        if kind is not None:
            self._differ(f"in another transfer encoding: {heading.names[0] if heading.names else kind}")
        self._walked.parts.append(Part(heading.names, content, kind is None, False))
        self._inside(reading, heading, level, plain=False)

    def _extra(self, heading: Heading, reading: Reading, level: int, why: str) -> None:
        """A part that the plain reading has not got: it counts if somebody could react to it."""
        content = reading.content
        kind = dangerous_type(content)
        matters = bool(heading.names) or kind is not None
        if (not matters and content in self._texts) or (matters and self._is_known(heading.names, content)):
            return
        if matters:
            self._differ(f"{why}: {heading.names[0] if heading.names else kind}")
        else:
            self._texts.add(content)
        self._walked.parts.append(Part(heading.names, content, not matters, False))
        self._inside(reading, heading, level, plain=False)

    def _is_known(self, names: tuple[str, ...], content: Octets) -> bool:
        """Whether a part so named with such a content has come out; "no" where finding out would take too long."""
        stripped = without_end(content, b"\r\n\t \0")
        for known in self._walked.parts:
            if not names or set(names) <= set(known.names):
                self._compared += len(known.content) + _COMPARISON_OCTETS
                if self._compared > MAX_COMPARED_OCTETS:
                    return False
                if _holds(known.content, stripped):
                    return True
        return False

    def _differ(self, why: str) -> None:
        if len(self._walked.differences) < MAX_DIFFERENCES and why not in self._walked.differences:
            self._walked.differences.append(why)

    def _problem(self, problem: str) -> None:
        if problem not in self._walked.problems:
            self._walked.problems.append(problem)


def _holds(known: Octets, found: Octets) -> bool:
    """Whether what was found is nothing new: part of a known content, or that with a line of junk behind it."""
    if len(found) <= len(known):
        return contains(known, found)
    is_near = len(found) - len(known) <= _TAIL_OCTETS and len(known) > _TAIL_OCTETS
    return is_near and same(part(found, 0, len(known)), known) and found.find(b"PK\5\6", len(known) - 3) < 0


def _as_shown(content: Octets, charset: str) -> bytes | None:
    if not charset.startswith(("utf-7", "utf7", "utf-16", "utf16", "utf-32", "utf32", "iso-2022", "hz", "ucs")):
        return None
    try:
        return content[: 1 << 22].decode(charset, "replace").encode("utf-8", "replace")
    except (LookupError, ValueError):
        return None


def _other_line_ends(content: Octets) -> Iterator[Octets]:
    """The message without its NULs, or with the usual end of each line, if that makes more of it a header section."""
    if len(content) > 8 * ODD_OCTETS:
        return
    if content.find(b"\0") >= 0:
        bare = gather(window.replace(b"\0", b"") for window in windows(content))
        if _fields(bare) != _fields(content):
            yield bare
    if content.find(b"\r\r\n", 0, 1 << 16) >= 0:
        yield stored(content[:].replace(b"\r\r\n", b"\r\n"))
    if content.find(b"\n\r", 0, 1 << 16) >= 0 and search(_LF_CR, content, 0, 1 << 16):
        yield stored(_LF_CR.sub(b"\n", content[:]))


def _fields(content: Octets) -> int:
    at_start = CONTENT_FIELD.match(b"\n" + content[:_FIELD_OCTETS]) is not None
    return at_start + sum(1 for _ in zip(range(1000 - at_start), content_fields(content), strict=False))
