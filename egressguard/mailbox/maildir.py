"""A Maildir++ that delivery and Dovecot, two users of one group, can both work in: make it, find its directories.

Contract
    Idempotent; safe against the other party making the same directories at the same time.
    Modes are set on directories of our own user only. OSError goes up untouched.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

DIRECTORY_MODE = 0o2770  # setgid: what is made below stays in the shared group
FILE_MODE = 0o660
PARTS = ("tmp", "new", "cur")
FOLDER_MARK = "maildirfolder"
"""An empty file by which a directory is known as a folder of the Maildir above it (Maildir++)."""


def make_maildir(path: Path, *, owner: int | None = None, group: int | None = None) -> None:
    """Make `path`/{tmp,new,cur} where missing. `owner`, `group`: ids to give them to; None = leave them."""
    for directory in (path, *(path / part for part in PARTS)):
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
        share(directory, DIRECTORY_MODE, owner=owner, group=group)


def make_folder(path: Path, *, group: int | None = None) -> None:
    """The same for a folder, ".Lists.Debian" below a Maildir."""
    make_maildir(path, group=group)
    mark = path / FOLDER_MARK
    mark.touch(mode=FILE_MODE, exist_ok=True)
    share(mark, FILE_MODE, group=group)


def message_directories(maildir: str) -> Iterator[str]:
    """new/ and cur/ of the Maildir and of its folders; none where there is no Maildir. Raises OSError."""
    try:
        with os.scandir(maildir) as entries:
            folders = [entry.path for entry in entries if entry.name[0] == "." and entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return
    for folder in (maildir, *folders):
        for part in ("new", "cur"):
            path = f"{folder}/{part}"
            if os.path.isdir(path):  # noqa: PTH112 -- of thousands of folders
                yield path


def share(path: Path, mode: int, *, owner: int | None = None, group: int | None = None) -> None:
    """Set mode, owner and group of a file or directory of ours, whatever the umask was; others' are left alone."""
    now = path.lstat()
    if now.st_uid not in (os.geteuid(), owner) or stat.S_ISLNK(now.st_mode):
        return
    if (owner, group) != (None, None) and (now.st_uid, now.st_gid) != (owner, group):
        os.chown(path, -1 if owner is None else owner, -1 if group is None else group)
    if stat.S_IMODE(now.st_mode) != mode:
        path.chmod(mode)


def share_file(fd: int, mode: int, *, group: int | None = None) -> None:
    """The same for a file that we have just made."""
    now = os.fstat(fd)
    if group is not None and now.st_gid != group:
        os.fchown(fd, -1, group)
    if stat.S_IMODE(now.st_mode) != mode:
        os.fchmod(fd, mode)
