"""Octets of any number: small ones in memory, large ones in a file of our own that is read window by window.

Contract
    What has at most LARGE_OCTETS is `bytes`, what has more is `Stored`: both are sliced and searched alike, a slice is
    always `bytes`. Nobody else can change or cut off what is Stored; its file has no name and ends with the last use.
    A process has at most MAX_STORED_OCTETS in such files: more raises TooMuch. A full disk raises OSError.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, overload

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LARGE_OCTETS = 8 * 1024 * 1024
WINDOW_OCTETS = 1024 * 1024
MAX_STORED_OCTETS = 1024 * 1024 * 1024
_FIRST_WINDOW_OCTETS = 4096
"""Of a search that may end soon; each further window is larger."""
_HEAD_OCTETS = 4096
_DIGEST_OCTETS = 16
_MOST_TRIES = 100
_FOLDER = "/var/tmp"  # noqa: S108  on a disk, where /tmp may be memory; a unit's own by PrivateTmp


class TooMuch(Exception):
    """One message takes more of the disk than any may."""


class _File:
    """A file without a name, written once and then only read."""

    alive = 0

    def __init__(self) -> None:
        self.fd = _unnamed()
        self.size = 0
        self._mapped: mmap.mmap | None = None
        self._taken = [0]
        weakref.finalize(self, _give_back, self.fd, self._taken)

    def write(self, octets: bytes) -> None:
        """Raises OSError and TooMuch."""
        if _File.alive + len(octets) > MAX_STORED_OCTETS:
            raise TooMuch(f"more than {MAX_STORED_OCTETS} octets of one message in files")
        view = memoryview(octets)
        while view:
            written = os.write(self.fd, view)
            view = view[written:]
            self.size += written
            self._taken[0] += written
            _File.alive += written

    @property
    def mapped(self) -> mmap.mmap:
        if self._mapped is None:
            self._mapped = mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)
        return self._mapped

    def forget(self) -> None:
        """What was touched of the map is no longer resident."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)


def _unnamed() -> int:
    """Raises OSError."""
    import tempfile  # noqa: PLC0415  not loaded where nothing is large: a rescan takes less time than this to load

    folder = os.environ.get("TMPDIR") or (_FOLDER if Path(_FOLDER).is_dir() else tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        return os.dup(file.fileno())


def _give_back(fd: int, taken: list[int]) -> None:
    os.close(fd)
    _File.alive -= taken[0]


class Stored:
    """Octets `start` to `start` + `size` of a file of ours."""

    __slots__ = ("_digest", "_file", "_size", "_start")

    def __init__(self, file: _File, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._digest = b""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> bytes: ...
    def __getitem__(self, at: int | slice) -> int | bytes:
        if isinstance(at, int):
            return self[at : at + 1][0]
        start, end, _ = at.indices(self._size)
        return os.pread(self.fd, end - start, self._start + start) if start < end else b""

    @property
    def fd(self) -> int:
        return self._file.fd

    @property
    def is_file(self) -> bool:
        """Whether it is all that its file holds."""
        return self._size == self._file.size

    def part(self, start: int, end: int | None = None) -> Octets:
        start, end, _ = slice(start, end).indices(self._size)
        if end - start <= LARGE_OCTETS:
            return self[start:end]
        return Stored(self._file, self._start + start, end - start)

    def find(self, word: bytes, start: int = 0, end: int | None = None, *, lower: bool = False) -> int:
        """`lower`: in the octets made lower case."""
        for base, window in overlapping(self, len(word) - 1, start, end):
            at = (window.lower() if lower else window).find(word)
            if at >= 0:
                return base + at
        return -1

    def rfind(self, word: bytes, start: int = 0, end: int | None = None) -> int:
        start, end, _ = slice(start, end).indices(self._size)
        window = min(_FIRST_WINDOW_OCTETS, WINDOW_OCTETS)
        while start + len(word) <= end:
            first = max(start, end - window - len(word) + 1)
            at = self[first:end].rfind(word)
            if at >= 0:
                return first + at
            end = first + len(word) - 1
            window = min(4 * window, WINDOW_OCTETS)
        return -1

    def __contains__(self, word: bytes) -> bool:
        return self.find(word) >= 0

    def startswith(self, words: bytes | tuple[bytes, ...], start: int = 0) -> bool:
        words = (words,) if isinstance(words, bytes) else words
        return self[start : start + max(map(len, words))].startswith(words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and self._size == other._size and self._known_by() == other._known_by()

    def __hash__(self) -> int:
        return hash(self._known_by())

    def _known_by(self) -> bytes:
        self._digest = self._digest or digest_of(self, _DIGEST_OCTETS)
        return self._digest

    def view(self) -> memoryview:
        """A map, for who must have a buffer; what is touched stays resident until `forget`."""
        return memoryview(self._file.mapped)[self._start : self._start + self._size]

    def forget(self) -> None:
        self._file.forget()


Octets = bytes | Stored


def read(fd: int, start: int, size: int) -> Octets:
    """`size` octets of a file, fewer if it ends before: a copy, whatever becomes of the file. Raises OSError."""
    if size <= LARGE_OCTETS:
        return os.pread(fd, size, start)
    return gather(_read(fd, start, start + size))


def _read(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end and (chunk := os.pread(fd, min(WINDOW_OCTETS, end - start), start)):
        yield chunk
        start += len(chunk)


def gather(chunks: Iterable[bytes]) -> Octets:
    """All of them in a row. Raises OSError."""
    small: list[bytes] = []
    size = 0
    file: _File | None = None
    for chunk in chunks:
        size += len(chunk)
        if file is None and size > LARGE_OCTETS:
            file = _File()
            for each in small:
                file.write(each)
            small.clear()
        if file is not None:
            file.write(chunk)
        elif chunk:
            small.append(chunk)
    if file is not None:
        return Stored(file, 0, file.size)
    return small[0] if len(small) == 1 else b"".join(small)


def stored(octets: bytes) -> Octets:
    """The same, as one in memory or not, by its size."""
    return octets if len(octets) <= LARGE_OCTETS else gather((octets,))


def part(content: Octets, start: int, end: int | None = None) -> Octets:
    return content[start:end] if isinstance(content, bytes) else content.part(start, end)


@contextlib.contextmanager
def file_of(content: Stored) -> Iterator[str]:
    """The path of a file that holds these octets and nothing else. Raises OSError."""
    whole = content if content.is_file else gather(windows(content))
    assert isinstance(whole, Stored)
    yield f"/proc/self/fd/{whole.fd}"


def opened(content: Octets) -> BinaryIO:
    """To read from as from a file."""
    return io.BytesIO(content) if isinstance(content, bytes) else io.BufferedReader(_Reader(content))


class _Reader(io.RawIOBase):
    def __init__(self, content: Stored) -> None:
        super().__init__()
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._content)}[whence]
        if at < 0:
            raise ValueError("a place before the beginning")
        self._at = at
        return at

    def readinto(self, buffer: WriteableBuffer) -> int:
        room = memoryview(buffer).cast("B")
        octets = self._content[self._at : self._at + len(room)]
        room[: len(octets)] = octets
        self._at += len(octets)
        return len(octets)


def windows(content: Octets, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """content[start:end], piece by piece."""
    start, end, _ = slice(start, end).indices(len(content))
    while start < end:
        stop = min(start + WINDOW_OCTETS, end)
        yield content[start:stop]
        start = stop


def overlapping(content: Octets, more: int, start: int = 0, end: int | None = None) -> Iterator[tuple[int, bytes]]:
    """content[start:end] in windows, each with where it begins and with `more` octets of the next. The first are small:
    what is looked for may be near."""
    start, end, _ = slice(start, end).indices(len(content))
    size = min(_FIRST_WINDOW_OCTETS, WINDOW_OCTETS)
    while start < end:
        yield start, content[start : min(start + size + more, end)]
        start += size
        size = min(4 * size, WINDOW_OCTETS)


def digest_of(content: Octets, size: int) -> bytes:
    """BLAKE2b's, of `size` octets."""
    whole = hashlib.blake2b(digest_size=size)
    for window in windows(content):
        whole.update(window)
    return whole.digest()


def same(one: Octets, other: Octets) -> bool:
    if isinstance(one, bytes) and isinstance(other, bytes):
        return one == other
    return len(one) == len(other) and all(a == b for a, b in zip(windows(one), windows(other), strict=True))


def contains(whole: Octets, piece: Octets) -> bool:
    """Whether `piece` stands anywhere in `whole`; "no" where a large one is not found within so many tries."""
    if isinstance(piece, bytes) and (isinstance(whole, bytes) or len(piece) <= _HEAD_OCTETS):
        return piece in whole
    head = piece[:_HEAD_OCTETS]
    at = whole.find(head)
    for _ in range(_MOST_TRIES):
        if at < 0 or at + len(piece) > len(whole):
            return False
        if same(part(whole, at, at + len(piece)), piece):
            return True
        at = whole.find(head, at + 1)
    return False


def without_end(content: Octets, octets: bytes) -> Octets:
    """As content.rstrip(octets)."""
    if isinstance(content, bytes):
        return content.rstrip(octets)
    end = len(content)
    while end:
        start = max(0, end - WINDOW_OCTETS)
        if kept := content[start:end].rstrip(octets):
            return content.part(0, start + len(kept))
        end = start
    return b""
