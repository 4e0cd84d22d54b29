"""Every name that a part may be shown under: all parameters, all ways to decode them. Pure, bounded, never raises.

RFC 2045 s5.1, RFC 2183 s2.3, RFC 2231 s3 and s4, RFC 2047 (which forbids encoded words in parameters; all use them).
"""

from __future__ import annotations

import binascii
import html
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

MAX_NAME_CHARACTERS = 255
MAX_NAMES = 100
MAX_PARAMETERS = 200
MAX_COST = 300_000
"""In characters of the names that are looked at until MAX_NAMES different ones are found."""
_NAME_COST = 100
"""What a name costs besides its characters."""

_DROPPED = rb"(?:[^0-9A-Za-z=:;\r\n(]|\((?:[^()\r\n]{0,60}+\))?+|\r?\n[ \t]){0,20}+"
_BEFORE_EQUALS = _DROPPED + rb"(?:([0-9]{1,4})" + _DROPPED + rb"[0-9]{0,4}" + _DROPPED + rb")?="
"""A piece's number, asterisks, blanks, comments, folds and whatever else is dropped on the way."""
_TEXT = rb"[ \t\r\n]*(\"(?:[^\"\\]|\\.)*\"?|[^;\r\n]*(?:\r?\n[ \t][^;\r\n]*)*)"
_BEHIND = rb"(?=([^;\r\n]*(?:\r?\n[ \t][^;\r\n]*)*))"
"""What stands behind a quoted string, in folds, too, and not taken: there may be a parameter in it."""
_PARAMETER = re.compile(rb"(?i)(?:file)?name" + _BEFORE_EQUALS + _TEXT + _BEHIND, re.DOTALL)
_ANY_VALUE = re.compile(rb"=[ \t]*(\"[^\"]*\"?|[^;=\r\n]*)")
_PIECE = re.compile(rb"\*[^0-9A-Za-z=;\r\n]{0,20}([0-9]{1,4})[^0-9A-Za-z=;\r\n]{0,20}=" + _TEXT, re.DOTALL)
_STRAY = re.compile(rb"name" + _BEFORE_EQUALS)
_TOKENS = re.compile(rb"[^\s\"'(),;<>=\[\]\\\0-\x1f\x7f]+")
_LETTERS_OF_TOKENS = re.compile(rb"[!#-'*+.0-9A-Z^-~-]+"), re.compile(rb"[!#$&+.0-9A-Z^-~-]+")
"""RFC 2045 s5.1's token, RFC 2231 s7's attribute-char: some end an unquoted value where these end."""
_NOT_IN_TOKENS = b' \t\r\n"\\()<>'
_MOST_TOKENS = 10
_BLANKS = re.compile(rb"[ \t]{16,}")
_FOLD = re.compile(rb"[\r\n]+[ \t]*")
_COMMENT = re.compile(rb"\([^()]*\)")
_WORD = re.compile(rb"=\?([^?\s]{0,40})\?[ ]?([bBqQ])[ ]?\?([^?]*)\?=")
_MARKS_OF_A_WORD = re.compile(rb"=\?[^?\s]{0,40}\?[bBqQ]\?|\?=")
_BETWEEN_WORDS = re.compile(rb"\?=\s+=\?")
_SAME_WORD = re.compile(rb"(\?[bB]\?[^?=]*)\?==\?[^?\s]{0,40}\?[bB]\?")
_AT_THE_EDGES = "\"' .;,:=*?!|&#<>()[]{}\\/^`~"
_LOOKS_LIKE_A_FILE = re.compile(r"[^/\\:*?<>|]{1,200}\.[A-Za-z0-9]{1,5}\Z")


def parameter_names(value: bytes) -> Iterator[str]:
    """The names in one field's value (Content-Type, Content-Disposition), as many as there are ways to read it."""
    read: set[bytes] = set()
    for raw in _raw_names(_BLANKS.sub(b" ", value)):
        if raw not in read:
            read.add(raw)
            yield from _readings(raw)


def _raw_names(value: bytes) -> Iterator[bytes]:
    """As they stand there, pieces put together."""
    pieces: list[tuple[int, bytes]] = []
    for match in islice(_PARAMETER.finditer(value), MAX_PARAMETERS):
        number, text = match[1], match[2]
        if number:
            pieces.append((int(number), _unquoted(text)))
        yield from _values(text)
        if behind := match[3].strip():  # a closing quote: some take it along, some take it alone
            yield from (_unquoted(behind), _unquoted(_COMMENT.sub(b"", behind)), (text + match[3]).replace(b'"', b""))
    if pieces:
        every = [(int(match[1]), _unquoted(match[2])) for match in islice(_PIECE.finditer(value), MAX_PARAMETERS)]
        for some in (pieces, every):  # whatever parameter they are said to be of
            for order in (sorted(some, key=lambda piece: piece[0]), some):
                yield b"".join(text for _, text in order)


def files_among_parameters(value: bytes) -> Iterator[str]:
    """What looks like a file's name, whatever the parameter is called that has it; "" for what does not."""
    for match in islice(_ANY_VALUE.finditer(value), MAX_PARAMETERS):
        if b"." in match[1]:
            yield from (name if is_like_a_file(name) else "" for name in _readings(_unquoted(match[1])))


def stray_parameter(lowered: bytes, start: int, end: int) -> int:
    """Where a name is given first in lowered[start:end], a header section in lower case; -1 = nowhere."""
    at = lowered.find(b"name", start, end)
    while at >= 0 and not _STRAY.match(lowered, at, end):
        at = lowered.find(b"name", at + 4, end)
    return at


def loose_names(value: bytes) -> Iterator[str]:
    """The name in a field that is one by custom only (Content-Description, Content-Location); "" for what is none."""
    for name in _readings(_unquoted(value.strip())):
        last = name.rpartition("/")[2]
        yield last if is_like_a_file(last) else ""


def is_like_a_file(name: str) -> bool:
    return _LOOKS_LIKE_A_FILE.match(name) is not None


class Names(NamedTuple):
    """Each once; `crowded`: there are more of them than are read. `cost` is that of all that was looked at, in
    characters."""

    found: tuple[str, ...]
    crowded: bool
    cost: int


def bounded(names: Iterable[str]) -> Names:
    """MAX_NAMES of them at most, for MAX_COST: to read a name again costs as much as to read another. "" is none."""
    found: dict[str, None] = {}
    cost = 0
    for name in names:
        cost += len(name) + _NAME_COST
        if len(found) >= MAX_NAMES or cost > MAX_COST:
            return Names(tuple(found), True, cost)
        if name:
            found.setdefault(name[:MAX_NAME_CHARACTERS])
            if len(name) > MAX_NAME_CHARACTERS:  # who shortens it may keep its suffix
                found.setdefault(name[-MAX_NAME_CHARACTERS:])
    return Names(tuple(found), False, cost)


def _values(text: bytes) -> Iterator[bytes]:
    whole = _unquoted(text)
    yield whole
    if not text.startswith(b'"'):
        yield text.split(None, 1)[0] if text.split() else b""
        yield text.replace(b'"', b"")
        if (bare := text.translate(None, _NOT_IN_TOKENS)) != text:
            yield bare
        ended = [found.group() for letters in _LETTERS_OF_TOKENS if (found := letters.match(text))]
        yield from (token for token in ended if b"." in token and token != whole)
        yield from (token for token in _TOKENS.findall(text)[:_MOST_TOKENS] if b"." in token and token != whole)
    if b"\\" in text:
        yield text.strip(b'"')
    if b"(" in text:
        yield _COMMENT.sub(b"", whole)


def _unquoted(text: bytes) -> bytes:
    text = text.strip()
    if text[:1] == b'"':
        return re.sub(rb"\\(.)", rb"\1", text[1:].removesuffix(b'"'), flags=re.DOTALL)
    return text[1:-1] if text[:1] == text[-1:] == b"'" and len(text) > 1 else text


def _readings(raw: bytes) -> Iterator[str]:
    """One value: as it stands, with its RFC 2231 charset and percents, with its RFC 2047 words."""
    unfolded = _FOLD.sub(b"", raw) if b"\n" in raw or b"\r" in raw else raw
    yield from _shown(_text(unfolded, ""))
    if unfolded is not raw:
        yield from _shown(_text(_FOLD.sub(b" ", raw), ""))
    charset, rest = _extended(unfolded)
    if b"%" in unfolded or charset:
        yield from _shown(_text(unquote_to_bytes(rest), charset))
        yield from _shown(_text(rest, charset))
    if b"=?" in unfolded:
        words = _words(unfolded)
        yield from _shown(words)
        if "=?" in words:
            yield from _shown(_text(_MARKS_OF_A_WORD.sub(b"", unfolded), ""))
            yield from _shown(_words(words.encode("utf-8", "replace")))
    if not unfolded.isascii():
        yield from _shown(_ends(unfolded).decode("utf-8", "ignore"))


def _extended(value: bytes) -> tuple[str, bytes]:
    parts = value.split(b"'", 2)
    return (parts[0].decode("ascii", "replace"), parts[2]) if len(parts) == 3 else ("", value)


def _words(raw: bytes) -> str:
    """RFC 2047 as mail programs do it: words anywhere, even without blanks between, even cut within a letter."""
    joined = _SAME_WORD.sub(rb"\1", _BETWEEN_WORDS.sub(b"?==?", raw))
    out: list[str] = []
    end = 0
    for match in _WORD.finditer(joined):
        out.append(_text(joined[end : match.start()], ""))
        out.append(_text(_word(match[2], match[3]), match[1].split(b"*")[0].decode("ascii", "replace")))
        end = match.end()
    return "".join([*out, _text(joined[end:], "")])


def _word(encoding: bytes, text: bytes) -> bytes:
    if encoding in b"qQ":
        return binascii.a2b_qp(text.replace(b"_", b" "))
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
    letters = letters[:-1] if len(letters) % 4 == 1 else letters
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def _text(raw: bytes, charset: str) -> str:
    raw = _ends(raw)
    for candidate in (charset, "utf-8", "latin-1"):
        try:
            return raw.decode(candidate) if candidate else raw.decode("ascii")
        except (LookupError, ValueError):
            continue
    return ""


def _ends(raw: bytes) -> bytes:
    """Of a name that is much too long its beginning and its end: nobody shows what is between."""
    most = 4 * MAX_NAME_CHARACTERS
    return raw if len(raw) <= 2 * most else raw[:most] + raw[-most:]


def _shown(name: str) -> Iterator[str]:
    """The name as a mail program shows it, as it saves it (nothing after a NUL), as a web page shows it if that makes
    another kind of it, and the last of a path."""
    texts = [name, name.partition("\0")[0]] if "\0" in name else [name]
    if "&" in name and _suffix(unescaped := html.unescape(name)) != _suffix(name):
        texts.append(unescaped)
    for text in texts:
        shown = (text if text.isprintable() else "".join(filter(str.isprintable, text))).strip()
        yield shown
        last = re.split(r"[/\\]", shown)[-1].strip()
        if last != shown:
            yield last
        stripped = last if last.startswith("=?") else last.strip(_AT_THE_EDGES)
        if stripped != last:
            yield stripped


def _suffix(name: str) -> str:
    return name.rpartition(".")[2]
