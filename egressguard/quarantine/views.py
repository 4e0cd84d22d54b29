"""What mail programs see of the quarantine: Maildirs of hard links, one for all admins and one an account.

Contract
    The quarantine's own Maildir is never shown. Whatever a mail program does in a view (flags, MOVE, EXPUNGE) it does
    to a link; the message stays held. Losing a view loses nothing: `rebuild` makes it anew.
    `show` links a message into the views where it belongs; what no longer belongs there is noted by `hide` and
    taken out by `sweep`. `rebuild` makes every view exactly what `belongs` says.
    Nobody waits for a `rebuild`: what `show` and `hide` say meanwhile is done at its end.
    An account's view has a folder for each order beside what it shows. What lies there is nobody's business here.
    Blocking, from any thread; raises OSError.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from egressguard.mailbox.maildir import FILE_MODE, make_maildir
from egressguard.quarantine.index import Held
from egressguard.quarantine.maildir import id_of

ALL, OWN = "all", "own"
ORDER_FOLDERS = ("Release", "Delete")
_PARTS = ("new", "cur")


@dataclass(frozen=True, slots=True)
class Shown:
    """Who sees anything: `accounts` have a view of their own with `folders`; `all_folders` are the admins'."""

    accounts: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()
    everything: bool = False
    all_folders: tuple[str, ...] = ()


@dataclass(slots=True)
class _Views:
    """Folder (below the root) -> the ids that belong there, and where each message lies."""

    wanted: dict[str, dict[str, Path]] = field(default_factory=dict)

    def add(self, held: Held, belongs: Iterable[str]) -> None:
        for folder in belongs:
            self.wanted.setdefault(folder, {})[held.message_id] = held.path


class Views:
    """`root` is a directory below the quarantine: links do not leave a file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._late: deque[Callable[[], None]] = deque()
        self._hidden: dict[str, set[str]] = {}
        self._shown = Shown()

    def show(self, held: Held, owners: Iterable[str]) -> None:
        """Link a message into the views where it belongs."""
        self._soon(partial(self._show, held, tuple(owners)))

    def _show(self, held: Held, owners: Iterable[str]) -> None:
        for folder in self._belongs(held.folder, owners):
            self._hidden.get(folder, set()).discard(held.message_id)
            self._link(folder, held.path)

    def hide(self, message_id: str, folder: str, owners: Iterable[str], *, everywhere: bool) -> None:
        """Take a message out of these owners' views, and out of the admins' where it is gone `everywhere`."""
        self._soon(partial(self._hide, message_id, folder, tuple(owners), everywhere=everywhere))

    def _hide(self, message_id: str, folder: str, owners: Iterable[str], *, everywhere: bool) -> None:
        for place in self._belongs(folder, owners):
            if everywhere or not place.startswith(f"{ALL}/"):
                self._hidden.setdefault(place, set()).add(message_id)

    def _soon(self, change: Callable[[], None]) -> None:
        """Now, or when whoever is at work is done; at the latest with the next sweep."""
        self._late.append(change)
        if self._lock.acquire(blocking=False):
            try:
                self._catch_up()
            finally:
                self._lock.release()

    def _catch_up(self) -> None:
        while self._late:  # only who has the lock takes from it
            self._late.popleft()()

    def sweep(self) -> int:
        """Take out what was hidden; return how many links went."""
        with self._lock:
            self._catch_up()
            hidden, self._hidden = self._hidden, {}
            return sum(self._take_out(folder, ids) for folder, ids in hidden.items())

    def rebuild(self, shown: Shown, messages: Iterable[tuple[Held, Iterable[str]]]) -> int:
        """Make every view what it has to be; return how many links were put or taken away."""
        with self._lock:
            self._shown, self._hidden = shown, {}
            self._make_directories()
            views = _Views({folder: {} for folder in self._folders()})
            for held, owners in messages:
                views.add(held, self._belongs(held.folder, owners))
            changed = sum(self._bring_up_to_date(folder, wanted) for folder, wanted in views.wanted.items())
            self._catch_up()
            return changed

    def orders(self, account: str) -> Iterator[tuple[str, Path]]:
        """(order folder, file) of what lies in an account's order folders."""
        for order in ORDER_FOLDERS:
            for part in _PARTS:
                directory = self.root / OWN / account / f".{order}" / part
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    yield from ((order, directory / name) for name in sorted(os.listdir(directory)))  # noqa: PTH208

    def settled(self, path: Path) -> None:
        """An order's file goes."""
        path.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the whole view is gone
            _make_dovecot_look(path.parent.parent)

    def accounts(self) -> list[str]:
        """Who has a view."""
        return _names(self.root / OWN)

    # What belongs where.

    def _belongs(self, folder: str, owners: Iterable[str]) -> Iterator[str]:
        if self._shown.everything:
            yield f"{ALL}/.{folder}"
        yield from (f"{OWN}/{account}/.{folder}" for account in owners if account in self._shown.accounts)

    def _folders(self) -> Iterator[str]:
        """All folders that show something, there or still to be made."""
        if self._shown.everything:
            there = {name[1:] for name in _names(self.root / ALL) if name.startswith(".")}
            yield from (f"{ALL}/.{folder}" for folder in sorted(there | set(self._shown.all_folders)))
        for account in sorted(self._shown.accounts):
            there = {name[1:] for name in _names(self.root / OWN / account) if name.startswith(".")}
            folders = there - set(ORDER_FOLDERS) | set(self._shown.folders)
            yield from (f"{OWN}/{account}/.{folder}" for folder in sorted(folders))

    # Links.

    def _link(self, folder: str, source: Path) -> None:
        self._make_folder(folder)
        name = source.name.partition(":")[0]
        with contextlib.suppress(FileExistsError):
            try:
                os.link(source, self.root / folder / "new" / name)
            except FileNotFoundError:  # it is gone, or was moved: whoever does that tells of it, too
                return

    def _bring_up_to_date(self, folder: str, wanted: Mapping[str, Path]) -> int:
        self._make_folder(folder)
        there = set(self._ids_in(folder))
        missing = wanted.keys() - there
        for message_id in missing:
            self._link(folder, wanted[message_id])
        return len(missing) + self._take_out(folder, there - wanted.keys())

    def _take_out(self, folder: str, ids: set[str]) -> int:
        taken = 0
        for part in _PARTS if ids else ():
            for name in _names(self.root / folder / part):
                if id_of(name) in ids:
                    (self.root / folder / part / name).unlink(missing_ok=True)
                    taken += 1
        if taken:
            _make_dovecot_look(self.root / folder)
        return taken

    def _ids_in(self, folder: str) -> Iterator[str]:
        for part in _PARTS:
            yield from filter(None, map(id_of, _names(self.root / folder / part)))

    # Directories.

    def _make_directories(self) -> None:
        _make_directory(self.root)
        for kind in (ALL, OWN):
            _make_directory(self.root / kind)
        if not self._shown.everything:
            _empty(self.root / ALL)
        for account in set(self.accounts()) - self._shown.accounts:
            shutil.rmtree(self.root / OWN / account)
        for account in self._shown.accounts:
            _make_directory(self.root / OWN / account)
            for order in ORDER_FOLDERS:
                self._make_folder(f"{OWN}/{account}/.{order}")

    def _make_folder(self, folder: str) -> None:
        place = self.root / folder
        if (place / "maildirfolder").exists():
            return
        make_maildir(place)
        (place / "maildirfolder").touch(mode=FILE_MODE)  # Maildir++: this is a subfolder


def _make_dovecot_look(folder: Path) -> None:
    """A file that goes from new/ may just have moved to cur/: Dovecot sees that it is gone when cur/ changes, too."""
    os.utime(folder / "cur")


def _make_directory(path: Path) -> None:
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        path.chmod(0o2770)


def _empty(directory: Path) -> None:
    for name in _names(directory):
        shutil.rmtree(directory / name)


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)  # noqa: PTH208 -- names only, of many files
    except (FileNotFoundError, NotADirectoryError):
        return []
