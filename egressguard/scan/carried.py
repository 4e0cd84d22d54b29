"""Files that a page, a calendar or a card carries in its own links and lines. Pure, bounded, never raises.

Contract
    `data_uris` finds data: URIs (RFC 2397), `shown_markup` what they stand in once a reader has undone its characters
    by name or number, `cards` files in the lines of a calendar or a card. What is more than the limits below is a
    problem in words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from egressguard.scan.encodings import base64, octet_of
from egressguard.scan.octets import Octets, gather, part, windows
from egressguard.scan.searching import REACH_OCTETS, count_of, finditer, has_word, match, replaced, search
from egressguard.scan.sweep import MAX_FILES, Found, note_too_many

MAX_URIS = 300
MAX_ENTITIES = 200_000
_NEAR_OCTETS = 300
_FIELD_OCTETS = 64 * 1024

_DATA = re.compile(rb"(?i)data:([a-z0-9.+/-]{0,80})((?:;[^,;\"'<>\s]{0,80}){0,5}),")
_DOWNLOAD = re.compile(rb"(?i)download[ \t]*=[ \t]*[\"']?([^\"'<>\r\n]{1,255})")
_UNFINISHED_PERCENT = re.compile(rb"%[0-9A-Fa-f]?\Z")
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_ENTITY = re.compile(rb"(?i)&(?:#|colon|comma|semi|tab|newline|sol|plus|equals)")
_CARD = re.compile(rb"(?i)[\s\xef\xbb\xbf]{0,100}BEGIN:VC")
_LINE_END = re.compile(rb"[\r\n]")
_UNFINISHED_FOLD = re.compile(rb"(?:\r\n|\n|\r)\Z")
_CARD_FOLD = re.compile(rb"(?:\r\n|\n|\r)[ \t]")
_IN_BASE64 = re.compile(rb"(?i);ENCODING=\"?B(?:ASE64)?\b")
_CARD_NAME = re.compile(rb"(?i)(?:FILENAME|X-[A-Z-]{0,30}NAME)=\"?([^\";:\r\n]{1,255})")
_URI_END = re.compile(rb"[\"'<>)]")


def data_uris(content: Octets, problems: list[str]) -> Iterator[Found]:
    """What a page carries in its own links: unnamed, or as its `download` attribute says."""
    spent = 0
    if not has_word(content, b"data:"):
        return
    for number, link in enumerate(finditer(_DATA, content)):
        end = search(_URI_END, content, link.end())
        stop = end.start() if end else len(content)
        spent += stop - link.end()
        if number >= MAX_URIS or spent > 2 * len(content):
            return note_too_many(problems)
        body = gather(replaced(_PERCENT, octet_of, windows(content, link.end(), stop), _UNFINISHED_PERCENT))
        near = content[max(0, link.start() - _NEAR_OCTETS) : link.start()] + content[stop : stop + _NEAR_OCTETS]
        names = tuple(name.decode("utf-8", "replace") for name in _DOWNLOAD.findall(near)[:2])
        yield names, base64(body, 0, len(body)) if b"base64" in link[2].lower() else body


def cards(content: Octets, problems: list[str]) -> Iterator[Found]:
    """Files in a calendar's or a card's own lines (RFC 5545 s3.8.1.1, RFC 6350 s6.2.4), folds undone."""
    if match(_CARD, content) is None:
        return
    found = 0
    for line in _lines(gather(replaced(_CARD_FOLD, b"", windows(content), _UNFINISHED_FOLD))):
        colon = line.rfind(b":")
        if colon > _FIELD_OCTETS and not isinstance(line, bytes):
            return note_too_many(problems)
        field = line[: max(colon, 0)]
        if _IN_BASE64.search(field) is None:
            continue
        found += 1
        if found > MAX_FILES:
            return note_too_many(problems)
        names = tuple(name.decode("utf-8", "replace") for name in _CARD_NAME.findall(field)[:4])
        yield names, base64(line, colon + 1, len(line))


def _lines(content: Octets) -> Iterator[Octets]:
    if isinstance(content, bytes):
        yield from content.splitlines()
        return
    start = 0
    while window := next(windows(content, start), b""):
        end = max(window.rfind(b"\r"), window.rfind(b"\n")) + 1
        yield from window[:end].splitlines()
        if not end:
            after = search(_LINE_END, content, start)
            end = (after.end() if after else len(content)) - start
            yield part(content, start, start + end)
        start += end


def shown_markup(content: Octets, problems: list[str]) -> Octets | None:
    """A page as its reader takes its links: characters by their names or numbers, no line ends and tabs inside, one
    octet a letter. None: nothing in it is written so."""
    plain = gather(window.translate(None, b"\0\t\r\n") for window in windows(content))
    if plain.find(b"&") >= 0 and search(_ENTITY, plain) is not None:
        if sum(window.count(b"&") for window in windows(plain)) <= MAX_ENTITIES:
            return gather(_unescaped(plain))
        note_too_many(problems)
    return plain if count_of(plain, b"data:") != count_of(content, b"data:") else None


def _unescaped(content: Octets) -> Iterator[bytes]:
    rest = b""
    for window in windows(content):
        text = rest + window
        end = text.rfind(b"&", max(0, len(text) - REACH_OCTETS))
        rest = text[end:] if end >= 0 else b""
        yield html.unescape(text[: len(text) - len(rest)].decode("latin-1")).encode("utf-8", "replace")
    yield html.unescape(rest.decode("latin-1")).encode("utf-8", "replace")
