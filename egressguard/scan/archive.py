"""Look into archives of all kinds, nested to a limit, known by their content whatever they are called.

Contract
    Never raises, never writes a file. What cannot be looked into is a problem in words: the caller holds the message.
    An archive that stands behind something else (a program that unpacks itself, a picture) is opened as well.
    Encrypted members come out as members without content, and are a problem.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from egressguard.scan import unpacker, zipped
from egressguard.scan.active import carried
from egressguard.scan.budget import MAX_NAME_CHARACTERS, Budget, Member, Opened, shown
from egressguard.scan.kinds import CLOSED, CPIO, ISO, PACKED, TAR, ZIP, archive_kinds, media_type
from egressguard.scan.libarchive import Entry, Unreadable
from egressguard.scan.octets import Octets, part, windows

__all__ = ["Budget", "Member", "Opened", "members"]

_FORMATS = {
    "application/x-7z-compressed": ("7zip",),
    "application/vnd.rar": ("rar", "rar5"),
    "application/vnd.ms-cab-compressed": ("cab",),
    "application/x-archive": ("ar",),
    CPIO: ("cpio",),
    "application/x-lha": ("lha",),
    TAR: ("tar",),
    ISO: ("iso9660",),
}
_BEHIND = {
    b"7z\xbc\xaf\x27\x1c\x00": ("7zip",),
    b"Rar!\x1a\x07\x00": ("rar",),
    b"Rar!\x1a\x07\x01\x00": ("rar5",),
    b"MSCF\0\0\0\0": ("cab",),
}
"""What may stand behind a program that unpacks itself; ZIP is looked for in everything."""

_BEHIND_HAS = (b"\0", b"\x1a", b"\xbc")
"""One of them is in each of those; texts have none."""

_GZIP_EXTRA, _GZIP_NAME, _GZIP_OCTETS = 0x04, 0x08, 18
_READINGS = {ISO: (b"", b"!rockridge", b"!rockridge,!joliet"), TAR: (b"read_concatenated_archives",)}
"""An ISO image may have three directories: which of them is shown depends on who looks. Some read tar archives to the
end of the file, some to the end of the archive."""


def members(
    path: tuple[str, ...], content: Octets, kind: str, budget: Budget, levels: int, opened: Opened
) -> Iterator[Member]:
    """Every file inside `content` of the media type `kind`, archives inside it opened in turn down to `levels`; none
    if it is no archive."""
    name = path[-1]
    for reading in _readings(content, kind, name, budget, opened):
        if levels <= 0:
            opened.problem(f"archive nested too deep: {name}")
            return
        if budget.spent(name, opened):  # to find nothing takes time, too
            return
        for entry in reading:
            if budget.spent(name, opened):
                return
            yield from _member(entry, path, budget, levels, opened)


def _readings(content: Octets, kind: str, name: str, budget: Budget, opened: Opened) -> Iterator[Iterator[Entry]]:
    """Each way to read `content` as an archive."""
    try:
        archive = zipped.find(content)
    except zipped.Broken as wrong:
        opened.problem(f"broken archive: {name} ({wrong})")
        archive = None
    if archive is not None:
        for doubt in dict.fromkeys(archive.doubts()):
            opened.problem(f"programs read this archive differently: {name} ({doubt})")
        yield archive.entries()
    kinds = archive_kinds(content, kind)
    for each in sorted(kinds):
        if each in CLOSED:
            opened.problem(f"{CLOSED[each]} cannot be looked into: {name}")
            continue
        if each in PACKED:
            yield _packed(content, budget)
            continue
        for options in _READINGS.get(each, (b"",)):
            yield unpacker.entries(content, _FORMATS[each], options, seconds=budget.seconds_left())
    if files := carried(name, content, kind):
        yield iter([Entry((inner,), windows(octets)) for inner, octets in files])
    if not kinds and archive is None:
        yield from _behind(content, budget)


def _packed(content: Octets, budget: Budget) -> Iterator[Entry]:
    """A packed tar archive is read without keeping the whole of it; libarchive would take zeros for one, too."""
    head = b""
    with contextlib.suppress(Unreadable):
        for entry in unpacker.entries(content, ("raw",), packed=True, seconds=budget.seconds_left()):
            head = next(entry.chunks, b"")
            break
    formats = ("tar", "cpio") if archive_kinds(head, media_type(head)) & {TAR, CPIO} else ("raw",)
    options = _READINGS[TAR][0] if "tar" in formats else b""
    for entry in unpacker.entries(content, formats, options, packed=True, seconds=budget.seconds_left()):
        yield replace(entry, names=_name_in_gzip(content)) if entry.raw else entry


def _name_in_gzip(content: Octets) -> tuple[str, ...]:
    """RFC 1952 s2.3.1: the name that the file had; some programs give it back."""
    flags = content[3] if content.startswith(b"\x1f\x8b\x08") and len(content) >= _GZIP_OCTETS else 0
    if not flags & _GZIP_NAME:
        return ()
    start = 10
    if flags & _GZIP_EXTRA:
        start += 2 + int.from_bytes(content[10:12], "little")
    name = content[start : start + MAX_NAME_CHARACTERS].partition(b"\0")[0]
    return (name.decode("utf-8", "replace"),) if name else ()


def _behind(content: Octets, budget: Budget) -> Iterator[Iterator[Entry]]:
    if isinstance(content, bytes) and not any(octet in content for octet in _BEHIND_HAS):
        return
    for signature, formats in _BEHIND.items():
        at = content.find(signature)
        if at > 0:
            yield _without_noise(unpacker.entries(part(content, at), formats, seconds=budget.seconds_left()))


def _without_noise(entries: Iterator[Entry]) -> Iterator[Entry]:
    """The bare signature may stand in any program: nothing is wrong with it if no archive follows."""
    found = False
    for entry in entries:
        found = found or (bool(entry.names) and not entry.raw)
        if found or entry.encrypted:
            yield entry


def _member(entry: Entry, path: tuple[str, ...], budget: Budget, levels: int, opened: Opened) -> Iterator[Member]:
    names = [shown(name) for name in entry.names] or ["unnamed"]
    if entry.raw:
        names = list(dict.fromkeys([_unpacked_name(path[-1]), *map(shown, entry.names)]))
    if entry.encrypted:
        opened.problem(f"encrypted: {names[0] if entry.names else path[-1]}")
        budget.members -= 1
        for name in names:
            yield Member((*path, name), b"", "application/octet-stream", encrypted=True)
        return
    if entry.problem is not None:
        opened.problem(f"broken archive: {path[-1]} ({entry.problem})")
        if not entry.names and not entry.raw:
            return
    budget.members -= 1
    if budget.spent(path[-1], opened):
        return
    yield from _content(entry, [(*path, name) for name in names], budget, levels, opened)


def _content(
    entry: Entry, paths: list[tuple[str, ...]], budget: Budget, levels: int, opened: Opened
) -> Iterator[Member]:
    locked = False
    trouble: list[Unreadable] = []
    name = paths[0][-1]
    taken = budget.take(name, _until_trouble(entry.chunks, trouble), opened)
    for wrong in trouble:
        locked = wrong.encrypted
        opened.problem(f"encrypted: {name}" if locked else f"cannot be unpacked: {name} ({wrong})")
    kind = media_type(taken.content)
    for path in paths:
        yield Member(path, taken.content, kind, encrypted=locked, size_octets=taken.size)
    if not taken.whole and (kind == ZIP or archive_kinds(taken.content, kind)):
        opened.problem(f"too large to be looked into: {name}")
        return
    budget.kept -= len(taken.content)
    yield from members(paths[0], taken.content, kind, budget, levels - 1, opened)
    budget.kept += len(taken.content)


def _until_trouble(chunks: Iterator[bytes], trouble: list[Unreadable]) -> Iterator[bytes]:
    try:
        yield from chunks
    except Unreadable as wrong:
        trouble.append(wrong)


def _unpacked_name(name: str) -> str:
    """What gunzip and the like would call it: `run.exe` out of `run.exe.gz`."""
    stem, dot, ending = name.rpartition(".")
    if not dot or not stem:
        return name
    return stem + ".tar" if ending.lower() in {"tgz", "tbz2", "txz", "tzst"} else stem
