"""Compare what was taken over with its source, message by message.

Contract
    Read-only on both sides. All octets of both are read; nothing is believed because it was noted.
    A difference is told with its folder and UID. What an owner changed since (flags, deletions) is one, too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from egressguard.mailbox.maildir import PARTS
from egressguard.mailbox.takeover import keywords, uid_lists
from egressguard.mailbox.takeover.directory import Directory
from egressguard.mailbox.takeover.ledger import Ledger, Row
from egressguard.mailbox.takeover.maildir import parse_subscriptions
from egressguard.mailbox.takeover.source import Message, Name, Problems, Reader, Source, SourceError, shown
from egressguard.mailbox.takeover.stage import directory_name, names_in


@dataclass(frozen=True, slots=True)
class Shown:
    """How IMAP shows a message. `digest`: SHA-256 of its octets with CRLF at line ends."""

    flags: str
    keywords: frozenset[str]
    received_at: int
    digest: bytes


@dataclass(slots=True)
class Compared:
    """`folders`: (UIDVALIDITY, messages by UID) that IMAP is to show."""

    messages: int = 0
    octets: int = 0
    differences: Problems = field(default_factory=Problems)
    folders: dict[Name, tuple[int | None, dict[int, Shown]]] = field(default_factory=dict)


def compare_files(source: Source, ledger: Ledger, mailbox: Path, tick: Callable[[int], object]) -> Compared:
    """Raises OSError (here), SourceError, sqlite3.Error."""
    compared = Compared()
    for reader in source.folders():
        try:
            _compare_folder(reader, ledger, mailbox, compared, tick)
        finally:
            reader.close()
    try:
        with Directory.opened(mailbox) as directory:
            here = {tuple(name) for name in parse_subscriptions(directory.lines("subscriptions"))}
    except FileNotFoundError:
        here = set()
    for name in source.subscriptions():
        if name not in here:
            compared.differences.add(shown(name), "not subscribed here")
    return compared


class _Here:
    """A folder as it is here."""

    def __init__(self, mailbox: Path, name: Name) -> None:
        self.place = mailbox / directory_name(name)
        self.files: dict[str, tuple[str, str]] = {}
        for part in PARTS[1:]:
            with contextlib.suppress(FileNotFoundError):
                self.files |= {uid_lists.base_of(file): (part, file) for file in names_in(self.place / part)}
        self.letters: dict[str, str] = {}
        self.listed: uid_lists.UidList | None = None
        with contextlib.suppress(FileNotFoundError), Directory.opened(self.place) as directory:
            self.letters = keywords.parse_dovecot_keywords(directory.lines(keywords.DOVECOT_FILE))
            self.listed = uid_lists.parse_dovecot(directory.lines(uid_lists.FILE))


def _compare_folder(
    reader: Reader, ledger: Ledger, mailbox: Path, compared: Compared, tick: Callable[[int], object]
) -> None:
    folder = reader.folder
    here, rows = _Here(mailbox, folder.name), ledger.rows(folder.name)
    told, where = compared.differences, shown(folder.name)
    validity = here.listed.uid_validity if here.listed else None
    if folder.uid_validity is not None and validity != folder.uid_validity:
        told.add(where, f"UIDVALIDITY is {validity}, at the source {folder.uid_validity}")
    known: dict[int, Shown] = {}
    compared.folders[folder.name] = (validity, known)
    for message in folder.messages:
        try:
            octets, seen = fingerprint(reader.pieces(message))
        except (OSError, SourceError) as wrong:
            told.add(where, f"UID {message.uid} cannot be read at the source: {wrong}")
            continue
        size = _compare_message(message, here, rows.get(message.key), octets, told, where)
        known[message.uid] = _shown(message, seen)
        compared.messages += 1
        compared.octets += size
        tick(size)


def _compare_message(message: Message, here: _Here, row: Row | None, octets: bytes, told: Problems, where: str) -> int:
    what = f"UID {message.uid}"
    found = here.files.get(row.base) if row else None
    if row is None or found is None:
        told.add(where, f"{what} is not here; " + ("it was never taken" if row is None else "deleted or moved since?"))
        return 0
    part, file = found
    path = here.place / part / file
    try:
        status = path.stat()
        with path.open("rb") as opened:
            same, _ = fingerprint(iter(lambda: opened.read(1 << 20), b""))
    except FileNotFoundError:
        told.add(where, f"{what} changes while it is looked at; look again")
        return 0
    flags = file.partition(":2,")[2]
    given = here.listed.given.get(row.base) if here.listed else None
    pairs: Iterable[tuple[str, object, object]] = (
        ("octets", octets.hex()[:16], same.hex()[:16]),
        ("date", message.received_ns // 10**9, status.st_mtime_ns // 10**9),
        ("flags", message.flags, "".join(sorted(c for c in flags if c.isupper()))),
        ("keywords", sorted(message.keywords), sorted(here.letters.get(c, "?") for c in flags if c.islower())),
        ("UID", message.uid, given.uid if given else None),
        ("POP3 UIDL", message.uidl, given.uidl if given and message.uidl else message.uidl if given else None),
        ("POP3 order", message.pop3_order, given.pop3_order if given else None),
    )
    for name, there, now in pairs:
        if there != now:
            told.add(where, f"{what}: {name} {now}, at the source {there}")
    return status.st_size


def fingerprint(pieces: Iterator[bytes]) -> tuple[bytes, bytes]:
    """SHA-256 of the octets, and of the octets as IMAP shows them."""
    raw, seen = hashlib.sha256(), hashlib.sha256()
    held = b""
    for piece in pieces:
        raw.update(piece)
        whole = held + piece
        held = b"\r" if whole.endswith(b"\r") else b""
        seen.update(as_shown(whole[: len(whole) - len(held)]))
    seen.update(held)
    return raw.digest(), seen.digest()


def as_shown(octets: bytes) -> bytes:
    """CRLF at line ends, and no NUL: IMAP has no way to say it, and Dovecot shows 0x80."""
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n").replace(b"\0", b"\x80")


def _shown(message: Message, digest: bytes) -> Shown:
    return Shown(message.flags, frozenset(message.keywords), message.received_ns // 10**9, digest)
