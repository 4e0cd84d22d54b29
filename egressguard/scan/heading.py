"""What a header block says about its part, in each way that a mail program may read it. Pure, never raises.

Contract
    The plain reading is RFC 2045's: the first well-formed field of a name counts. `encodings` and `types` have the
    plain one first, then whatever else another reader could take; `names` are all names that any reader could show.
    Fields with blanks or NULs about their names, hidden behind folds, or given twice are found as well; so is a name
    that is given in any other line, if it looks like a file's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, islice

from egressguard.scan.names import (
    MAX_PARAMETERS,
    bounded,
    files_among_parameters,
    is_like_a_file,
    loose_names,
    parameter_names,
    stray_parameter,
)
from egressguard.scan.spotting import content_fields
from egressguard.values import value

_MAX_FIELDS = 64
_VALUE_OCTETS = 64 * 1024
_GOING_ON_OCTETS = 4 * _VALUE_OCTETS
"""Of all values in a block that go on to somebody: each may have the next ones in it."""
MAX_COST = 10 * 1024 * 1024
"""In octets of blocks, of the values in them, which may stand in each other, and of the names in those."""
_BLOCK_COST, _VALUE_COST = 4, 8
"""How often they are looked through: for fields and words, for one name after the other."""
_KEPT_OCTETS = 1000
"""Blocks whose values have more are described each time anew: what is kept takes a megabyte at most."""
_END_OF_VALUE = re.compile(rb"\r\n(?![ \t])|\n(?![ \t])|\r(?![ \t\n])")
_NO_FOLD = rb"(?:\r?\n|--|[!-9;-~]{1,200}[ \t]{0,20}:|\Z)"
_GOES_ON = re.compile(rb"\r(?!\n)|\r?\n(?!" + _NO_FOLD + rb")")
"""What ends a value, but not to who takes a bare CR, or a line that is no field, for more of it."""

_NEXT_FIELD = re.compile(rb"\r?\n(?=" + _NO_FOLD + rb")")
_BARE_CR = re.compile(rb"\r(?!\n)")
_OTHER_FOLD = re.compile(rb"\n(?![ \t])")
_PLAIN = re.compile(rb"(?i).content-(?:type|transfer-encoding|disposition|description|location)[ \t]*:\Z", re.DOTALL)
_MEDIA_TYPE = re.compile(rb"([^\s/;()\"<>,=]{1,80})\s*/\s*([^\s/;()\"<>,=]{1,120})")
_COMMENT = re.compile(rb"\([^()]*\)")
_BOUNDARY = re.compile(rb"(?i)(?:^|[;\s])boundary[ \t]*=[ \t\r\n]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))", re.DOTALL)
_CHARSET = re.compile(rb"(?i)charset\*?[ \t]*=[ \t]*\"?([A-Za-z0-9_.:+'-]{1,60})")
_ENCODING = re.compile(rb"(?i)base-?64|quoted-?printable|uu-?encode|\buue\b|yenc|binhex|hqx|mac-binhex40|\bB\b|\bQ\b")
_ENCODINGS = {
    b"base64": "base64",
    b"b": "base64",
    b"quotedprintable": "quoted-printable",
    b"q": "quoted-printable",
    b"uuencode": "uuencode",
    b"uue": "uuencode",
    b"yenc": "yenc",
    b"binhex": "binhex",
    b"hqx": "binhex",
    b"macbinhex40": "binhex",
}
_NAMING = (b"type", b"disposition", b"name")
_Field = tuple[bytes, bytes, bool, bool]
"""Its kind, its value with its folds, whether it is well formed, whether there is more of it than is read."""

_PLAIN_ENCODING = re.compile(rb"(?i)[\s\"']*(base64|quoted-printable|(?:x-)?uuencode|x-uue)[\s\"';.,]*\Z")


@value(frozen=True, slots=True)
class Heading:
    """`media_type` and `encoding` are the plain reading; `is_named` if Content-Type or -Disposition give a name.

    `crowded`: there is more of it than is read, which no mail program writes. `cost`: of its names (names.Names)."""

    media_type: str
    boundary: bytes | None
    encoding: str
    encodings: tuple[str, ...]
    types: tuple[str, ...]
    names: tuple[str, ...]
    charset: str
    is_named: bool
    crowded: bool
    cost: int


class Describer:
    """Says of each header block of one message what is in it, until that has cost MAX_COST: then only that it is
    `crowded`. Costs are counted, not timed: the same message always ends the same way."""

    def __init__(self) -> None:
        self._left = MAX_COST

    def __call__(self, block: bytes, default_type: str = "text/plain") -> Heading:
        """`block` need not have any field of ours."""
        if self._left <= 0:
            return Heading(default_type, None, "", ("",), (default_type,), (), "", False, True, 0)
        fields = _fields(b"\n" + block)
        octets = sum(len(value) for _, value, *_ in fields)
        heading = (_kept_heading if octets <= _KEPT_OCTETS else _heading)(fields, default_type)
        self._left -= len(block) * _BLOCK_COST + octets * _VALUE_COST + heading.cost
        return heading


def _fields(block: bytes) -> tuple[_Field, ...]:
    """Of those of MIME, each; of all others what they say of a name."""
    found: list[_Field] = []
    between, left = [0], _GOING_ON_OCTETS
    for match in islice(content_fields(block), _MAX_FIELDS):
        kind, start = match[1].lower(), match.end()
        text, is_cut = _value(block, start)
        found.append((kind, text, _PLAIN.match(match.group()) is not None, is_cut))
        if kind in _NAMING:
            end = start + len(text)
            between += (start, end)
            if _GOES_ON.match(block, end):
                found.append(_to_next_field(block, start, left))
                left -= len(found[-1][1])
    between.append(len(block))
    lowered = block.lower()
    gaps = zip(between[::2], between[1::2], strict=True)
    return (*found, *islice((stray for gap in gaps for stray in _strays(block, lowered, *gap)), _MAX_FIELDS))


def _to_next_field(block: bytes, start: int, most: int) -> _Field:
    """A value to those who drop bare CRs, and take a line that is no field for a fold. No LF: they see no header."""
    text, is_cut = _value(block, start, _NEXT_FIELD)
    is_cut = len(text) > most or (is_cut and block.find(b"\n", start + len(text)) >= 0)
    return b"name", _OTHER_FOLD.sub(b"\n ", _BARE_CR.sub(b"", text[: max(most, 0)])), False, is_cut


def _strays(block: bytes, lowered: bytes, start: int, end: int) -> Iterator[_Field]:
    """What follows each name to the end of its field: the next is looked for behind that."""
    while (at := stray_parameter(lowered, start, end)) >= 0:
        text, is_cut = _value(block, at)
        yield b"stray", text, False, is_cut
        start = at + len(text)


def _heading(fields: tuple[_Field, ...], default_type: str) -> Heading:
    types = [value for kind, value, *_ in fields if kind == b"type"]
    first = next((value for kind, value, plain, _ in fields if kind == b"type" and plain), None)
    media_type = _media_type(first) or default_type
    encodings = [value for kind, value, *_ in fields if kind.startswith(b"transfer")]
    plain_encoding = next((value for kind, value, plain, _ in fields if kind.startswith(b"transfer") and plain), b"")
    encoding = _plain_encoding(plain_encoding)
    all_encodings = dict.fromkeys([encoding, *(e for value in encodings for e in _encodings(value))])
    if len(set(encodings)) > 1:
        all_encodings.setdefault("")
    naming = [value for kind, value, *_ in fields if kind in _NAMING]
    loose = (name for kind, value, *_ in fields if kind == b"disposition" for name in files_among_parameters(value))
    said = (name for kind, value, *_ in fields if kind == b"stray" for name in _named(value))
    stray = (name if is_like_a_file(name) else "" for name in said)
    named = bounded(chain((name for value in naming for name in _named(value)), loose, stray))
    custom = bounded(
        n for kind, value, *_ in fields if kind in (b"description", b"location") for n in loose_names(value)
    )
    charset = _CHARSET.search(first or b"")
    return Heading(
        media_type,
        _boundary(first) if first is not None else None,
        encoding,
        tuple(all_encodings),
        tuple(dict.fromkeys([media_type, *(t for value in types for t in _media_types(value[:1000]))])),
        tuple(dict.fromkeys([*named.found, *custom.found])),
        charset[1].decode("ascii").lower() if charset else "",
        any(named.found),
        named.crowded
        or len(fields) >= _MAX_FIELDS
        or any(is_cut for *_, is_cut in fields)
        or any(value.count(b"=") > MAX_PARAMETERS for kind, value, *_ in fields if kind in (*_NAMING, b"stray")),
        named.cost + custom.cost,
    )


_kept_heading = lru_cache(maxsize=512)(_heading)
"""Parts of all messages say the same few things of themselves, and two readings describe each block."""


def _value(block: bytes, start: int, ends: re.Pattern[bytes] = _END_OF_VALUE) -> tuple[bytes, bool]:
    """(the value with its folds, whether there is more of it than is read)."""
    most = min(len(block), start + _VALUE_OCTETS)
    end = ends.search(block, start, most)
    return block[start : end.start() if end else most], end is None and most < len(block)


def _media_type(value: bytes | None) -> str:
    found = _MEDIA_TYPE.match(_COMMENT.sub(b"", value[:1000]).strip()) if value else None
    return f"{found[1].decode('latin-1')}/{found[2].decode('latin-1')}".lower() if found else ""


@lru_cache(maxsize=256)
def _media_types(value: bytes) -> tuple[str, ...]:
    found = _MEDIA_TYPE.findall(value)[:8]
    found += _MEDIA_TYPE.findall(value.replace(b"\0", b""))[:8] if b"\0" in value else []
    return tuple(f"{main.decode('latin-1')}/{sub.decode('latin-1')}".lower() for main, sub in found)


def _boundary(value: bytes) -> bytes | None:
    found = _BOUNDARY.search(value)
    if found is None:
        return None
    return found[2] if found[1] is None else re.sub(rb"\\(.)", rb"\1", found[1], flags=re.DOTALL)


def _plain_encoding(value: bytes) -> str:
    found = _PLAIN_ENCODING.match(value)
    return _ENCODINGS[found[1].lower().replace(b"-", b"").removeprefix(b"x")] if found else ""


def _encodings(value: bytes) -> list[str]:
    """All encodings that are named anywhere in it: in quotes, in comments, in a second word."""
    shrunk = re.sub(rb"[\0\x80-\xff]", b"", value[:1000])
    compact = re.sub(rb"[\s]", b"", shrunk)
    found = [*_ENCODING.findall(shrunk), *_ENCODING.findall(compact), *_ENCODING.findall(_COMMENT.sub(b"", compact))]
    return [_ENCODINGS[word.lower().replace(b"-", b"")] for word in found]


def _named(value: bytes) -> Iterator[str]:
    for variant in _variants(value):
        if b"name" in variant.lower():
            yield from parameter_names(variant)


def _variants(value: bytes) -> Iterator[bytes]:
    """The value, and without what some drop before they look for parameters."""
    yield value
    if b"\0" in value:
        yield value.replace(b"\0", b"")
    if value.count(b'"') % 2:  # a quote that does not end is a character like others
        yield value.replace(b'"', b"")
    if b"(" in value:
        yield _COMMENT.sub(b"", value)
