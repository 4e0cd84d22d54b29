"""The drop directory: messages of this machine's own programs, put down even while no daemon runs.

    STATE/drop/NAME.msg     a line of JSON (version, sender, recipients, perhaps account), then the message

Contract
    `put` returns when the message is on stable storage. Whoever may use this machine may put: the directory is open
    to all like /tmp (sticky), its files are readable for the gateway's group only, and a name is never reused.
    `read` takes nothing on trust: a plain file of one name, bounded in size, its owner as the file system knows him.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egressguard.mail.line_ends import is_malformed

SUFFIX = ".msg"
VERSION = 1
MAX_HEAD_OCTETS = 1024 * 1024
MAX_RECIPIENTS = 1000
MAX_WAITING = 10_000


class BadDrop(Exception):
    """A file that is no message of ours; the words say why."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """`owner` is the user id that put it there; `account` the one that he says it is of ("" = he says none)."""

    name: str
    owner: int
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    account: str = ""


def put(
    directory: Path, sender: str, recipients: tuple[str, ...], content: bytes | Iterable[bytes], account: str = ""
) -> str:
    """Put a message down; its name. What gives `content` in pieces may raise OSError. Raises OSError."""
    name = f"{time.time_ns():x}-{secrets.token_hex(6)}"
    fields = {
        "version": VERSION,
        "sender": sender,
        "recipients": recipients,
        **({"account": account} if account else {}),
    }
    head = json.dumps(fields).encode() + b"\n"
    temporary = directory / f".{name}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(file.fileno(), 0o640)
            file.write(head)
            file.writelines((content,) if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(directory / f"{name}{SUFFIX}")
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(directory)
    return name


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def waiting(directory: Path) -> Iterator[str]:
    """The names of what waits, the oldest first, at most MAX_WAITING. Raises OSError."""
    names = sorted(entry.name for entry in os.scandir(directory) if entry.name.endswith(SUFFIX))
    yield from (name.removesuffix(SUFFIX) for name in names[:MAX_WAITING] if not name.startswith("."))


def read(directory: Path, name: str, max_octets: int) -> Dropped:
    """Raises BadDrop, OSError (FileNotFoundError: somebody took it back)."""
    fd = os.open(directory / f"{name}{SUFFIX}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise BadDrop("expected a plain file of one name")
        if found.st_size > max_octets + MAX_HEAD_OCTETS:
            raise BadDrop(f"{found.st_size} octets; expected at most {max_octets}")
        head = file.readline(MAX_HEAD_OCTETS)
        sender, recipients, account = _parse_head(head)
        content = file.read(max_octets + 1)
    if len(content) > max_octets:
        raise BadDrop(f"more than {max_octets} octets")
    if is_malformed(content):
        raise BadDrop("expected lines that end with CR LF, without a bare CR, a bare LF or a NUL")
    return Dropped(name, found.st_uid, sender, recipients, content, account)


def _parse_head(head: bytes) -> tuple[str, tuple[str, ...], str]:
    try:
        fields: Any = json.loads(head)
        sender, recipients, account = fields["sender"], fields["recipients"], fields.get("account", "")
        is_known = fields["version"] == VERSION
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadDrop("expected a line of JSON with version, sender and recipients") from None
    if not is_known:
        raise BadDrop(f"expected version {VERSION}")
    if not isinstance(sender, str) or not isinstance(account, str) or not isinstance(recipients, list):
        raise BadDrop("expected a sender and a list of recipients")
    if not recipients or len(recipients) > MAX_RECIPIENTS or not all(isinstance(one, str) for one in recipients):
        raise BadDrop(f"expected 1 to {MAX_RECIPIENTS} recipients")
    return sender, tuple(recipients), account


def remove(directory: Path, name: str) -> None:
    (directory / f"{name}{SUFFIX}").unlink(missing_ok=True)


def set_aside(directory: Path, name: str) -> None:
    """Keep it, and do not look at it again."""
    (directory / f"{name}{SUFFIX}").rename(directory / f"{name}.refused")
