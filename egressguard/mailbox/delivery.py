"""Delivery into a Maildir++: one message into one folder of one account.

Contract
    DELIVERED means on stable storage: write, fsync, rename into new/, fsync(new/).
    Once per (queue_id, account): the file name carries the queue id, and what may be a second delivery looks for it in
    all folders. Only a copy that its owner has already deleted, or moved by IMAP, is delivered again.
    An error leaves nothing in tmp/; what a crash leaves there is removed later.
    The content's octets stay as they came, CRLF included; Return-Path and Delivered-To are put before them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from egressguard.mail.outcome import Outcome, delivered
from egressguard.mailbox.deposit import Deposit
from egressguard.mailbox.folder_name import directory_of
from egressguard.mailbox.lanes import Lanes
from egressguard.mailbox.maildir import FILE_MODE, make_folder, make_maildir, message_directories, share_file
from egressguard.policy.model import Policy
from egressguard.store.durable import Disk, open_new, sync_and_close, sync_directory

REMEMBERED_DELIVERIES = 10_000
_QUEUE_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
CRASHED_SECONDS = 3600
_TEMPORARY = re.compile(r"[A-Za-z0-9_-]{1,32}\.[0-9a-f]{16}")
ALONE_OCTETS = 256 * 1024
"""What is larger is stored by itself."""
ALREADY = delivered("already in the mailbox")
IN_THE_MAILBOX = delivered("in the mailbox")
_LOOKS = 2


class MaildirDelivery:
    """Delivers into `root`/ACCOUNT. `group_id`: the group that Dovecot shares; None = leave it alone.

    `added` hears of each delivery: account, octets with CRLF line ends."""

    def __init__(
        self,
        root: Path,
        group_id: int | None = None,
        *,
        added: Callable[[str, int], None] = lambda _account, _octets: None,
        clock: Callable[[], float] = time.time,
        disk: type[Disk] = Disk,
    ) -> None:
        self._root = root
        self._group_id = group_id
        self._added = added
        self._clock = clock
        self._disk = disk
        self._host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])[:12] or "localhost"
        self._synced: set[Path] = set()  # Maildirs and folders that are known to be durable
        self._done: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._under_way: dict[tuple[str, str], asyncio.Future[Outcome]] = {}
        self._mark = secrets.token_hex(4)  # this process's, among those that deliver
        self._numbers = itertools.count()
        self._lanes = Lanes(self._store_together, "maildir")

    async def store(self, _policy: Policy, deposit: Deposit) -> Outcome:
        """Raises OSError; ValueError for what is no queue id."""
        if not _QUEUE_ID.fullmatch(deposit.queue_id):
            raise ValueError(f"not a queue id: {deposit.queue_id!r}")
        key = (deposit.queue_id, deposit.account)
        while (before := self._under_way.get(key)) is not None:
            await asyncio.wait([before])
        if key in self._done:
            return ALREADY
        storing = self._under_way[key] = self._begun(deposit)
        storing.add_done_callback(lambda ended: self._ended(key, ended))
        return await asyncio.shield(storing)

    def _begun(self, deposit: Deposit) -> asyncio.Future[Outcome]:
        """What takes its time holds up no other: it has a thread of its own."""
        if deposit.is_again or deposit.content.size_octets > ALONE_OCTETS:
            return asyncio.ensure_future(asyncio.to_thread(self._store_alone, deposit))
        return self._lanes.ask(deposit)

    def _ended(self, key: tuple[str, str], ended: asyncio.Future[Outcome]) -> None:
        del self._under_way[key]
        if ended.cancelled() or ended.exception() is not None:
            return
        self._done[key] = None
        while len(self._done) > REMEMBERED_DELIVERIES:
            self._done.popitem(last=False)

    # On a thread.

    def _store_alone(self, deposit: Deposit) -> Outcome:
        [answer] = self._store_together([deposit])
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _store_together(self, deposits: Sequence[Deposit]) -> list[Outcome | Exception]:
        """Each step for all of them before the next step: then the file system commits once for many."""
        letters = [_Letter(deposit) for deposit in deposits]
        for step in (self._write, self._sync, self._rename):
            for letter in letters:
                if letter.answer is None:
                    self._take(step, letter)
        for folder in {letter.folder: None for letter in letters if letter.answer is None}:
            self._sync_folder(folder, [one for one in letters if one.answer is None and one.folder == folder])
        if any(isinstance(letter.answer, Exception) for letter in letters):
            self._synced.clear()  # somebody may have removed the directory: look again next time
        return [letter.answer or IN_THE_MAILBOX for letter in letters]

    def _take(self, step: Callable[[_Letter], None], letter: _Letter) -> None:
        try:
            step(letter)
        except Exception as wrong:  # noqa: BLE001 -- handed to whoever asked; it harms none of the others
            letter.answer = wrong
            if letter.temporary:
                with contextlib.suppress(OSError):  # the first error is the one that matters
                    os.unlink(letter.temporary)  # noqa: PTH108 -- whatever the disk says of it

    def _write(self, letter: _Letter) -> None:
        deposit = letter.deposit
        folder = self._folder(deposit.account, deposit.folder)
        if deposit.is_again and (held_in := self._holding(deposit)) is not None:
            # The process died between rename and settle: the directory may not have been synced yet.
            sync_directory(held_in, self._disk)
            letter.answer = ALREADY
            return
        letter.folder, letter.content = str(folder), _Measured(deposit.traced.pieces())
        number = next(self._numbers) & 0xFFFFFFFF
        letter.temporary = f"{folder / 'tmp'}/{deposit.queue_id}.{self._mark}{number:08x}"
        letter.fd = open_new(letter.temporary, letter.content, mode=FILE_MODE, disk=self._disk)

    def _sync(self, letter: _Letter) -> None:
        try:
            share_file(letter.fd, FILE_MODE, group=self._group_id)
        finally:
            sync_and_close(letter.fd, self._disk)

    def _rename(self, letter: _Letter) -> None:
        name = self._name(letter.deposit.queue_id, letter.content)
        self._disk.rename(letter.temporary, f"{letter.folder}/new/{name}")
        letter.temporary = ""

    def _sync_folder(self, folder: str, letters: Sequence[_Letter]) -> None:
        try:
            sync_directory(Path(folder, "new"), self._disk)
        except OSError as wrong:
            for letter in letters:
                letter.answer = wrong
            return
        for letter in letters:
            letter.answer = IN_THE_MAILBOX
            self._added(letter.deposit.account, letter.content.virtual_octets)

    def _name(self, queue_id: str, content: _Measured) -> str:
        """S= and W= are its size, on disk and with CRLF line ends: Dovecot then need not look at the file for them."""
        sizes = f"S={content.octets},W={content.virtual_octets}"
        return f"{int(self._clock())}.Q{queue_id}.{self._host},{sizes}"

    def _folder(self, account: str, name: str) -> Path:
        """The folder, made where missing; durable before this process puts a first message there."""
        maildir = self._root / account
        if maildir not in self._synced:
            make_maildir(maildir, group=self._group_id)
            sync_directory(maildir, self._disk)
            sync_directory(self._root, self._disk)
            self._synced.add(maildir)
            self._sweep(maildir)
        folder = maildir / directory_of(name)
        if folder not in self._synced:
            make_folder(folder, group=self._group_id)
            sync_directory(folder, self._disk)
            sync_directory(maildir, self._disk)
            self._synced.add(folder)
            self._sweep(folder)
        return folder

    def _sweep(self, folder: Path) -> None:
        """Remove what a crash has left in tmp/. What is young may be another gateway's that is at work."""
        for path in (folder / "tmp").iterdir():
            try:
                if _TEMPORARY.fullmatch(path.name) and path.lstat().st_mtime < self._clock() - CRASHED_SECONDS:
                    self._disk.unlink(path)
            except FileNotFoundError:
                continue

    def _holding(self, deposit: Deposit) -> Path | None:
        """The directory that has it already.

        A look may miss a file that gets other flags just then (readdir(3) gives neither name): hence the second."""
        mark = f".Q{deposit.queue_id}."
        for _ in range(_LOOKS):
            for directory in message_directories(str(self._root / deposit.account)):
                with os.scandir(directory) as entries:
                    if any(mark in entry.name for entry in entries):
                        return Path(directory)
        return None


class _Letter:
    """One message on its way into a folder. `temporary` is its name in tmp/ while it has one."""

    __slots__ = ("answer", "content", "deposit", "fd", "folder", "temporary")

    def __init__(self, deposit: Deposit) -> None:
        self.deposit = deposit
        self.content = _Measured(iter(()))
        self.folder = self.temporary = ""
        self.fd = -1
        self.answer: Outcome | Exception | None = None


class _Measured:
    """Pieces that are counted while they go by."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.octets = 0
        self.virtual_octets = 0

    def __iter__(self) -> Iterator[bytes]:
        last = b""
        for piece in self._pieces:
            bare = piece.count(b"\n") - piece.count(b"\r\n") - (last == b"\r" and piece[:1] == b"\n")
            self.octets += len(piece)
            self.virtual_octets += len(piece) + bare
            last = piece[-1:] or last
            yield piece
