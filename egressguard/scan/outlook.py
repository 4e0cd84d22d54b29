"""Attachments in a message that Outlook has saved (.msg, [MS-OXMSG]): names and contents, nothing else. Never raises.

Contract
    Each attachment comes out under all its names, those of messages in the message, too. A name that stands in no
    attachment's storage comes out without a content.
"""

from __future__ import annotations

from collections.abc import Iterator

from egressguard.scan.compound import COMPOUND, STORAGE, STREAM, Compound, Entry
from egressguard.scan.octets import Octets

MAX_ATTACHMENTS = 500
_ATTACHMENT = "__attach_version1.0_#"
_CONTENT = "__substg1.0_37010102"
_NAMES = tuple(f"__substg1.0_{tag}{kind}" for tag in ("3707", "3704", "3001") for kind in ("001F", "001E"))
"""PidTagAttachLongFilename, -AttachFilename and -DisplayName, in Unicode and in eight bits."""
_NAME_OCTETS = 4096
_MARK = _ATTACHMENT.encode("utf-16-le")

Found = tuple[tuple[str, ...], Octets]


def has_attachments(content: Octets) -> bool:
    return content.startswith(COMPOUND) and content.find(_MARK) >= 0


def attachments(content: Octets) -> Iterator[Found]:
    if not has_attachments(content):
        return
    file = Compound(content)
    named: set[int] = set()
    given = 0
    for storage in file.entries:
        if storage.kind != STORAGE or not storage.name.startswith(_ATTACHMENT) or given >= MAX_ATTACHMENTS:
            continue
        inside = list(_inside(file, storage))
        named.update(inside)
        streams = [file.entries[number] for number in inside]
        names = tuple(_text(file, stream) for stream in streams if _is_name(stream))
        contents = [file.stream(stream) for stream in streams if stream.name == _CONTENT]
        given += 1
        yield names, contents[0] if contents else b""
    lost = [entry for number, entry in enumerate(file.entries) if _is_filename(entry) and number not in named]
    yield from (((_text(file, stream),), b"") for stream in lost[:MAX_ATTACHMENTS])


def _inside(file: Compound, storage: Entry) -> Iterator[int]:
    """The numbers of what a storage holds, in no order; each once, whatever leads to it."""
    waiting, seen = [storage.child], set()
    while waiting:
        number = waiting.pop()
        if number >= len(file.entries) or number in seen:
            continue
        seen.add(number)
        yield number
        waiting += [file.entries[number].left, file.entries[number].right]


def _is_name(entry: Entry) -> bool:
    return entry.kind == STREAM and entry.name in _NAMES


def _is_filename(entry: Entry) -> bool:
    """Recipients have display names, too."""
    return _is_name(entry) and "_3001" not in entry.name


def _text(file: Compound, stream: Entry) -> str:
    octets = file.stream(stream)[:_NAME_OCTETS]
    return octets.decode("utf-16-le" if stream.name.endswith("F") else "latin-1", "replace").partition("\0")[0]
