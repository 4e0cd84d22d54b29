"""Put a staged mailbox in its place: at once, and so that nothing that came meanwhile is lost.

Contract
    A mailbox that no mail program has used yet is exchanged for the staged one in one step (renameat2): at every
    moment there is one or the other, with all UIDs. What was delivered into the old one is moved over, once.
    A mailbox in use keeps its UIDs: folders that it lacks come with theirs; into others, messages come as new ones.
    Killed anywhere, the next run finishes what was begun; no message is lost, none is there twice.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from egressguard.mailbox.maildir import PARTS
from egressguard.mailbox.takeover import keywords, uid_lists
from egressguard.mailbox.takeover.ledger import MOVING, STAGED, TAKEN
from egressguard.mailbox.takeover.stage import Stage, names_in, remove_tree
from egressguard.store.durable import put, sync_directory

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_MARK = re.compile(r"\.(Q[A-Za-z0-9_-]{1,32})\.")
_libc = ctypes.CDLL(None, use_errno=True)
_OURS = re.compile(r"dovecot[.-].*|cur|new|tmp|maildirfolder|maildirsize|subscriptions")
"""What is not carried over from a mailbox that nobody used: it is in the new one, or is made anew."""


class InUse(Exception):
    """The mailbox has mail with UIDs of its own; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Published:
    """`with_uids`: they were kept. `moved_over`: messages of the mailbox that was there before."""

    messages: int
    with_uids: bool
    moved_over: int


def is_used(mailbox: Path) -> bool:
    """Whether a mail program has been given UIDs of messages in it. Raises OSError."""
    for folder in _folders(mailbox):
        if _has_names(folder / "cur"):
            return True
        with contextlib.suppress(FileNotFoundError), (folder / uid_lists.FILE).open("rb") as file:
            if len(file.read(65536).split(b"\n")) > 2:
                return True
    return False


def publish(stage: Stage, mailbox: Path, *, may_merge: bool) -> Published:
    """Raises InUse, OSError, sqlite3.Error."""
    finish(stage, mailbox)
    ledger = stage.ledger
    if not ledger.note("published") and not is_used(mailbox):
        count = ledger.count(STAGED)
        ledger.write_note("exchanging", str(stage.tree.stat().st_ino))
        stage.settle()
        _exchange(stage, mailbox)
        return Published(count, with_uids=True, moved_over=finish(stage, mailbox))
    if not ledger.note("published") and not may_merge:
        raise InUse(f"{mailbox} is in use: its messages have UIDs already, so it cannot get the source's")
    count = ledger.count(STAGED)
    ledger.advance(STAGED, MOVING)
    _merge_in(stage, mailbox)
    return Published(count, with_uids=False, moved_over=0)


def finish(stage: Stage, mailbox: Path) -> int:
    """What an earlier run began; return how many messages of the old mailbox were moved over."""
    ledger = stage.ledger
    exchanging = ledger.note("exchanging")
    if exchanging and not ledger.note("published") and mailbox.is_dir() and str(mailbox.stat().st_ino) == exchanging:
        sync_directory(mailbox.parent)
        sync_directory(stage.root)
        if stage.tree.exists():
            stage.tree.rename(stage.root / "replaced")
        ledger.publish(exchanging)
    moved = 0
    if (stage.root / "replaced").exists():
        moved = _move_over(stage.root / "replaced", mailbox)
        remove_tree(stage.root / "replaced")
    if ledger.count(MOVING):
        _merge_in(stage, mailbox)
    return moved


def _exchange(stage: Stage, mailbox: Path) -> None:
    for _ in range(3):  # the access role, or a first delivery, may make the mailbox meanwhile
        try:
            if _renameat2(stage.tree, mailbox, _RENAME_EXCHANGE if mailbox.exists() else 0):
                return
        except OSError as wrong:
            if wrong.errno == errno.EXDEV:
                raise OSError(wrong.errno, f"{stage.root} and {mailbox} must be on one file system") from wrong
            if wrong.errno not in {errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST}:
                raise
    raise OSError(errno.EBUSY, f"{mailbox} comes and goes")


def _renameat2(old: Path, new: Path, flags: int) -> bool:
    if flags == 0:
        old.rename(new)
        return True
    if _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags) == 0:
        return True
    wrong = ctypes.get_errno()
    if wrong not in {errno.EINVAL, errno.ENOSYS}:
        raise OSError(wrong, os.strerror(wrong), str(new))
    # A file system that cannot exchange: for a moment there is no mailbox, and deliveries are tried again.
    aside = old.with_name("replaced")
    new.rename(aside)
    old.rename(new)
    return True


def _move_over(old: Path, mailbox: Path) -> int:
    """Messages of a mailbox that was exchanged, and what else its owner had there."""
    moved = 0
    folders = _folders(old)
    for folder in folders:
        place = mailbox / folder.relative_to(old)
        if not place.exists():
            folder.rename(place)
            sync_directory(mailbox)
            continue
        known = _queue_marks(place)
        for part in PARTS[1:]:
            for name in names_in(folder / part) if (folder / part).is_dir() else ():
                mark = _MARK.search(name)
                if mark and mark[1] in known:
                    (folder / part / name).unlink()  # delivered again, into the new one
                    continue
                (folder / part / name).rename(_unused(place / "new", uid_lists.base_of(name)))
                moved += 1
        sync_directory(place / "new")
    for path in old.iterdir():
        if path not in folders and not _OURS.fullmatch(path.name) and not (mailbox / path.name).exists():
            path.rename(mailbox / path.name)
    _join_subscriptions(old / "subscriptions", mailbox / "subscriptions")
    sync_directory(mailbox)
    return moved


def _queue_marks(folder: Path) -> set[str]:
    """Queue ids of what was delivered into this folder (mailbox.delivery puts them into the names)."""
    names = (name for part in PARTS[1:] for name in names_in(folder / part))
    return {mark[1] for name in names if (mark := _MARK.search(name))}


def _unused(directory: Path, base: str) -> Path:
    """A message never takes another's place."""
    path, number = directory / base, 1
    while path.exists():
        path, number = directory / f"{base}.{number}", number + 1
    return path


def _join_subscriptions(old: Path, new: Path) -> None:
    if not old.exists():
        return
    before, now = old.read_bytes(), new.read_bytes() if new.exists() else b"V\t2\n\n"
    if not (before.startswith(b"V\t2\n") and now.startswith(b"V\t2\n")):
        return
    missing = [line for line in before.split(b"\n")[1:] if line and line not in now.split(b"\n")]
    if missing or not new.exists():
        status = new.stat() if new.exists() else old.stat()
        put(new, now + b"".join(line + b"\n" for line in missing), mode=0o660)
        with contextlib.suppress(PermissionError):
            os.chown(new, status.st_uid, status.st_gid)
        new.chmod(0o660)


def _merge_in(stage: Stage, mailbox: Path) -> None:
    """Move what is in the staging tree into a mailbox that is in use."""
    if not mailbox.exists() and stage.tree.exists():
        stage.tree.rename(mailbox)
        sync_directory(mailbox.parent)
    for folder in _folders(stage.tree):
        place = mailbox / folder.relative_to(stage.tree)
        if not place.exists():
            folder.rename(place)
            sync_directory(mailbox)
            continue
        letters = _letter_map(folder, place)
        for part in PARTS[1:]:
            for name in names_in(folder / part) if (folder / part).is_dir() else ():
                base, _, flags = name.partition(":2,")
                kept = "".join(sorted({letters.get(c, "") if c.islower() else c for c in flags}))
                to = place / "cur" / f"{base}:2,{kept}" if kept else _unused(place / "new", base)
                (folder / part / name).rename(to)
        for part in PARTS[1:]:
            sync_directory(place / part)
    _join_subscriptions(stage.tree / "subscriptions", mailbox / "subscriptions")
    stage.ledger.advance(MOVING, TAKEN)
    stage.ledger.write_note("published", stage.ledger.note("published") or "merged")
    remove_tree(stage.tree)


def _letter_map(source: Path, place: Path) -> dict[str, str]:
    """Letters of keywords there -> here, for those that the folder here has a letter for."""

    def read(folder: Path) -> dict[str, str]:
        try:
            return keywords.parse_dovecot_keywords((folder / keywords.DOVECOT_FILE).read_bytes().split(b"\n"))
        except FileNotFoundError:
            return {}

    here = {word: letter for letter, word in read(place).items()}
    return {letter: here[word] for letter, word in read(source).items() if word in here}


def _folders(root: Path) -> list[Path]:
    """The Maildir itself and its folders."""
    if not root.is_dir():
        return []
    inner = sorted(path for path in root.glob(".*/") if not path.is_symlink() and (path / "cur").is_dir())
    return [root, *inner]


def _has_names(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
