"""The quarantine on disk: Maildir++ folders that a mail program or an offline scanner can read, and sidecars.

Contract
    A message file holds the octets as received and is never changed. Its name carries the id, wherever an IMAP
    client moves it and whatever flags it adds: it is found by the id.
    It is written into tmp, synced, renamed into new, and the directory synced: whoever walks new and cur at any moment
    sees whole messages only.
    The sidecar (envelope, rule, findings) is durable before the message becomes visible; one without the other is
    either a hold that never finished (no message: nobody was told 250) or is shown with what the file tells.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from egressguard.store import durable
from egressguard.store.content import Content

ID = re.compile(r"[A-Z0-9]{8,40}")
_NAME = re.compile(r"\d{1,15}\.Q([A-Z0-9]{8,40})\.[^/]*")
FILE_MODE, FOLDER_MODE = 0o660, 0o2770


class HoldMaildir:
    """`root` is the Maildir itself; folders are its hidden subfolders, such as ".Infected"."""

    def __init__(self, root: Path, disk: type[durable.Disk] = durable.Disk) -> None:
        self.root = root
        self._disk = disk
        self._sidecars = root / "envelopes"
        self._sidecars.mkdir(parents=True, exist_ok=True)
        self._folders: set[str] = set()
        self._make_folder("", durable.Disk)

    def write(self, message_id: str, folder: str, content: Content, facts: Mapping[str, Any], now: float) -> Path:
        """Store a message durably. Raises ValueError for what is no id; OSError: nothing is held, or, on a disk that
        cannot even take it back, what the client will send again."""
        if not ID.fullmatch(message_id):
            raise ValueError("not a quarantine id")
        place = self._make_folder(folder, self._disk)
        self.write_facts(message_id, facts)
        name = f"{int(now)}.Q{message_id}.{_host()},S={content.size_octets}"
        (place / "tmp" / name).unlink(missing_ok=True)
        target = place / "new" / name
        try:
            durable.put(target, content.pieces(), temporary=place / "tmp" / name, mode=FILE_MODE, disk=self._disk)
        except OSError:
            with contextlib.suppress(OSError):  # nobody is told 250: it must not lie there as if it were held
                self._disk.unlink(target)
            raise
        return target

    def write_facts(self, message_id: str, facts: Mapping[str, Any]) -> None:
        """The sidecar, in place of an earlier one. Raises OSError."""
        path = self._sidecar(message_id)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)  # of a process that died here
        durable.put(path, json.dumps(facts).encode(), temporary=temporary, mode=FILE_MODE, disk=self._disk)

    def locate(self, message_id: str, hint: Path) -> Path | None:
        """The message's file: where it was last seen, or wherever it was moved to; None: it is gone."""
        if hint.exists():
            return hint
        near = (name for found, name in self._names_in(folder_of(hint)) if found == message_id)
        anywhere = (name for found, name in self.names() if found == message_id)
        name = next(near, None) or next(anywhere, None)
        return None if name is None else self.root / name

    def names(self) -> Iterator[tuple[str, str]]:
        """(id, path below the root) of every message held, in any folder. Text: there may be a hundred thousand."""
        for folder in ("", *sorted(path.name[1:] for path in self.root.glob(".*/"))):
            yield from self._names_in(folder)

    def _names_in(self, folder: str) -> Iterator[tuple[str, str]]:
        for part in (f".{folder}/new", f".{folder}/cur") if folder else ("new", "cur"):
            try:
                names = os.listdir(self.root / part)  # noqa: PTH208 -- names only, of many files
            except (FileNotFoundError, NotADirectoryError):
                continue
            for name in names:
                if match := _NAME.fullmatch(name):
                    yield match[1], f"{part}/{name}"

    def facts(self, message_id: str) -> dict[str, Any]:
        """What was noted when the message was held; {} when the sidecar is lost."""
        try:
            facts = json.loads(self._sidecar(message_id).read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def remove(self, message_id: str, path: Path) -> None:
        """Message first, sidecar after: a crash in between leaves nothing that looks held. Raises OSError."""
        try:
            self._disk.unlink(path)
        except FileNotFoundError:  # a mail program moved it meanwhile, or has expunged it
            if (there := self.locate(message_id, path)) is not None:
                self._disk.unlink(there)
                path = there
        durable.sync_directory(path.parent, self._disk)
        self.forget_facts(message_id)

    def forget_facts(self, message_id: str) -> None:
        self._sidecar(message_id).unlink(missing_ok=True)

    def _sidecar(self, message_id: str) -> Path:
        return self._sidecars / f"{message_id}.json"

    def _make_folder(self, folder: str, disk: type[durable.Disk]) -> Path:
        place = self.root / f".{folder}" if folder else self.root
        if folder in self._folders and (place / "new").is_dir():
            return place
        for part in ("tmp", "new", "cur"):
            (place / part).mkdir(parents=True, exist_ok=True)
        if folder and not (place / "maildirfolder").exists():
            (place / "maildirfolder").touch(mode=FILE_MODE)  # Maildir++: this is a subfolder
            for directory in (place, place / "tmp", place / "new", place / "cur"):
                directory.chmod(FOLDER_MODE)
        for directory in (place, self.root):
            durable.sync_directory(directory, disk)
        self._folders.add(folder)
        return place


def id_of(name: str) -> str | None:
    """The id in a file's name, None: it is not named as held messages are."""
    match = _NAME.fullmatch(name)
    return match[1] if match else None


def folder_of(path: Path) -> str:
    """The folder's name: ".../.Infected/new/x" -> "Infected"; "" for the Maildir itself."""
    name = path.parent.parent.name
    return name[1:] if name.startswith(".") else ""


def held_at(path: Path) -> int:
    """When the message was held: its name says so."""
    return int(path.name.partition(".")[0])


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "localhost"
