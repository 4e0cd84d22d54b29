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
import os
import re
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

from egressguard.mail.outcome import Outcome, delivered
from egressguard.mailbox.deposit import Deposit
from egressguard.mailbox.folder_name import directory_of
from egressguard.mailbox.maildir import FILE_MODE, make_folder, make_maildir, message_directories, share
from egressguard.policy.model import Policy
from egressguard.store.durable import Disk, sync_directory, write_new

REMEMBERED_DELIVERIES = 10_000
_QUEUE_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
CRASHED_SECONDS = 3600
_TEMPORARY = re.compile(r"[A-Za-z0-9_-]{1,32}\.[0-9a-f]{16}")
_LOCKS = 64  # enough that two accounts seldom share one
ALREADY = delivered("already in the mailbox")
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
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    async def store(self, _policy: Policy, deposit: Deposit) -> Outcome:
        """Raises OSError; ValueError for what is no queue id."""
        if not _QUEUE_ID.fullmatch(deposit.queue_id):
            raise ValueError(f"not a queue id: {deposit.queue_id!r}")
        async with self._locks[hash(deposit.account) % _LOCKS]:
            key = (deposit.queue_id, deposit.account)
            if key in self._done:
                return ALREADY
            outcome = await asyncio.to_thread(self._attempt, deposit)
            self._done[key] = None
            while len(self._done) > REMEMBERED_DELIVERIES:
                self._done.popitem(last=False)
            return outcome

    def _attempt(self, deposit: Deposit) -> Outcome:
        try:
            return self._store(deposit)
        except OSError:
            self._synced.clear()  # somebody may have removed the directory: look again next time
            raise

    def _store(self, deposit: Deposit) -> Outcome:
        folder = self._folder(deposit.account, deposit.folder)
        if deposit.is_again and (held_in := self._holding(deposit)) is not None:
            # The process died between rename and settle: the directory may not have been synced yet.
            sync_directory(held_in, self._disk)
            return ALREADY
        content = _Measured(deposit.traced.pieces())
        temporary = folder / "tmp" / f"{deposit.queue_id}.{secrets.token_hex(8)}"
        write_new(temporary, content, mode=FILE_MODE, disk=self._disk)
        try:
            share(temporary, FILE_MODE, group=self._group_id)
            self._disk.rename(temporary, folder / "new" / self._name(deposit.queue_id, content))
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(folder / "new", self._disk)
        self._added(deposit.account, content.virtual_octets)
        return delivered("in the mailbox")

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
