"""Look into ZIP archives, nested to a limit, bounded in octets and members. Never raises, never writes a file."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from egressguard.scan.kinds import ZIP, media_type

MAX_MEMBERS = 5000
_CHUNK_OCTETS = 1 << 20


@dataclass(slots=True)
class Budget:
    """What may still be unpacked from one message; all its archives share it."""

    octets: int
    members: int = MAX_MEMBERS


@dataclass(frozen=True, slots=True)
class Member:
    """`path` from the outer archive's name to the member's; `content` is what could be unpacked.

    `encrypted`: it is there, but only whoever has the password can read it."""

    path: tuple[str, ...]
    content: bytes
    media_type: str
    encrypted: bool = False


@dataclass(slots=True)
class Opened:
    """`problems`: why something inside could not be looked at; each is a reason to hold the message."""

    problems: list[str] = field(default_factory=list)


def members(path: tuple[str, ...], content: bytes, budget: Budget, levels: int, opened: Opened) -> Iterator[Member]:
    """Every file inside the ZIP `content`, archives inside it opened in turn down to `levels`."""
    if levels <= 0:
        opened.problems.append(f"archive nested too deep: {path[-1]}")
        return
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        listed = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, struct.error, EOFError) as wrong:
        opened.problems.append(f"broken archive: {path[-1]} ({wrong})")
        return
    with archive:
        for info in listed:
            if info.is_dir():
                continue
            yield from _member(archive, info, path, budget, levels, opened)


def _member(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    path: tuple[str, ...],
    budget: Budget,
    levels: int,
    opened: Opened,
) -> Iterator[Member]:
    inner = (*path, "".join(c for c in info.filename if c.isprintable())[-255:] or "unnamed")
    budget.members -= 1
    if budget.members < 0:
        if budget.members == -1:
            opened.problems.append(f"archive with more than {MAX_MEMBERS} members")
        return
    if info.flag_bits & 0x1:
        opened.problems.append(f"encrypted: {inner[-1]}")
        yield Member(inner, b"", "application/octet-stream", encrypted=True)
        return
    content = _unpack(archive, info, inner[-1], budget, opened)
    kind = media_type(content)
    yield Member(inner, content, kind)
    if kind == ZIP:
        yield from members(inner, content, budget, levels - 1, opened)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, budget: Budget, opened: Opened) -> bytes:
    """What fits the budget; the declared size is only a claim."""
    unpacked = bytearray()
    try:
        with archive.open(info) as file:
            while chunk := file.read(min(_CHUNK_OCTETS, budget.octets + 1)):
                unpacked += chunk
                budget.octets -= len(chunk)
                if budget.octets < 0:
                    opened.problems.append(f"unpacks to more than is allowed: {name}")
                    budget.octets = 0
                    break
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, NotImplementedError, RuntimeError) as wrong:
        opened.problems.append(f"cannot be unpacked: {name} ({type(wrong).__name__})")
    return bytes(unpacked)
