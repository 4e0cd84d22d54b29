"""The quarantine on disk: Maildir++ folders that a mail program or an offline scanner can read, and sidecars.

Contract
    A message file holds the octets as received and is never changed. Its name carries the id, wherever an IMAP
    client moves it and whatever flags it adds: it is found by the id.
    The sidecar (envelope, rule, findings) is durable before the message becomes visible; one without the other is
    either a hold that never finished (no message: nobody was told 250) or is shown with what the file tells.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from egressguard.store import durable
from egressguard.store.content import Content

ID = re.compile(r"[A-Z0-9]{8,40}")
_NAME = re.compile(r"\d+\.Q([A-Z0-9]{8,40})\.[^/]*")
FILE_MODE, FOLDER_MODE = 0o660, 0o2770


class HoldMaildir:
    """`root` is the Maildir itself; folders are its hidden subfolders, such as ".Infected"."""

    def __init__(self, root: Path, disk: type[durable.Disk] = durable.Disk) -> None:
        self._root = root
        self._disk = disk
        self._sidecars = root / "envelopes"
        self._sidecars.mkdir(parents=True, exist_ok=True)
        self._make_folder("")

    def write(self, message_id: str, folder: str, content: Content, facts: Mapping[str, Any], now: float) -> Path:
        """Store a message durably; a second write of the same id changes nothing. Raises OSError."""
        if (existing := self.find(message_id)) is not None:
            return existing
        place = self._make_folder(folder)
        self._sidecar(message_id).unlink(missing_ok=True)
        durable.put(self._sidecar(message_id), json.dumps(facts).encode(), mode=FILE_MODE, disk=self._disk)
        name = f"{int(now)}.Q{message_id}.{_host()}"
        (place / "tmp" / name).unlink(missing_ok=True)
        target = place / "new" / name
        durable.put(target, content.pieces(), temporary=place / "tmp" / name, mode=FILE_MODE, disk=self._disk)
        return target

    def find(self, message_id: str) -> Path | None:
        """The message's file, or None. Raises ValueError for what is no id."""
        if not ID.fullmatch(message_id):
            raise ValueError("not a quarantine id")
        return next((path for found, path in self.files() if found == message_id), None)

    def files(self) -> Iterator[tuple[str, Path]]:
        """(id, file) of every message held, in any folder."""
        for folder in (self._root, *sorted(self._root.glob(".*/"))):
            for part in ("new", "cur"):
                try:
                    paths = sorted((folder / part).iterdir())
                except FileNotFoundError:
                    continue
                for path in paths:
                    if match := _NAME.fullmatch(path.name):
                        yield match[1], path

    def facts(self, message_id: str) -> dict[str, Any]:
        """What was noted when the message was held; {} when the sidecar is lost."""
        try:
            facts = json.loads(self._sidecar(message_id).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def remove(self, message_id: str, path: Path) -> None:
        """Message first, sidecar after: a crash in between leaves nothing that looks held."""
        path.unlink(missing_ok=True)
        durable.sync_directory(path.parent, self._disk)
        self._sidecar(message_id).unlink(missing_ok=True)

    def _sidecar(self, message_id: str) -> Path:
        return self._sidecars / f"{message_id}.json"

    def _make_folder(self, folder: str) -> Path:
        place = self._root / f".{folder}" if folder else self._root
        for part in ("tmp", "new", "cur"):
            (place / part).mkdir(parents=True, exist_ok=True)
        if folder and not (place / "maildirfolder").exists():
            (place / "maildirfolder").touch(mode=FILE_MODE)  # Maildir++: this is a subfolder
            for directory in (place, place / "tmp", place / "new", place / "cur"):
                directory.chmod(FOLDER_MODE)
        return place


def folder_of(path: Path) -> str:
    """The folder's name: ".../.Infected/new/x" -> "Infected"; "" for the Maildir itself."""
    name = path.parent.parent.name
    return name[1:] if name.startswith(".") else ""


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()) or "localhost"
