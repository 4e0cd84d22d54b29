"""Orders of people about held messages: written down before anything is done, so that a crash cannot halve one.

Contract
    An order that is written is carried out, now or after the next start, once; nothing else is done to its message
    until then. One file a message, durable before the first step and removed after the last.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from egressguard.quarantine.maildir import FILE_MODE, ID
from egressguard.store import durable

RELEASE, REJECT, DELETE, EXPIRE = "release", "reject", "delete", "expire"
VERBS = (RELEASE, REJECT, DELETE)
"""What people order; EXPIRE is the rules'."""


@dataclass(frozen=True, slots=True)
class Order:
    """`to`: somebody else instead of the recipients. `recipients`: release to these of them only, () = to all."""

    verb: str
    message_id: str
    by: str
    why: str = ""
    to: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ()


class OrderBook:
    def __init__(self, directory: Path, disk: type[durable.Disk] = durable.Disk) -> None:
        self._directory = directory
        self._disk = disk
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, order: Order) -> None:
        """Raises OSError: it does not stand, or, on a disk that cannot even take it back, is carried out later."""
        path = self._path(order.message_id)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.unlink(missing_ok=True)  # of a process that died here
        try:
            durable.put(path, _text(order), temporary=temporary, mode=FILE_MODE, disk=self._disk)
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one that matters
                self.withdraw(order.message_id)
            raise

    def read(self, message_id: str) -> Order | None:
        """The order that stands about this message. Raises OSError."""
        try:
            told: dict[str, Any] = json.loads(self._path(message_id).read_bytes())
        except FileNotFoundError:
            return None
        lists = {key: tuple(told.get(key, ())) for key in ("to", "recipients")}
        return Order(told["verb"], message_id, told["by"], told["why"], **lists)

    def standing(self) -> Iterator[str]:
        """Ids of messages that an order stands about."""
        for path in sorted(self._directory.glob("*.json")):
            if ID.fullmatch(path.stem):
                yield path.stem

    def done(self, message_id: str) -> None:
        """A crash may bring it back: then its message is gone, or the spool knows its source."""
        self._path(message_id).unlink(missing_ok=True)

    def withdraw(self, message_id: str) -> None:
        """Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            self._disk.unlink(self._path(message_id))
            durable.sync_directory(self._directory, self._disk)

    def _path(self, message_id: str) -> Path:
        return self._directory / f"{message_id}.json"


def _text(order: Order) -> bytes:
    return json.dumps(asdict(order)).encode()
