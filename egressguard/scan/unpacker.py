"""libarchive in a child process: what a hostile archive does to it ends there, and is a fact about the archive.

Contract
    `entries` never raises. A child that crashes, takes too long or too much memory is an Entry with `problem`.
    The child ends with the iterator, however far that was read; none is left behind.

The child sends, for each file, a line of JSON, then its content in pieces, each behind its length; a piece of length
zero ends it. `_TROUBLE` in place of a length: one more line says why the content ends early.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import resource
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from egressguard.scan import libarchive
from egressguard.scan.libarchive import Entry, Unreadable
from egressguard.scan.octets import Octets

MEMORY_OCTETS = 112 * 1024 * 1024
"""What the library may take for one archive: `xz -9` and `7z -mx=9` ask for 65 MiB."""

LEAST_SECONDS = 0.05
_LENGTH_OCTETS = 4
_TROUBLE = 0xFFFFFFFF
_LINE_OCTETS = 1 << 20


def entries(
    content: Octets, formats: Iterable[str], options: bytes = b"", *, packed: bool = False, seconds: float
) -> Iterator[Entry]:
    """As `libarchive.entries`, in at most `seconds` of the processor's time."""
    if libarchive.is_missing():  # loads it, so that each child need not
        yield Entry(problem=libarchive.MISSING)
        return
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reading)
        _serve(writing, lambda: libarchive.entries(content, formats, options, packed=packed), seconds)
    os.close(writing)
    waited = False
    try:
        with os.fdopen(reading, "rb") as said:
            ended = yield from _received(said)
        if not ended:
            _, status = os.waitpid(child, 0)
            waited = True
            yield Entry(problem=_how_it_died(status))
    finally:
        if not waited:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _received(said: IO[bytes]) -> Generator[Entry, None, bool]:
    """Returns whether the child came to its end."""
    while line := said.readline(_LINE_OCTETS):
        told = _parsed(line)
        if told is None:
            return False
        if told.get("end"):
            return True
        chunks = _chunks(said)
        yield Entry(tuple(told["names"]), chunks, told["encrypted"], told["raw"], told["problem"])
        with contextlib.suppress(Unreadable):
            for _ in chunks:  # what was not asked for stands before the next file
                pass
    return False


def _chunks(said: IO[bytes]) -> Iterator[bytes]:
    """Raises Unreadable."""
    while len(head := said.read(_LENGTH_OCTETS)) == _LENGTH_OCTETS:
        length = int.from_bytes(head, "big")
        if length == 0:
            return
        if length == _TROUBLE:
            told = _parsed(said.readline(_LINE_OCTETS)) or {"words": "ends early", "encrypted": False}
            raise Unreadable(told["words"], told["encrypted"])
        yield said.read(length)
    raise Unreadable("its reader ended", encrypted=False)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None  # the child died in the middle of a line
    return told if isinstance(told, dict) else None


def _how_it_died(status: int) -> str:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return "takes too long to unpack"
    return "its reader crashed or had not enough memory"


# --- In the child ------------------------------------------------------------------------------------------------


def _serve(writing: int, read: Callable[[], Iterator[Entry]], seconds: float) -> NoReturn:
    """Nothing of the parent's may run on in here: it ends in `_exit`, whatever happens."""
    try:
        faulthandler.disable()  # a crash in here is expected
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, max(seconds, LEAST_SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit_memory()
        with os.fdopen(writing, "wb", buffering=0) as out:
            for entry in read():
                _send(out, entry)
            out.write(b'{"end": true}\n')
    except BaseException:  # noqa: BLE001 - the parent sees that the end is missing
        os._exit(1)
    os._exit(0)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_bytes().split()[0])
    most = pages * resource.getpagesize() + MEMORY_OCTETS
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (most if soft == resource.RLIM_INFINITY else min(most, soft), hard))


def _send(out: IO[bytes], entry: Entry) -> None:
    told = {"names": entry.names, "encrypted": entry.encrypted, "raw": entry.raw, "problem": entry.problem}
    _write(out, json.dumps(told).encode() + b"\n")
    try:
        for chunk in entry.chunks:
            _write(out, len(chunk).to_bytes(_LENGTH_OCTETS, "big"))
            _write(out, chunk)
        _write(out, bytes(_LENGTH_OCTETS))
    except Unreadable as wrong:
        words = json.dumps({"words": str(wrong), "encrypted": wrong.encrypted}).encode()
        _write(out, _TROUBLE.to_bytes(_LENGTH_OCTETS, "big") + words + b"\n")


def _write(out: IO[bytes], octets: bytes) -> None:
    view = memoryview(octets)
    while view:
        view = view[out.write(view) :]
