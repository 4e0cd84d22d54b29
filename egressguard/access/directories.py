"""What has to be on disk before Dovecot starts: its directories, its files, and the accounts' Maildirs."""

from __future__ import annotations

import grp
import os
import pwd
import secrets
from collections.abc import Iterable
from pathlib import Path

from egressguard.access.dovecot import Version, render_dovecot, render_quota_users
from egressguard.access.dovecot_2_3 import render_rights
from egressguard.access.model import AccessModel
from egressguard.mailbox.account_name import is_account_name
from egressguard.mailbox.accounts import Accounts
from egressguard.mailbox.maildir import make_maildir
from egressguard.store.durable import put

_PID_OCTETS = 32


class Unprepared(Exception):
    """Something that Dovecot needs is not there; the message says what."""


def prepare(model: AccessModel) -> None:
    """Make Dovecot's directories. Raises Unprepared (certificate, users), OSError."""
    uid, _ = _owner(model)
    if os.geteuid() not in (0, uid):
        raise Unprepared(f"only root or {model.user} can run this mail server")
    paths = (model.base_dir, model.state_dir, model.temporary_dir, model.quarantine_state, model.sieve_scripts)
    for path in paths:
        path.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path == model.base_dir and path.stat().st_uid == os.geteuid():
            path.chmod(0o755)  # Dovecot sets it otherwise, and complains; the directory above keeps strangers out
        if os.geteuid() == 0:
            os.chown(path, *_owner(model))
    for path in (model.certificate, model.private_key):
        _check_readable(path)
    if not model.shut_out.exists():
        put_for_dovecot(model, model.shut_out, "")


def write_candidate(model: AccessModel, version: Version) -> None:
    """The next configuration, for doveconf(1) to look at. Raises UnknownVersion, OSError."""
    text = render_dovecot(model, version)
    # 2.3 reads the rights anew at each folder it opens: they go first, and stricter is the safe order.
    files = ((model.rights, render_rights(model)), (model.quota_users, render_quota_users(model, version)))
    for path, content in (*files, (model.candidate, text)):
        put_for_dovecot(model, path, content)


def put_for_dovecot(model: AccessModel, path: Path, content: str) -> None:
    """Write a file that only Dovecot reads, whole or not at all. Raises Unprepared (users), OSError."""
    # A name of chance: one left by a crash must not stand in the way for ever.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    put(path, content.encode(), temporary=temporary, mode=0o640)
    if os.geteuid() == 0:
        os.chown(path, *_owner(model))


def forget_stale_pid(model: AccessModel) -> None:
    """Remove a dead Dovecot's master.pid: with its number given to another program, a new one would not start."""
    path = model.base_dir / "master.pid"
    try:
        with path.open("rb") as file:
            pid = int(file.read(_PID_OCTETS))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ValueError):
        command = b""
    if str(model.config).encode() not in command.split(b"\0"):
        path.unlink(missing_ok=True)


def keep_maildirs(model: AccessModel, stamp: object, again: Iterable[str]) -> object:
    """Make the Maildirs of all accounts when the accounts file changed since `stamp`; always those of `again`.

    Returns the new stamp. Raises Unprepared (users), OSError.
    """
    now = _stamp(model)
    wanted = set(again)
    if now is not None and now != stamp:
        wanted |= set(Accounts(model.accounts).names())
    owner, group = _owner(model) if os.geteuid() == 0 else (None, None)
    for name in wanted:
        if is_account_name(name):
            make_maildir(model.mailbox_root / name, owner=owner, group=group)
    return now


def _stamp(model: AccessModel) -> tuple[Path, int, int] | None:
    try:
        status = model.accounts.stat()
    except FileNotFoundError:
        return None
    return model.accounts, status.st_mtime_ns, status.st_ino


def _owner(model: AccessModel) -> tuple[int, int]:
    try:
        return pwd.getpwnam(model.user).pw_uid, grp.getgrnam(model.group).gr_gid
    except KeyError:
        raise Unprepared(f"there is no user {model.user} or no group {model.group}") from None


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as wrong:
        raise Unprepared(f"{path}: {wrong.strerror}") from None
