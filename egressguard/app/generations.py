"""The policies that were applied here, on disk: what is confirmed, what is tried, what was rolled back.

    STATE/policy/generations/REVISION/   rules/..., provenance.json, ruleset.nft: one that was saved whole
    STATE/policy/confirmed.json          {"revision", "at", "history"}: what a restart comes back to
    STATE/policy/pending.json            {"revision", "since", "deadline"}: tried and not confirmed
    STATE/policy/refused.json            {REVISION: why}: rolled back; only a new `apply` takes it again

Contract
    Each step is one durable rename: a crash between two steps leaves the state before or after one, never half.
    What is pending is never what a restart takes. `deadline` and `since` are seconds since 1970.
    `step` is called before each change on disk, with its name: tests end the process there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egressguard.app.provenance import Provenance, read_provenance, write_provenance
from egressguard.app.rules import write_snapshot
from egressguard.store.durable import put, sync_directory

KEPT = 10
KEPT_REFUSED = 50
RULESET = "ruleset.nft"


@dataclass(frozen=True, slots=True)
class Pending:
    revision: str
    since: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Confirmed:
    """`history` has the revisions confirmed before, the latest last."""

    revision: str
    at: float
    history: tuple[str, ...] = ()


def _nothing(_step: str) -> None:
    pass


class Generations:
    def __init__(self, directory: Path, step: Callable[[str], object] = _nothing) -> None:
        self._directory = directory
        self._step = step

    def rules(self, revision: str) -> Path:
        """The rules directory of a saved generation."""
        return self._folder(revision) / "rules"

    def provenance(self, revision: str) -> Provenance:
        return read_provenance(self._folder(revision) / "provenance.json", self.rules(revision))

    def ruleset(self, revision: str) -> str:
        """The text that was loaded into the kernel for it; "" when none was."""
        try:
            return (self._folder(revision) / RULESET).read_text()
        except OSError:
            return ""

    def has(self, revision: str) -> bool:
        return self.rules(revision).is_dir()

    def confirmed(self) -> Confirmed | None:
        found = self._read("confirmed.json")
        with contextlib.suppress(KeyError, TypeError, ValueError):
            one = Confirmed(str(found["revision"]), float(found["at"]), tuple(map(str, found["history"])))
            return one if self.has(one.revision) else None
        return None

    def pending(self) -> Pending | None:
        found = self._read("pending.json")
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return Pending(str(found["revision"]), float(found["since"]), float(found["deadline"]))
        return None

    def refused(self) -> dict[str, str]:
        """Revision -> why it was rolled back."""
        return {str(key): str(value) for key, value in self._read("refused.json").items()}

    def save(self, revision: str, files: Mapping[str, bytes], source: Path, found: Provenance) -> None:
        """Keep a policy whole: its files (below `source`) and where it comes from."""
        if self.has(revision):
            return
        self._step("save")
        fresh = self._folder(f".{revision}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True, mode=0o750)
        write_snapshot(files, source, fresh / "rules")
        write_provenance(found, fresh / "provenance.json")
        _sync_tree(fresh)
        fresh.rename(self._folder(revision))
        sync_directory(self._folder(revision).parent)

    def save_ruleset(self, revision: str, text: str) -> None:
        self._step("save-ruleset")
        put(self._folder(revision) / RULESET, text.encode(), mode=0o640)

    def begin(self, revision: str, now: float, deadline: float) -> None:
        """From here on a crash leads back to what is confirmed."""
        self._step("begin")
        self._write("pending.json", asdict(Pending(revision, now, deadline)))

    def prolong(self, pending: Pending, deadline: float) -> None:
        self._write("pending.json", asdict(Pending(pending.revision, pending.since, deadline)))

    def confirm(self, revision: str, now: float) -> None:
        """`revision` is what a restart comes back to; one of the history takes what came after it out."""
        before = self.confirmed()
        history = before.history if before else ()
        if revision in history:
            history = history[: history.index(revision)]
        elif before is not None and before.revision != revision:
            history = (*history, before.revision)
        self._step("confirm")
        kept = list(history)[-KEPT:]
        self._write("confirmed.json", {"revision": revision, "at": now, "history": kept})
        self._step("forget-pending")
        self._remove("pending.json")
        refused = self.refused()
        if refused.pop(revision, None) is not None:
            self._write("refused.json", refused)
        self._prune(revision, kept)

    def refuse(self, revision: str, why: str) -> None:
        """Rolled back: `revision` is not taken again by a restart."""
        refused = self.refused()
        refused.pop(revision, None)
        kept = dict([*refused.items(), (revision, why)][-KEPT_REFUSED:])
        self._step("refuse")
        self._write("refused.json", kept)
        self._step("forget-pending")
        self._remove("pending.json")

    def _folder(self, name: str) -> Path:
        return self._directory / "generations" / name

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self._directory / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        put(self._directory / name, json.dumps(value).encode(), mode=0o640)

    def _remove(self, name: str) -> None:
        (self._directory / name).unlink(missing_ok=True)
        sync_directory(self._directory)

    def _prune(self, confirmed: str, history: list[str]) -> None:
        for folder in (self._directory / "generations").iterdir():
            if folder.name not in {confirmed, *history}:
                shutil.rmtree(folder, ignore_errors=True)


def _sync_tree(top: Path) -> None:
    for folder, _, names in os.walk(top):
        for name in names:
            with (Path(folder) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(Path(folder))
