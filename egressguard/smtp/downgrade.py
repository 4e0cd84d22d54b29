"""Content for a host that does not take it as it is: in seven bits, where that breaks nothing (mail.seven_bit).

Contract
    The stored message stays as it was: content that lies in a file is encoded while it is sent, a piece at a time.
    Signatures of our own that would break are left out: to be unsigned is better than to bounce.
"""

from __future__ import annotations

import asyncio
import mmap
from collections.abc import Iterator
from typing import Protocol

from egressguard.mail.seven_bit import Edit, own_signatures, plan_seven_bit, render_edited
from egressguard.store.content import Content
from egressguard.values import value


class Offers(Protocol):
    def offers(self, extension: str) -> bool: ...


@value(frozen=True, slots=True)
class _Edited(Content):
    """A content in a file, as it is after `edits`; of the file only the header section is looked at besides."""

    edits: tuple[Edit, ...] = ()
    edited_octets: int = 0

    @property
    def size_octets(self) -> int:
        return len(self.front) + self.edited_octets

    def pieces(self) -> Iterator[bytes]:
        yield self.front
        with _mapped(self) as octets:
            yield from render_edited(octets, self.edits)


def needs_seven_bits(content: Content, host: Offers, *, binary: bool) -> bool:
    if binary:
        return not (host.offers("binarymime") and host.offers("chunking"))
    return not content.is_ascii and not host.offers("8bitmime")


async def in_seven_bits(content: Content) -> Content | None:
    """The same message in seven bits, or None where it must stay as it is. Raises OSError."""
    return await asyncio.to_thread(_converted if content.file is None else _converted_file, content)


def _converted(content: Content) -> Content | None:
    octets = content.whole()
    edits = plan_seven_bit(octets)
    if edits is None and (ours := own_signatures(octets)):
        octets = octets[ours:]
        edits = plan_seven_bit(octets)
    return None if edits is None else Content.of(b"".join(render_edited(octets, edits)))


def _converted_file(content: Content) -> Content | None:
    front = content.front + content.rest
    with _mapped(content) as octets:
        edits = plan_seven_bit(octets, front)
        if edits is None and (ours := own_signatures(front)):
            front = front[ours:]
            edits = plan_seven_bit(octets, front)
        if edits is None:
            return None
        size = sum(map(len, render_edited(octets, edits)))  # SIZE wants it before the first octet goes out
    return _Edited(front, b"", content.file, content.file_octets, True, edits, size)


def _mapped(content: Content) -> mmap.mmap:
    """The file's octets without a copy in memory. Raises OSError."""
    assert content.file is not None
    with content.file.open("rb") as file:
        if file.seek(0, 2) < content.file_octets or not content.file_octets:
            raise OSError(f"{content.file} is shorter than it was")
        return mmap.mmap(file.fileno(), content.file_octets, access=mmap.ACCESS_READ)
