"""Bring back what a backup has: everything, one mailbox, one message.

Contract
    Nothing that is there is ever replaced or removed: everything is restored into an empty place only, a mailbox and a
    message beside what is there. What comes back whole has its UIDs; what comes into a folder that is there, new ones.
    Each file is compared with its digest while it is written; one that differs stops the restore, by name.
    Killed anywhere, the same restore goes on: no message comes twice.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from egressguard.mailbox.backup.collect import SPOOL
from egressguard.mailbox.backup.looking import LOOKS, PARTS, all_in, look
from egressguard.mailbox.backup.manifest import BackupError, Entry
from egressguard.mailbox.backup.objects import Objects
from egressguard.mailbox.takeover.directory import Directory
from egressguard.mailbox.takeover.uid_lists import base_of
from egressguard.store.durable import sync_directory

Tick = Callable[[int], object]
_QUEUE_ID = re.compile(r"\.Q([A-Za-z0-9_-]{1,40})\.")


class Occupied(Exception):
    """Something is there already; the message says what."""


@dataclass(slots=True)
class Restored:
    files: int = 0
    octets: int = 0
    with_uids: int = 0
    as_new: int = 0
    there: int = 0


def restore_all(objects: Objects, entries: Iterable[Entry], state: Path, tick: Tick, *, with_spool: bool) -> Restored:
    """Everything into a state directory that has none of it. Raises BackupError, Occupied, OSError."""
    wanted = [entry for entry in entries if with_spool or entry.path.partition("/")[0] != SPOOL]
    tops = list(dict.fromkeys(entry.path.partition("/")[0] for entry in wanted))
    occupied = [top for top in tops if _has_files(state / top)]
    if occupied:
        raise Occupied(f"{state} has {', '.join(occupied)} already")
    staging = state / ".restore"
    restored = Restored()
    if staging.exists():
        shutil.rmtree(staging)  # of a run that was killed
    staging.mkdir(mode=0o700, parents=True)
    _write(objects, wanted, staging, tick, restored)
    for top in tops:
        if (state / top).exists():
            shutil.rmtree(state / top)  # directories without a file
        (staging / top).rename(state / top)
    sync_directory(state)
    staging.rmdir()
    restored.with_uids = sum(1 for entry in wanted if _is_message(entry))
    return restored


def restore_mailbox(objects: Objects, entries: Iterable[Entry], state: Path, account: str, tick: Tick) -> Restored:
    """One account's mailbox: whole where there is none, else what it lacks. Raises as `restore_all` does."""
    top = f"mailboxes/{account}"
    wanted = [entry for entry in entries if entry.path == top or entry.path.startswith(f"{top}/")]
    if not wanted:
        raise BackupError(f"this backup has no mailbox of {account!r:.80}")
    place, restored = state / top, Restored()
    staging = _staging(state)
    _write(objects, wanted, staging, tick, restored)
    tree = staging / top
    if not _has_files(place):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(place)
        tree.rename(place)
        sync_directory(place.parent)
        restored.with_uids = sum(1 for entry in wanted if _is_message(entry))
    else:
        _add(tree, place, restored)
    shutil.rmtree(staging)
    return restored


def restore_message(
    objects: Objects, entries: Iterable[Entry], state: Path, wanted: str, tick: Tick, account: str | None = None
) -> Restored:
    """One message, by its file's base name or its queue id, into its folder; a held one with its envelope.

    Raises as `restore_all` does."""
    listed = list(entries)
    found = [entry for entry in listed if _is_message(entry) and _means(entry, wanted, account)]
    if not found:
        raise BackupError(f"this backup has no message {wanted!r:.80}")
    if len(found) > 1:
        raise BackupError(f"{wanted!r:.80} is {len(found)} messages: " + ", ".join(entry.path for entry in found[:5]))
    [entry] = found
    restored, staging = Restored(), _staging(state)
    held = _QUEUE_ID.search(entry.path) if entry.path.startswith("quarantine/") else None
    sidecar = f"quarantine/envelopes/{held[1]}.json" if held else None
    _write(objects, [one for one in listed if one in found or one.path == sidecar], staging, tick, restored)
    if sidecar and (staging / sidecar).exists() and not (state / sidecar).exists():
        (state / sidecar).parent.mkdir(parents=True, exist_ok=True)
        (staging / sidecar).rename(state / sidecar)  # first: a message without its envelope is half
        sync_directory((state / sidecar).parent)
    folder = Path(entry.path).parent.parent
    _add_folder(staging / folder, state / folder, _digests(state / folder), restored)
    shutil.rmtree(staging)
    return restored


def _staging(state: Path) -> Path:
    staging = state / ".restore"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(mode=0o700, parents=True)
    return staging


def _write(objects: Objects, entries: Iterable[Entry], root: Path, tick: Tick, restored: Restored) -> None:
    as_root = os.geteuid() == 0
    made: list[tuple[Path, Entry]] = []
    for entry in entries:
        path = root / entry.path
        if not entry.digest:
            path.mkdir(parents=True, exist_ok=True)
            made.append((path, entry))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_file(objects, entry, path, as_root=as_root)
        restored.files += 1
        restored.octets += entry.size
        tick(entry.size)
    for path, entry in reversed(made):
        _own(path, entry, as_root=as_root)
    _sync_tree(root)


def _write_file(objects: Objects, entry: Entry, path: Path, *, as_root: bool) -> None:
    digest = hashlib.sha256()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        for piece in objects.pieces(entry.digest):
            digest.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
        _own(fd, entry, as_root=as_root)
    except FileNotFoundError:
        raise BackupError(f"{entry.path}: its content is missing in the backup") from None
    finally:
        os.close(fd)
    if digest.hexdigest() != entry.digest:
        raise BackupError(f"{entry.path}: its content in the backup is damaged")


def _own(path: Path | int, entry: Entry, *, as_root: bool) -> None:
    if as_root:
        os.chown(path, _number(entry.owner, "user"), _number(entry.group, "group"))
    os.chmod(path, entry.mode)  # noqa: PTH101 -- may be a descriptor
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def _number(name: str, kind: str) -> int:
    """The id here of a user or group there; a name that is not known here leaves it as it is."""
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        return int(name) if name.isdigit() else -1


def _sync_tree(root: Path) -> None:
    """All below `root` on stable storage."""
    for folder, _, files in os.walk(root):
        for name in files:
            fd = os.open(Path(folder) / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        sync_directory(Path(folder))


def _add(tree: Path, place: Path, restored: Restored) -> None:
    """What a mailbox lacks of the one that was. A message is known by its octets, wherever it was moved to."""
    here: Counter[str] = Counter()
    for folder in _maildirs(place):
        here += _digests(folder)
    for folder in _maildirs(tree):
        _add_folder(folder, place / folder.relative_to(tree), here, restored)


def _add_folder(folder: Path, place: Path, here: Counter[str], restored: Restored) -> None:
    for name, digest in list(_files_with_digests(folder)):
        if here[digest]:
            here[digest] -= 1
            restored.there += 1
            (folder / name).unlink()
    if not place.exists() and (folder / "cur").exists() and (folder / "new").exists():
        restored.with_uids += sum(1 for _ in _files_with_digests(folder))
        folder.rename(place)
        sync_directory(place.parent)
        return
    for part in ("new", "cur"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "tmp").mkdir(exist_ok=True)
    for name, _ in list(_files_with_digests(folder)):
        base, _, flags = Path(name).name.partition(":2,")
        kept = "".join(c for c in flags if c.isupper())  # letters of keywords may mean others now
        target = place / ("cur" if kept else "new") / (f"{base}:2,{kept}" if kept else base)
        number = 1
        while target.exists() or any((place / part / base).exists() for part in ("new", "cur")):
            base, number = f"{base_of(Path(name).name)}.{number}", number + 1
            target = place / ("cur" if kept else "new") / (f"{base}:2,{kept}" if kept else base)
        (folder / name).rename(target)
        restored.as_new += 1
    for part in ("new", "cur"):
        sync_directory(place / part)


def _digests(folder: Path) -> Counter[str]:
    return Counter(digest for _, digest in _files_with_digests(folder))


def _files_with_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Of a folder that mail programs work in, perhaps: what they move meanwhile is found again."""
    with contextlib.ExitStack() as opened:
        parts: dict[str, Directory] = {}
        for part in PARTS:
            with contextlib.suppress(FileNotFoundError):
                parts[part] = opened.enter_context(Directory.opened(folder / part))
        waiting = all_in(parts)
        for _ in range(LOOKS):
            moved = []
            for base, (part, name) in waiting.items():
                try:
                    with (folder / part / name).open("rb") as file:
                        yield f"{part}/{name}", hashlib.file_digest(file, "sha256").hexdigest()
                except FileNotFoundError:
                    moved.append(base)
            seen = look(parts) if moved else {}
            waiting = {base: seen[base] for base in moved if base in seen}


def _maildirs(root: Path) -> list[Path]:
    return [root, *sorted(path for path in root.glob(".*/") if (path / "cur").is_dir() and not path.is_symlink())]


def _is_message(entry: Entry) -> bool:
    return bool(entry.digest) and entry.path.split("/")[-2:-1] in (["new"], ["cur"])


def _means(entry: Entry, wanted: str, account: str | None) -> bool:
    if account is not None and not entry.path.startswith(f"mailboxes/{account}/"):
        return False
    base = base_of(entry.path.rpartition("/")[2])
    found = _QUEUE_ID.search(base)
    return wanted in {base, found[1] if found else None, entry.path}


def _has_files(path: Path) -> bool:
    """Whether there is anything in it but directories."""
    return any(files for _, _, files in os.walk(path))
