"""Write an account's mailbox for others: a Maildir++ with Dovecot's files, or mboxes.

Contract
    The mailbox is read only, and may be in use. A Maildir has every octet, UID, flag, keyword and date.
    An mbox (mboxrd) has them, too, in the fields that Dovecot and UW IMAP read; it cannot say that a message has no
    line end at its end, and gets one. Each file is whole or not there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from egressguard.mailbox.takeover.maildir import DOVECOT, MaildirSource
from egressguard.mailbox.takeover.mbox import LETTERS
from egressguard.mailbox.takeover.source import Message, Reader, SourceError, shown
from egressguard.mailbox.takeover.stage import Stage, Tally
from egressguard.store.durable import put, sync_directory

OWN_UIDLS = "%f"
"""What our POP3 calls a message: its file's name (access.dovecot_2_3)."""
_FROM = re.compile(rb"^(>*From )", re.MULTILINE)
_SENDER = re.compile(rb"Return-Path: <([!-;=?-~]{1,256})>\r?\n")


def own_mailbox(path: Path) -> MaildirSource:
    """An account's mailbox, as a source. Raises OSError, SourceError."""
    return MaildirSource(path, DOVECOT, OWN_UIDLS)


def export_maildir(source: MaildirSource, target: Path, tick: Callable[[int], object]) -> Tally:
    """Make `target`, which must not be there; killed, the next run goes on.

    Raises OSError, SourceError, sqlite3.Error."""
    if target.exists():
        raise SourceError(f"{target} is there already; name a new directory")
    stage, tally = Stage(target.with_name(f".{target.name}.partial")), Tally()
    try:
        for reader in source.folders():
            try:
                stage.sync(reader, source.problems, tally, tick)
            finally:
                reader.close()
        stage.keep_only(tally.names)
        stage.write_subscriptions(source.subscriptions())
        stage.settle()
        stage.tree.rename(target)
        sync_directory(target.parent)
    finally:
        stage.close()
    stage.remove()
    return tally


def export_mbox(source: MaildirSource, target: Path, tick: Callable[[int], object]) -> Tally:
    """A file NAME.mbox for each folder, in `target`. Raises OSError, SourceError."""
    tally = Tally()
    for reader in source.folders():
        try:
            path = target.joinpath(*reader.folder.name[:-1], f"{(reader.folder.name or ('INBOX',))[-1]}.mbox")
            if path.exists():
                raise SourceError(f"{path} is there already; name a new directory")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.partial")
            temporary.unlink(missing_ok=True)
            put(path, _mbox(reader, source, tally, tick), temporary=temporary)
        finally:
            reader.close()
        tally.folders += 1
    return tally


def _mbox(reader: Reader, source: MaildirSource, tally: Tally, tick: Callable[[int], object]) -> Iterator[bytes]:
    folder = reader.folder
    words = list(dict.fromkeys(word for message in folder.messages for word in message.keywords))
    base = " ".join([f"X-IMAPbase: {folder.uid_validity} {folder.uid_next - 1:010}", *words]) + "\n"
    if folder.uid_validity is None:
        base = ""
    for message in folder.messages:
        try:
            content = b"".join(reader.pieces(message))
        except (OSError, SourceError) as wrong:
            source.problems.add(shown(folder.name), f"UID {message.uid} not written: {wrong}")
            tally.failed += 1
            continue
        yield _from_line(message, content) + base.encode() + _fields(message, with_uid=folder.uid_validity is not None)
        yield _FROM.sub(rb">\1", content)
        yield b"\n" if content.endswith(b"\n") else b"\n\n"
        base = ""
        tally.messages += 1
        tally.octets += len(content)
        tick(len(content))


def _from_line(message: Message, content: bytes) -> bytes:
    found = _SENDER.match(content)
    sender = found[1] if found else b"MAILER-DAEMON"
    date = time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(message.received_ns // 10**9))
    return b"From %s %s +0000\n" % (sender, date.encode())


def _fields(message: Message, *, with_uid: bool) -> bytes:
    status = ("R" if "S" in message.flags else "") + ("" if message.is_new else "O")
    x_status = "".join(letter.decode() for letter, flag in LETTERS[1:] if flag in message.flags)
    lines = [f"X-UID: {message.uid}"] if with_uid else []
    lines += [f"Status: {status}", f"X-Status: {x_status}"]
    if message.keywords:
        lines.append(f"X-Keywords: {' '.join(message.keywords)}")
    return "".join(f"{line}\n" for line in lines).encode()
