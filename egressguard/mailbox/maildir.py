"""Make one Maildir that delivery and Dovecot, two users of one group, can both work in.

Contract
    Idempotent; safe against the other party making the same directories at the same time.
    Modes are set on directories of our own user only. OSError goes up untouched.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

DIRECTORY_MODE = 0o2770  # setgid: what is made below stays in the shared group
FILE_MODE = 0o660
PARTS = ("tmp", "new", "cur")


def make_maildir(path: Path, *, owner: int | None = None, group: int | None = None) -> None:
    """Make `path`/{tmp,new,cur} where missing. `owner`, `group`: ids to give them to; None = leave them."""
    for directory in (path, *(path / part for part in PARTS)):
        with contextlib.suppress(FileExistsError):
            directory.mkdir()
        share(directory, DIRECTORY_MODE, owner=owner, group=group)


def share(path: Path, mode: int, *, owner: int | None = None, group: int | None = None) -> None:
    """Set mode, owner and group of a file or directory of ours, whatever the umask was; others' are left alone."""
    now = path.lstat()
    if now.st_uid not in (os.geteuid(), owner) or stat.S_ISLNK(now.st_mode):
        return
    if (owner, group) != (None, None) and (now.st_uid, now.st_gid) != (owner, group):
        os.chown(path, -1 if owner is None else owner, -1 if group is None else group)
    if stat.S_IMODE(now.st_mode) != mode:
        path.chmod(mode)
