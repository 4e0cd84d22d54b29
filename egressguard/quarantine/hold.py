"""Hold, list, release exactly once, delete.

Contract
    `hold` returns when the message is durable; OSError otherwise, and then nothing is held.
    `release` puts the octets as they were into the spool under source "quarantine:ID", which stands there once for
    ever, and only then unlinks: a crash in between, or a second call, sends nothing twice.
    Every action is recorded with who did it.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge

from egressguard.mail.envelope import Envelope, RecipientOptions
from egressguard.mail.header import split_header_section
from egressguard.quarantine.maildir import HoldMaildir, folder_of
from egressguard.store import durable
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, Spool

SHOWN_HEADER_OCTETS = 8192
ACTIONS = ("hold", "release", "delete")

Record = Callable[[str, Mapping[str, object]], None]


class NotFound(Exception):
    """No such message is held (any more)."""


class Quarantine:
    """`released` is called after a release, to wake the queue."""

    def __init__(
        self,
        root: Path,
        spool: Spool,
        record: Record,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.time,
        disk: type[durable.Disk] = durable.Disk,
        released: Callable[[], None] = lambda: None,
    ) -> None:
        self._maildir = HoldMaildir(root, disk)
        self._spool = spool
        self._record = record
        self._clock = clock
        self._released = released
        self._acting = asyncio.Lock()
        self._messages = Gauge(
            "egressguard_quarantine_messages", "Messages held, by folder.", ["folder"], registry=registry
        )
        self._size = Gauge("egressguard_quarantine_size_bytes", "Octets of the messages held.", registry=registry)
        self._actions = Counter(
            "egressguard_quarantine_actions_total",
            "Messages held, released and deleted.",
            ["action"],
            registry=registry,
        )
        for action in ACTIONS:
            self._actions.labels(action)

    async def hold(self, queue_id: str, folder: str, content: Content, facts: Mapping[str, Any]) -> None:
        """Store a message that a rule holds; `facts` are relay.held's. Raises OSError."""
        await asyncio.to_thread(self._maildir.write, queue_id, folder, content, facts, self._clock())
        self._note("hold", queue_id, {"rule": facts["rule"], "folder": folder, "findings": facts["findings"]})

    async def rows(self) -> list[dict[str, Any]]:
        """Every held message, the oldest first."""
        return await asyncio.to_thread(self._rows)

    async def show(self, message_id: str) -> dict[str, Any]:
        """One held message with the beginning of its header section. Raises NotFound."""
        path = await self._find(message_id)
        content = Content(file=path, file_octets=SHOWN_HEADER_OCTETS)
        section, _ = split_header_section(await asyncio.to_thread(content.head, SHOWN_HEADER_OCTETS))
        shown = section.decode("utf-8", "replace")
        return self._row(message_id, path) | {"header_section": shown, "file": str(path)}

    async def release(self, message_id: str, by: str) -> dict[str, Any]:
        """Send a held message on. Raises NotFound, SpoolFull, SpoolBroken."""
        async with self._acting:
            path = await self._find(message_id)
            facts = self._maildir.facts(message_id)
            if not facts.get("forward_paths"):
                raise NotFound(f"{message_id}: its envelope is lost, so nobody knows whom it is for; see {path}")
            content = await asyncio.to_thread(_content_of, path)
            queue_id = await self._spool.put(self._message(message_id, facts, content))
            await asyncio.to_thread(self._maildir.remove, message_id, path)
        self._note("release", message_id, {"by": by, "sender": facts["reverse_path"]})
        self._released()
        return {"released": message_id, "queue_id": queue_id, "recipients": facts["forward_paths"]}

    async def delete(self, message_id: str, by: str) -> dict[str, Any]:
        """Raises NotFound."""
        async with self._acting:
            path = await self._find(message_id)
            await asyncio.to_thread(self._maildir.remove, message_id, path)
        self._note("delete", message_id, {"by": by})
        return {"deleted": message_id}

    async def measure(self) -> None:
        """Bring the gauges up to date."""
        tally, size = await asyncio.to_thread(self._measure)
        self._messages.clear()
        for folder, count in tally.items():
            self._messages.labels(folder).set(count)
        self._size.set(size)

    def _measure(self) -> tuple[Tally[str], int]:
        tally: Tally[str] = Tally({"Infected": 0, "Denied": 0, "Ambiguous": 0, "Held": 0})
        size = 0
        for _, path in self._maildir.files():
            try:
                size += path.stat().st_size
            except FileNotFoundError:
                continue
            tally[folder_of(path) or "Inbox"] += 1
        return tally, size

    async def _find(self, message_id: str) -> Path:
        try:
            path = await asyncio.to_thread(self._maildir.find, message_id)
        except ValueError:
            path = None
        if path is None:
            raise NotFound(f"no held message {message_id!r:.60}; it may have been released or deleted already")
        return path

    def _rows(self) -> list[dict[str, Any]]:
        rows = [self._row(message_id, path) for message_id, path in self._maildir.files()]
        return sorted(rows, key=lambda row: (row["held_at"], row["id"]))

    def _row(self, message_id: str, path: Path) -> dict[str, Any]:
        facts = self._maildir.facts(message_id)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = 0
        return {
            "id": message_id,
            "held_at": int(path.name.partition(".")[0]),
            "folder": folder_of(path),
            "rule": facts.get("rule", ""),
            "sender": facts.get("reverse_path", ""),
            "recipients": facts.get("forward_paths", []),
            "findings": facts.get("findings", []),
            "client": facts.get("client", ""),
            "user": facts.get("user"),
            "size_octets": size,
        }

    def _message(self, message_id: str, facts: Mapping[str, Any], content: Content) -> NewMessage:
        envelope = Envelope(
            facts["reverse_path"],
            tuple(facts["forward_paths"]),
            smtputf8=bool(facts.get("smtputf8")),
            body_8bit=bool(facts.get("body_8bit")),
            ret=facts.get("ret"),
            envid=facts.get("envid"),
            requiretls=bool(facts.get("requiretls")),
            binary=bool(facts.get("binary")),
            recipients=_options_of(facts.get("options", {})),
        )
        return NewMessage(
            queue_id=message_id,
            envelope=envelope,
            content=content,
            received_at=self._clock(),
            client=str(facts.get("client", "")),
            listener=str(facts.get("listener", "")),
            user=facts.get("user"),
            rule=f"released:{facts.get('rule', '')}",
            source_id=f"quarantine:{message_id}",
            tags=tuple(facts.get("tags", ())),
            via={path: tuple(names) for path, names in facts.get("via", {}).items()},
            verdict=str(facts.get("verdict", "")),
        )

    def _note(self, action: str, message_id: str, fields: Mapping[str, object]) -> None:
        self._actions.labels(action).inc()
        self._record(f"quarantine.{action}", {"queue_id": message_id, **fields})


def _options_of(facts: Mapping[str, Any]) -> dict[str, RecipientOptions]:
    return {
        path: RecipientOptions(None if notify is None else tuple(notify), orcpt)
        for path, (notify, orcpt) in facts.items()
    }


def _content_of(path: Path) -> Content:
    """The file as it lies there. Raises OSError."""
    file = Content(file=path, file_octets=path.stat().st_size)
    return replace(file, is_ascii=all(piece.isascii() for piece in file.pieces()))
