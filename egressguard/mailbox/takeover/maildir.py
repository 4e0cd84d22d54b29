"""Maildirs as Dovecot, Courier and qmail keep them: folders, UIDs, flags, keywords, dates, UIDLs.

Contract
    Strictly read-only, and fit to be read while its server still runs: a message that gets other flags meanwhile is
    found again by its base name; one that is gone is told, and no reason to give up.
    Messages that no server gave a UID get the next ones, in the order of their arrival.
    The octets are those of the file; files that Dovecot's zlib plugin compressed are read as it shows them.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Set
from dataclasses import replace
from pathlib import Path

from egressguard.mailbox.takeover import compressed, keywords, pop3_names, uid_lists
from egressguard.mailbox.takeover.directory import Directory, open_if_there
from egressguard.mailbox.takeover.folder_names import safe_name
from egressguard.mailbox.takeover.source import (
    INBOX,
    MAX_FOLDERS,
    MAX_MESSAGES,
    MAX_UID,
    Folder,
    Message,
    Name,
    Problems,
    SourceError,
    shown,
)
from egressguard.mailbox.takeover.uid_lists import Given, UidList, base_of

DOVECOT, COURIER, QMAIL = "dovecot", "courier", "qmail"
FORMATS = (DOVECOT, COURIER, QMAIL)

_PARTS = ("new", "cur")
_MAX_DEPTH = 30
_KNOWN_FLAGS = frozenset("DFPRST")
_ARRIVAL = re.compile(r"(\d{1,15})(?:\.[^.]*?M(\d{1,6}))?")
_COURIER_UPDATES = 100_000  # files of one message's keywords, of a folder


def looks_like_maildir(directory: Directory) -> bool:
    return any(directory.holds(part) for part in _PARTS)


def told_format(directory: Directory) -> str:
    """Which server's files lie in it."""
    for file, form in ((uid_lists.FILE, DOVECOT), (uid_lists.COURIER_FILE, COURIER)):
        if directory.holds(file):
            return form
    return COURIER if directory.holds(pop3_names.COURIER_FILE) else QMAIL


class MaildirSource:
    """`uidl_format` None: as the format's POP3 server names messages."""

    def __init__(self, path: Path, form: str | None = None, uidl_format: str | None = None) -> None:
        """Raises OSError, SourceError."""
        self.problems = Problems()
        self._root = Directory.opened(path)
        if not looks_like_maildir(self._root):
            raise SourceError(f"{path}: no Maildir; expected cur/ and new/ in it")
        self.format = form or told_format(self._root)
        usual = {DOVECOT: pop3_names.DOVECOT, QMAIL: pop3_names.QMAIL}.get(self.format, pop3_names.NONE)
        self._uidl_format = usual if uidl_format is None else uidl_format

    def close(self) -> None:
        self._root.close()

    def folders(self) -> Iterator[MaildirReader]:
        yield self._read(self._root.again(), INBOX)
        taken: set[Name] = {INBOX}
        for parts, directory in self._subfolders():
            name = unused(safe_name(parts), taken)
            if name != parts:
                self.problems.add(directory.path, f"the folder will be called {shown(name)}")
            yield self._read(directory, name)

    def _read(self, directory: Directory, name: Name) -> MaildirReader:
        try:
            return MaildirReader(directory, name, self.format, self._uidl_format, self.problems)
        except BaseException:
            directory.close()
            raise

    def _subfolders(self) -> Iterator[tuple[tuple[str, ...], Directory]]:
        """Maildir++ (.A.B), and folders within folders (LAYOUT=fs: A/B)."""
        for count, (parts, directory) in enumerate(self._found(self._root, (), 0)):
            if count >= MAX_FOLDERS:
                directory.close()
                raise SourceError(f"{self._root.path}: more than {MAX_FOLDERS} folders")
            yield parts, directory

    def _found(
        self, parent: Directory, above: tuple[str, ...], depth: int
    ) -> Iterator[tuple[tuple[str, ...], Directory]]:
        for name in parent.directories():
            if name in {"new", "cur", "tmp"} or (directory := open_if_there(parent, name)) is None:
                continue
            is_folder = looks_like_maildir(directory)
            parts = tuple(name[1:].split(".")) if not above and name.startswith(".") else (*above, name)
            if not name.startswith(".") and depth < _MAX_DEPTH:
                yield from self._found(directory, parts, depth + 1)
            if is_folder:
                yield parts, directory
            else:
                directory.close()

    def subscriptions(self) -> list[Name]:
        if self.format == COURIER:
            lines = [line.decode("utf-8", "surrogateescape") for line in self._root.lines("courierimapsubscribed")]
            names = [tuple(line.split("."))[1:] for line in lines if line.startswith("INBOX.")]
        else:
            names = parse_subscriptions(self._root.lines("subscriptions"))
        return list(dict.fromkeys(safe_name(name) for name in names if name))[:MAX_FOLDERS]


def parse_subscriptions(lines: list[bytes], separator: str = ".") -> list[tuple[str, ...]]:
    """Dovecot's file: version 2 has parts between tabs, version 1 the separator of the storage."""
    texts = [line.decode("utf-8", "surrogateescape") for line in lines]
    if texts and texts[0].startswith("V\t"):
        return [tuple(text.split("\t")) for text in texts[1:] if text]
    return [tuple(text.split(separator)) for text in texts if text]


class MaildirReader:
    """One folder, read as it is now. Owns `directory`."""

    def __init__(self, directory: Directory, name: Name, form: str, uidl_format: str, problems: Problems) -> None:
        """Raises OSError, SourceError."""
        self._directory = directory
        self._problems = problems
        self._parts = {part: found for part in _PARTS if (found := open_if_there(directory, part)) is not None}
        self._files: dict[str, tuple[str, str]] = {}
        """Key -> (part, file name)."""
        listed = self._uid_list(form)  # before the names: what is listed later is not in it, and gets the next UIDs
        keywords_of = _keywords(directory, form)
        uidls = pop3_names.parse_courier_sizes(directory.lines(pop3_names.COURIER_FILE)) if form == COURIER else {}

        orders = {base: order for order, base in enumerate(uidls, 1)}
        validity = listed.uid_validity if listed else None

        def pop3_of(base: str, given: Given | None) -> tuple[str | None, int | None]:
            """UIDL and order."""
            if name != INBOX:
                return None, None  # POP3 shows INBOX only
            if given is None:
                return uidls.get(base), orders.get(base)
            by_format = pop3_names.render_uidl(uidl_format, given.uid, validity, base)
            uidl = pop3_names.checked(given.uidl) or uidls.get(base) or by_format
            return uidl, given.pop3_order or orders.get(base)

        messages = self._messages(listed, keywords_of, pop3_of)
        following = max(listed.uid_next if listed else 1, messages[-1].uid + 1 if messages else 1)
        self.folder = Folder(name, validity, following, messages)

    def _uid_list(self, form: str) -> UidList | None:
        if form == QMAIL:
            return None
        file = uid_lists.FILE if form == DOVECOT else uid_lists.COURIER_FILE
        parse = uid_lists.parse_dovecot if form == DOVECOT else uid_lists.parse_courier
        lines = self._directory.lines(file)
        listed = parse(lines)
        if lines and listed is None:
            self._problems.add(f"{self._directory.path}/{file}", "not understood: the folder's UIDs are lost")
        return listed

    def _messages(
        self,
        listed: UidList | None,
        keywords_of: Callable[[str, str], tuple[str, ...]],
        pop3_of: Callable[[str, Given | None], tuple[str | None, int | None]],
    ) -> list[Message]:
        self._list_files()
        with_uid: list[tuple[int, str]] = []
        without: list[str] = []
        seen: set[int] = set()
        for key in self._files:
            given = listed.given.get(key) if listed else None
            if given is None or given.uid in seen:
                without.append(key)
            else:
                seen.add(given.uid)
                with_uid.append((given.uid, key))
        following = max(listed.uid_next if listed else 1, max(seen, default=0) + 1)
        numbered = sorted(with_uid) + list(enumerate(sorted(without, key=_arrival), following))
        if numbered and numbered[-1][0] > MAX_UID:
            raise SourceError(f"{self._directory.path}: no UIDs are left in this folder")
        out = []
        for uid, key in numbered:
            part, file = self._files[key]
            received = self._received(part, file)
            if received is None:
                continue
            letters = file.partition(":2,")[2] if part == "cur" else ""
            flags = "".join(sorted(set(letters) & _KNOWN_FLAGS))
            given = listed.given[key] if uid in seen and listed else None
            # Without any list the file's name is all that POP3 has (qmail).
            uidl, order = pop3_of(key, given if listed else Given(uid))
            out.append(Message(key, uid, flags, keywords_of(key, letters), received, uidl, part == "new", order))
        return _without_usual_order(out)

    def _list_files(self) -> None:
        """Look twice: a file that gets other flags while its directory is read may be seen under neither name."""
        for look in range(2):
            for part, directory in self._parts.items():  # new first: a message moves from there to cur meanwhile
                self._list(part, directory, known=frozenset(self._files) if look else frozenset())

    def _list(self, part: str, directory: Directory, known: Set[str]) -> None:
        for file in sorted(directory.names()):
            key = base_of(file)
            if file.startswith(".") or key in known:
                continue
            if key in self._files and self._is_other(key, part, file):
                self._problems.add(f"{directory.path}/{file}", "two files have this name; both are taken")
                key = f"{key}.{len(self._files)}"
            self._files[key] = (part, file)
            if len(self._files) > MAX_MESSAGES:
                raise SourceError(f"{self._directory.path}: more than {MAX_MESSAGES} messages in one folder")

    def _is_other(self, key: str, part: str, file: str) -> bool:
        """Whether two files of one base name are two messages, and not one that was moved while we looked."""
        try:
            one, other = (self._parts[p].status(f) for p, f in (self._files[key], (part, file)))
        except FileNotFoundError:
            return False
        return (one.st_dev, one.st_ino) != (other.st_dev, other.st_ino)

    def _received(self, part: str, file: str) -> int | None:
        """The file's mtime is INTERNALDATE for Dovecot and Courier alike. None: no message."""
        found = self._status(part, file)
        if found is None:
            return None
        if not stat.S_ISREG(found.st_mode):
            self._problems.add(f"{self._directory.path}/{part}/{file}", "no regular file; links are not followed")
            return None
        return found.st_mtime_ns

    def _status(self, part: str, file: str) -> os.stat_result | None:
        try:
            return self._parts[part].status(file)
        except FileNotFoundError:
            return self._again(base_of(file))

    def _again(self, base: str) -> os.stat_result | None:
        """Where a message is now that a server moved meanwhile."""
        for part, directory in self._parts.items():
            for file in directory.names():
                if base_of(file) == base:
                    self._files[base] = (part, file)
                    with contextlib.suppress(OSError):
                        return directory.status(file)
        return None

    def pieces(self, message: Message) -> Iterator[bytes]:
        part, file = self._files[message.key]
        try:
            fd = self._parts[part].open_file(file)
        except FileNotFoundError:
            if self._again(base_of(file)) is None:
                raise
            part, file = self._files[base_of(file)]
            fd = self._parts[part].open_file(file)
        try:
            yield from compressed.plain_pieces(fd, f"{self._directory.path}/{part}/{file}")
        finally:
            os.close(fd)

    def close(self) -> None:
        for directory in (*self._parts.values(), self._directory):
            directory.close()


def _keywords(directory: Directory, form: str) -> Callable[[str, str], tuple[str, ...]]:
    """(base name, flags in the file's name) -> keywords."""
    if form == DOVECOT:
        letters = keywords.parse_dovecot_keywords(directory.lines(keywords.DOVECOT_FILE))
        return lambda _base, flags: tuple(letters[c] for c in flags if c in letters)
    found: dict[str, tuple[str, ...]] = {}
    lists = open_if_there(directory, keywords.COURIER_DIRECTORY) if form == COURIER else None
    if lists is not None:
        with lists:
            found = keywords.parse_courier_list(lists.lines(keywords.COURIER_LIST))
            for name in sorted(lists.names())[:_COURIER_UPDATES]:
                if name[:1] not in {":", "."} and lists.holds(name):
                    found[name] = keywords.parse_courier_file(lists.lines(name, most_octets=65536))
    return lambda base, _flags: found.get(base, ())


def _without_usual_order(messages: list[Message]) -> list[Message]:
    """Of messages by UID: an order of POP3 that says no more than the UIDs do is none."""
    told = [message.pop3_order or MAX_UID for message in messages]
    if told != sorted(told):
        return messages
    return [replace(message, pop3_order=None) if message.pop3_order else message for message in messages]


def _arrival(base: str) -> tuple[int, int, str]:
    found = _ARRIVAL.match(base)
    return (int(found[1]), int(found[2] or 0), base) if found else (0, 0, base)


def unused(name: Name, taken: set[Name]) -> Name:
    """Two folders of the source may come to one name: the second gets a number."""
    candidate, number = name, 2
    while tuple(part.lower() for part in candidate) in taken:
        candidate = (*name[:-1], f"{name[-1]}_{number}")
        number += 1
    taken.add(tuple(part.lower() for part in candidate))
    return candidate
