"""What one backup holds: a list of files with their digests, one JSON object a line, gzipped.

Contract
    A manifest is there whole or not at all, and only after all its objects. Its last line counts the others: one that
    was cut is refused. Paths are relative, without "..": nothing in a manifest leads out of where it is restored.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from egressguard.store.durable import put, sync_directory

SCHEMA = 1
_NAME = re.compile(r"\d{8}T\d{6}Z(?:-\d+)?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LINE_OCTETS = 64 * 1024


class BackupError(Exception):
    """This backup cannot be used, or not for that; the message says why."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file (`digest`) or a directory ("" = none). `inode`, `ctime_ns`: to see next time whether it changed.

    `path` may have any octets (surrogates); `owner` and `group` are names."""

    path: str
    digest: str
    size: int
    mode: int
    owner: str
    group: str
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0


class Manifests:
    """In `root`, the newest last. Raises OSError, BackupError."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self) -> list[str]:
        found = (path.name.removesuffix(".jsonl.gz") for path in self._root.glob("*.jsonl.gz"))
        return sorted((name for name in found if _NAME.fullmatch(name)), key=_order)

    def write(self, name: str, entries: Iterable[Entry]) -> str:
        """Return the name it has: a second one of one second gets a number."""
        taken, number = set(self.names()), 1
        chosen = name
        while chosen in taken:
            number += 1
            chosen = f"{name}-{number}"
        temporary = self._root / ".new"
        temporary.unlink(missing_ok=True)
        put(self._path(chosen), gzip.compress(_text(entries), 5), temporary=temporary)
        return chosen

    def read(self, name: str) -> Iterator[Entry]:
        """Raises BackupError: there is none, or it is damaged."""
        count = -1
        try:
            with gzip.open(self._path(name), "rt", encoding="utf-8") as file:
                for line in iter(lambda: file.readline(_LINE_OCTETS), ""):
                    told = json.loads(line)
                    if count == -1:
                        _check_head(told, name)
                    elif "entries" in told:
                        if told["entries"] != count:
                            break
                        return
                    else:
                        yield _checked(Entry(**told))
                    count += 1
        except FileNotFoundError:
            raise BackupError(
                f"there is no backup {name!r:.60}; there are {', '.join(self.names()) or 'none'}"
            ) from None
        except (OSError, EOFError, ValueError, TypeError, AttributeError) as wrong:
            raise BackupError(f"the list of backup {name} is damaged: {wrong}") from wrong
        raise BackupError(f"the list of backup {name} is not whole")

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        sync_directory(self._root)

    def _path(self, name: str) -> Path:
        return self._root / f"{name}.jsonl.gz"


def _text(entries: Iterable[Entry]) -> bytes:
    lines = [json.dumps({"schema": SCHEMA})]
    lines += [json.dumps(asdict(entry)) for entry in entries]
    lines.append(json.dumps({"entries": len(lines) - 1}))
    return "".join(f"{line}\n" for line in lines).encode()


def _check_head(told: dict[str, object], name: str) -> None:
    if told.get("schema") != SCHEMA:
        raise BackupError(f"backup {name} is of another program version (schema {told.get('schema')!r:.20})")


def _checked(entry: Entry) -> Entry:
    parts = entry.path.split("/")
    if not entry.path or entry.path.startswith("/") or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"no path of a backup: {entry.path[:80]!r}")
    if "\0" in entry.path or (entry.digest and not _DIGEST.fullmatch(entry.digest)):
        raise ValueError(f"no entry of a backup: {entry.path[:80]!r}")
    return entry


def _order(name: str) -> tuple[str, int]:
    time, _, number = name.partition("-")
    return time, int(number or 1)
