"""Look at every message of some paths that is out of date, and say of each what is in it.

Contract
    One Row a message, in no order. What is remembered and not out of date is told, not looked at again; what was
    found is remembered a second later at the most, so that a run that is interrupted goes on where it was.
    A message that cannot be looked at is a Row with the verdict "error", which is not remembered.
    A file that vanishes is no Row: it was moved (and is found by its base name) or deleted.
    What was clean to everything but an older clamd is asked of clamd alone, and looked at where that finds something
    (docs/decisions/0049).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from egressguard.policy.verdict import Verdict
from egressguard.scan.again import AT_ONCE, ClamdAgain
from egressguard.scan.job import ERROR, Done, Job
from egressguard.scan.mbox import is_mbox, split_mbox
from egressguard.scan.memory import DIGEST_OCTETS, Known, Memory, key_of, known
from egressguard.scan.sources import Source, Status, find_sources, moved_to, open_source, status_of

if TYPE_CHECKING:
    from egressguard.scan.crew import Crew

MAX_MESSAGE_OCTETS = 1 << 29
_AT_ONCE = 500
_REMEMBER_ROWS, _REMEMBER_SECONDS = 200, 1.0
_READ_OCTETS = 1 << 20
_CLEAN = Verdict.CLEAN.value


class Choice(NamedTuple):
    """`everything`: whatever is remembered; `only_new`: what is not remembered at all; `since`: files changed then."""

    everything: bool = False
    only_new: bool = False
    since: float | None = None


class Row(NamedTuple):
    """`start`: where an mbox has the message (None = the file is the message); `was`: the verdict before, "" = none.

    `remembered`: it was not looked at now."""

    path: str
    verdict: str
    findings: tuple[str, ...]
    size: int = 0
    start: int | None = None
    was: str = ""
    remembered: bool = False


class _Asked(NamedTuple):
    """A message that may be out of date. `fd` is open when it is one of an mbox."""

    source: Source
    status: Status
    start: int
    size: int
    fd: int | None = None


class Behind(NamedTuple):
    """The `editions` that differ from a run's by clamd alone, and that clamd, which is given what was clean to them."""

    editions: frozenset[int]
    clamd: ClamdAgain[tuple[_Asked, Known]]


class Rescan:
    """One run. `crew` is asked for with the first message that is to be looked at. `told` gets the Row of each newly
    judged message before it is remembered. Close it when done."""

    def __init__(
        self,
        memory: Memory,
        crew: Callable[[], Crew],
        edition: int,
        clock: Callable[[], float],
        told: Callable[[Row], None] = lambda _row: None,
        behind: Behind | None = None,
    ) -> None:
        self._memory = memory
        self._crew = crew
        self._edition = edition
        self._clock = clock
        self._told = told
        self._behind = behind
        self._to_remember: list[tuple[bytes, Known]] = []
        self._remembered_at = clock()
        self._before: dict[bytes, Known] = {}

    def run(self, paths: Iterable[str], choice: Choice) -> Iterator[Row]:
        """Raises sqlite3.Error."""
        subject = f"{self._edition} {sorted(paths)}"
        began = self._memory.begin(subject, self._clock()) if choice.everything else 0.0
        sources = chain.from_iterable(map(find_sources, paths))
        for found in self._worked_off(self._items(sources, choice, began)):
            yield self._judged(found) if isinstance(found, Done) else found
        self.close()
        self._memory.finish(subject)

    def _worked_off(self, items: Iterator[Job | Row]) -> Iterator[Done | Row]:
        for item in items:
            if isinstance(item, Job):
                yield from self._crew().run(chain((item,), items))
            else:
                yield item

    def close(self) -> None:
        """Remember what was found so far, and ask no more."""
        for opened, _ in self._behind.clamd.close() if self._behind else ():
            _close(opened)
        self._write()

    def _write(self) -> None:
        self._memory.remember(self._to_remember)
        self._to_remember.clear()
        self._remembered_at = self._clock()

    def _items(self, sources: Iterator[Source], choice: Choice, began: float) -> Iterator[Job | Row]:
        while some := list(islice(sources, _AT_ONCE)):
            asked = []
            for source in some:
                if source.status is None:
                    yield Row(source.path, ERROR, (source.problem,))
                elif choice.since is None or source.status.mtime_ns >= choice.since * 1e9:
                    asked.append(_Asked(source, source.status, 0, source.status.size))
            yield from self._out_of_date(asked, choice, began)
        while self._behind and self._behind.clamd:
            yield self._answered(self._behind)

    def _out_of_date(self, asked: list[_Asked], choice: Choice, began: float) -> Iterator[Job | Row]:
        keys = [key_of(each.status, each.start) for each in asked]
        recalled = self._memory.recall(keys)
        for each, kept in zip(asked, map(recalled.get, keys), strict=True):
            if kept is not None and self._is_current(kept, choice, began) and kept.is_of(each.status, each.size):
                _close(each)
                yield _row(each, kept, remembered=True)
            else:
                yield from self._opened(each, kept, choice, began)

    def _is_current(self, kept: Known, choice: Choice, began: float) -> bool:
        if choice.everything:
            return kept.scanned_at >= began and kept.edition == self._edition
        return choice.only_new or kept.edition == self._edition

    def _opened(self, each: _Asked, kept: Known | None, choice: Choice, began: float) -> Iterator[Job | Row]:
        opened = each if each.fd is not None else _open(each)
        if opened is None or isinstance(opened, Row):
            if opened is not None:
                yield opened
            return
        assert opened.fd is not None
        try:
            if each.fd is None and not each.source.in_maildir and is_mbox(opened.fd):
                yield from self._mbox(opened, choice, began)
                return
            if opened.size > MAX_MESSAGE_OCTETS:
                os.close(opened.fd)
                yield Row(each.source.path, ERROR, (f"more than {MAX_MESSAGE_OCTETS} octets",), opened.size)
                return
            if kept is not None and self._is_current(kept, choice, began) and _has_content(opened, kept):
                os.close(opened.fd)
                yield self._touched(opened, kept)
                return
        except OSError as wrong:
            os.close(opened.fd)
            yield Row(each.source.path, ERROR, (f"cannot be read: {wrong.strerror}",))
            return
        behind = None if choice.everything else self._behind
        if kept is None or behind is None or not _is_given(behind, opened, kept):
            yield self._job(opened, kept)
        elif len(behind.clamd) >= AT_ONCE:
            yield self._answered(behind)

    def _job(self, opened: _Asked, kept: Known | None) -> Job:
        assert opened.fd is not None
        if kept is not None:
            self._before[key_of(opened.status, opened.start)] = kept
        return Job(opened.source, opened.status, opened.fd, opened.start, opened.size)

    def _answered(self, behind: Behind) -> Job | Row:
        """A message that clamd was given: as it was, or to be looked at."""
        (opened, kept), is_nothing = behind.clamd.answered()
        if not is_nothing:
            return self._job(opened, kept)
        _close(opened)
        kept = kept._replace(edition=self._edition, scanned_at=self._clock())
        self._remember(key_of(opened.status, opened.start), kept)
        return _row(opened, kept, was=kept.verdict)

    def _mbox(self, opened: _Asked, choice: Choice, began: float) -> Iterator[Job | Row]:
        assert opened.fd is not None
        pieces = split_mbox(opened.fd)
        try:
            while some := list(islice(pieces, 50)):  # each holds a descriptor
                asked = [opened._replace(start=start, size=size, fd=os.dup(opened.fd)) for start, size in some]
                yield from self._out_of_date(asked, choice, began)
        finally:
            os.close(opened.fd)

    def _touched(self, each: _Asked, kept: Known) -> Row:
        """The same octets, other times."""
        again = known(each.status, each.size, kept.digest, kept.edition, self._clock(), kept.verdict, kept.findings)
        self._remember(key_of(each.status, each.start), again._replace(scanned_at=kept.scanned_at))
        return _row(each, kept, remembered=True)

    def _judged(self, done: Done) -> Row:
        job, now = done.job, self._clock()
        if done.verdict != ERROR and not done.digest:  # its reader died before it could say
            with contextlib.suppress(OSError):
                done = done._replace(digest=_digest(job.fd, job.start, job.size))
        os.close(job.fd)
        key = key_of(job.status, job.start)
        before = self._before.pop(key, None)
        was = before.verdict if before is not None and before.digest == done.digest else ""
        asked = _Asked(job.source, job.status, job.start, job.size)
        kept = known(job.status, job.size, done.digest, self._edition, now, done.verdict, done.findings)
        row = _row(asked, kept, was=was)
        if done.verdict != ERROR:
            self._told(row)
            self._remember(key, kept)
        return row

    def _remember(self, key: bytes, kept: Known) -> None:
        self._to_remember.append((key, kept))
        is_long_ago = self._clock() - self._remembered_at >= _REMEMBER_SECONDS
        if len(self._to_remember) >= _REMEMBER_ROWS or is_long_ago:
            self._write()


def _is_given(behind: Behind, opened: _Asked, kept: Known) -> bool:
    """Whether all but clamd would say what it said then, and clamd has got it."""
    if kept.edition not in behind.editions or kept.verdict != _CLEAN or opened.fd is None:
        return False
    was_passed = any(finding.startswith("clamd: ") for finding in kept.findings)  # it was down then
    is_whole_file = opened.start == 0 and opened.size == opened.status.size
    if was_passed or not is_whole_file or not kept.is_of(opened.status, opened.size):
        return False
    return behind.clamd.give((opened, kept), opened.fd, opened.size)


def _open(each: _Asked) -> _Asked | Row | None:
    """The message as it lies there now; None: it is gone."""
    source: Source | None = each.source
    while source is not None:
        try:
            fd = open_source(source.path)
            found = os.fstat(fd)
        except FileNotFoundError:
            source = moved_to(source.path) if source.in_maildir else None
            continue
        except OSError as wrong:
            return Row(source.path, ERROR, (f"cannot be read: {wrong.strerror}",))
        if not stat.S_ISREG(found.st_mode):
            os.close(fd)
            return Row(source.path, ERROR, ("no regular file; links are not followed",))
        return _Asked(source, status_of(found), 0, found.st_size, fd)
    return None


def _has_content(each: _Asked, kept: Known) -> bool:
    """Whether the message has the octets that were looked at then. Raises OSError."""
    assert each.fd is not None
    if each.size != kept.size:
        return False
    return _digest(each.fd, each.start, each.size) == kept.digest


def _digest(fd: int, start: int, size: int) -> bytes:
    """Raises OSError."""
    whole = hashlib.blake2b(digest_size=DIGEST_OCTETS)
    offset, end = start, start + size
    while offset < end and (chunk := os.pread(fd, min(_READ_OCTETS, end - offset), offset)):
        whole.update(chunk)
        offset += len(chunk)
    return whole.digest()


def _row(each: _Asked, kept: Known, *, was: str = "", remembered: bool = False) -> Row:
    return Row(each.source.path, kept.verdict, kept.findings, each.size, each.start or None, was, remembered)


def _close(each: _Asked) -> None:
    if each.fd is not None:
        os.close(each.fd)
