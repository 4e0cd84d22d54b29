"""Debian's libarchive, as much of it as is needed: the files in an archive, one after the other.

Contract
    `entries` never raises: what cannot be read is an Entry with `problem`, the last one when nothing more follows.
    No program is started and no file is written. The library itself may crash or loop on a hostile archive, and takes
    as much memory as an archive asks for: `unpacker` runs it in a process of its own.

The library is looked for by its name alone: finding it as `ctypes.util` does would run a compiler or ldconfig.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable, Iterator
from ctypes import byref, c_char_p, c_int, c_size_t, c_ssize_t, c_void_p, c_wchar_p
from dataclasses import dataclass, field
from typing import Any

from egressguard.scan.octets import Octets

LIBRARY = "libarchive.so.13"
PACKAGE = "libarchive13"
MISSING = f"cannot be opened here: {PACKAGE} is missing"
_CHUNK_OCTETS = 1 << 18
_EOF, _OK, _WARN, _FAILED = 1, 0, -20, -25
_RAW = 0x90000
_KIND_MASK, _FOLDER = 0o170000, 0o040000
_FILTERS = ("gzip", "bzip2", "xz", "lzma", "zstd", "lz4", "lzip", "compress")
_FORMATS = ("7zip", "rar", "rar5", "cab", "iso9660", "tar", "ar", "cpio", "lha", "raw")
PACKED = ("tar", "cpio", "raw")
"""What a packed file may hold: one of these archives, or else anything."""

_READ = ctypes.CFUNCTYPE(c_ssize_t, c_void_p, c_void_p, ctypes.POINTER(c_char_p))
_SEEK = ctypes.CFUNCTYPE(ctypes.c_int64, c_void_p, c_void_p, ctypes.c_int64, c_int)

_PASSWORD_WORDS = (b"ncrypt", b"assphrase", b"Crypto")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: `names` are all that the archive gives it; `chunks` must be read before the next entry is.

    `problem`: what is wrong with it, in words. `raw`: no archive, but one packed file that has no name."""

    names: tuple[str, ...] = ()
    chunks: Iterator[bytes] = field(default_factory=lambda: iter(()))
    encrypted: bool = False
    raw: bool = False
    problem: str | None = None


def is_missing() -> bool:
    return _library() is None


def entries(content: Octets, formats: Iterable[str], options: bytes = b"", *, packed: bool = False) -> Iterator[Entry]:
    """The files in `content`, read as one of `formats`; `packed`: what gzip and the like did to it is undone first.

    `options` as in archive_read_set_options(3)."""
    library = _library()
    if library is None:
        yield Entry(problem=MISSING)
        return
    handle = library.archive_read_new()
    try:
        yield from _Reading(library, handle).entries(content, formats, options, packed)
    finally:
        library.archive_read_free(handle)


@functools.cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    for name, result, arguments in (
        ("archive_read_new", c_void_p, ()),
        ("archive_read_free", c_int, (c_void_p,)),
        ("archive_read_open_memory", c_int, (c_void_p, c_char_p, c_size_t)),
        ("archive_read_set_seek_callback", c_int, (c_void_p, _SEEK)),
        ("archive_read_open", c_int, (c_void_p, c_void_p, c_void_p, _READ, c_void_p)),
        ("archive_read_set_options", c_int, (c_void_p, c_char_p)),
        ("archive_read_next_header", c_int, (c_void_p, c_void_p)),
        ("archive_read_data", c_ssize_t, (c_void_p, c_void_p, c_size_t)),
        ("archive_read_has_encrypted_entries", c_int, (c_void_p,)),
        ("archive_error_string", c_char_p, (c_void_p,)),
        ("archive_format", c_int, (c_void_p,)),
        ("archive_entry_pathname", c_char_p, (c_void_p,)),
        ("archive_entry_pathname_w", c_wchar_p, (c_void_p,)),
        ("archive_entry_pathname_utf8", c_char_p, (c_void_p,)),
        ("archive_entry_filetype", ctypes.c_uint, (c_void_p,)),
        ("archive_entry_is_encrypted", c_int, (c_void_p,)),
        *((f"archive_read_support_filter_{name}", c_int, (c_void_p,)) for name in _FILTERS),
        *((f"archive_read_support_format_{name}", c_int, (c_void_p,)) for name in _FORMATS),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class _Reading:
    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library = library
        self._handle = handle

    def entries(self, content: Octets, formats: Iterable[str], options: bytes, packed: bool) -> Iterator[Entry]:
        library, handle = self._library, self._handle
        for name in _FILTERS if packed else ():
            getattr(library, f"archive_read_support_filter_{name}")(handle)
        for name in formats:
            getattr(library, f"archive_read_support_format_{name}")(handle)
        if options:
            library.archive_read_set_options(handle, options)
        if not self._is_open(content):
            yield self._trouble()
            return
        entry = c_void_p()
        while (said := library.archive_read_next_header(handle, byref(entry))) != _EOF:
            if said == _FAILED:
                yield self._trouble()
            elif said < _WARN:
                yield self._trouble()
                return
            elif library.archive_entry_filetype(entry) & _KIND_MASK != _FOLDER:
                yield self._entry(entry)

    def _is_open(self, content: Octets) -> bool:
        if isinstance(content, bytes):
            return bool(self._library.archive_read_open_memory(self._handle, content, len(content)) == _OK)
        self._feed = _Feed(content)  # the library calls it as long as it reads
        self._library.archive_read_set_seek_callback(self._handle, self._feed.seek)
        return bool(self._library.archive_read_open(self._handle, None, None, self._feed.read, None) == _OK)

    def _entry(self, entry: c_void_p) -> Entry:
        names = self._names(entry)
        encrypted = self._library.archive_entry_is_encrypted(entry) > 0
        raw = self._library.archive_format(self._handle) == _RAW
        problem = None if names else "a name that cannot be read"
        return Entry(names, iter(()) if encrypted else self._chunks(), encrypted, raw, problem)

    def _names(self, entry: c_void_p) -> tuple[str, ...]:
        """The name in each of the library's forms: which of them it has depends on the format and the locale."""
        wide = self._library.archive_entry_pathname_w(entry)
        if wide:
            return (str(wide),)
        octets = self._library.archive_entry_pathname_utf8(entry) or self._library.archive_entry_pathname(entry)
        return (octets.decode("utf-8", "replace"),) if octets else ()

    def _chunks(self) -> Iterator[bytes]:
        """Raises Unreadable where the content ends early."""
        buffer = ctypes.create_string_buffer(_CHUNK_OCTETS)
        while (got := self._library.archive_read_data(self._handle, buffer, _CHUNK_OCTETS)) > 0:
            yield buffer.raw[:got]
        if got < 0:
            trouble = self._trouble()
            raise Unreadable(trouble.problem or "", trouble.encrypted)

    def _trouble(self) -> Entry:
        words = self._library.archive_error_string(self._handle) or b"no reason given"
        locked = any(word in words for word in _PASSWORD_WORDS)
        if not locked and self._library.archive_format(self._handle):  # 3.6.2 crashes where it knows no format
            locked = self._library.archive_read_has_encrypted_entries(self._handle) > 0
        return Entry(encrypted=locked, problem=words.decode("utf-8", "replace")[:100])


class _Feed:
    """What the library asks for octets that are not in memory (archive_read_open(3)); -1 is fatal."""

    def __init__(self, content: Octets) -> None:
        self._content = content
        self._at = 0
        self._given = b""
        self.read = _READ(self._read)
        self.seek = _SEEK(self._seek)

    def _read(self, _archive: int, _client: int, buffer: Any) -> int:
        try:
            self._given = self._content[self._at : self._at + _CHUNK_OCTETS]  # it has to stay until the next
        except OSError:
            return -1
        self._at += len(self._given)
        buffer[0] = self._given
        return len(self._given)

    def _seek(self, _archive: int, _client: int, offset: int, whence: int) -> int:
        start = (0, self._at, len(self._content))[whence]
        self._at = min(max(start + offset, 0), len(self._content))
        return self._at


class Unreadable(Exception):
    """The content of an entry cannot be read to its end."""

    def __init__(self, words: str, encrypted: bool) -> None:
        super().__init__(words)
        self.encrypted = encrypted
