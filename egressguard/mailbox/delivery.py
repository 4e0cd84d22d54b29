"""Local delivery: one message into one account's Maildir.

Contract
    DELIVERED means on stable storage: write, fsync, rename into new/, fsync(new/).
    Once per (queue_id, account): the file name carries the queue id, and a second delivery finds it in new/ or
    cur/. Only a copy that its owner has already moved away or deleted is delivered again.
    The content's octets stay as they came, CRLF included; Return-Path and Delivered-To are put before them.
    Trouble of our own (disk, accounts file) is transient, never permanent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from egressguard.mail.outcome import Outcome, delivered, permanent, transient
from egressguard.mailbox.account_name import account_of, local_part_of
from egressguard.mailbox.maildir import FILE_MODE, make_maildir, share
from egressguard.store.content import Content
from egressguard.store.durable import Disk, sync_directory, write_new

POSTMASTER = "postmaster"

_QUEUE_ID = re.compile(r"[A-Za-z0-9_-]{1,32}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LOCKS = 64  # enough that two accounts seldom share one


class AccountNames(Protocol):
    """What delivery asks of the accounts. Raises OSError when it cannot tell."""

    def exists(self, name: str) -> bool: ...


class MaildirDelivery:
    """Delivers into `root`/ACCOUNT. `group_id`: the group that Dovecot shares; None = leave it alone.

    `postmaster`: the account that gets postmaster's mail when none has that name (RFC 5321 s4.5.1).
    """

    def __init__(
        self,
        root: Path,
        accounts: AccountNames,
        group_id: int | None = None,
        *,
        postmaster: str | None = None,
        clock: Callable[[], float] = time.time,
        disk: type[Disk] = Disk,
    ) -> None:
        self._root = root
        self._accounts = accounts
        self._group_id = group_id
        self._postmaster = postmaster
        self._clock = clock
        self._disk = disk
        self._host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname().partition(".")[0])[:12] or "localhost"
        self._synced: set[str] = set()  # accounts whose directories are known to be durable
        self._locks = [asyncio.Lock() for _ in range(_LOCKS)]

    def exists(self, local_part: str) -> bool:
        """Whether mail for this local part would be taken. Raises OSError when the accounts cannot be read."""
        return self.account_for(local_part) is not None

    def account_for(self, local_part: str) -> str | None:
        """The account that gets this local part's mail, or None. Raises OSError."""
        name = account_of(local_part)
        if name is None or self._accounts.exists(name):
            return name
        if name == POSTMASTER and self._postmaster and self._accounts.exists(self._postmaster):
            return self._postmaster
        return None

    async def deliver(self, queue_id: str, forward_path: str, reverse_path: str, content: Content) -> Outcome:
        """Deliver `content` (header section and body, CRLF). Paths come without angle brackets."""
        if not _QUEUE_ID.fullmatch(queue_id):
            raise ValueError(f"not a queue id: {queue_id!r}")
        if _CONTROL.search(forward_path + reverse_path):
            return permanent("5.1.3", "the path has control characters")
        try:
            account = await asyncio.to_thread(self.account_for, local_part_of(forward_path))
            if account is None:
                return permanent("5.1.1", "no such mailbox")
            content = content.in_front(_trace(forward_path, reverse_path))
            async with self._locks[hash(account) % _LOCKS]:
                return await asyncio.to_thread(self._attempt, account, queue_id, content)
        except OSError as wrong:
            return _outcome_of(wrong)

    def _attempt(self, account: str, queue_id: str, content: Content) -> Outcome:
        try:
            return self._store(account, queue_id, content)
        except OSError:
            self._synced.discard(account)  # somebody may have removed the directory: look again next time
            raise

    def _store(self, account: str, queue_id: str, content: Content) -> Outcome:
        maildir = self._maildir(account)
        if _holds(maildir, queue_id):
            # The process died between rename and settle: the directory may not have been synced yet.
            sync_directory(maildir / "new", self._disk)
            return delivered("already in the mailbox")
        # S= is the size on disk: Dovecot then need not ask the file system.
        name = f"{int(self._clock())}.Q{queue_id}.{self._host},S={content.size_octets}"
        temporary = maildir / "tmp" / f"{queue_id}.{secrets.token_hex(8)}"
        write_new(temporary, content.pieces(), mode=FILE_MODE, disk=self._disk)
        try:
            share(temporary, FILE_MODE, group=self._group_id)
            self._disk.rename(temporary, maildir / "new" / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(maildir / "new", self._disk)
        return delivered("in the mailbox")

    def _maildir(self, account: str) -> Path:
        """The account's Maildir, made where missing; durable before this process puts a first message there."""
        maildir = self._root / account
        if account not in self._synced:
            make_maildir(maildir, group=self._group_id)
            sync_directory(maildir, self._disk)
            sync_directory(self._root, self._disk)
            self._synced.add(account)
        return maildir


def _holds(maildir: Path, queue_id: str) -> bool:
    mark = f".Q{queue_id}."
    for part in ("new", "cur"):
        with os.scandir(maildir / part) as entries:
            if any(mark in entry.name for entry in entries):
                return True
    return False


def _trace(forward_path: str, reverse_path: str) -> bytes:
    """RFC 5321 s4.4: final delivery puts the reverse-path at the very top."""
    return f"Return-Path: <{reverse_path}>\r\nDelivered-To: {forward_path}\r\n".encode("utf-8", "replace")


def _outcome_of(wrong: OSError) -> Outcome:
    if wrong.errno == errno.EDQUOT:
        return transient("4.2.2", "the mailbox is over its quota")
    if wrong.errno == errno.ENOSPC:
        return transient("4.3.1", "no space for mailboxes")
    return transient("4.3.0", f"the mailbox cannot be written: {wrong.strerror or type(wrong).__name__}")
