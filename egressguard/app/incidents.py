"""Mail that was let through and is now known to be malware: what has to be told, to the journal and to Prometheus.

Contract
    An incident is raised once for each finding that is new: what was infected before is no news.
    `incident.delivered_malware`: it lies in a mailbox. `incident.relayed_malware`: the journal says that it left, by
    its queue id: the one in its file name, in our trace field, or of a message with the same Message-ID (as in Sent).
    What is held and never left is no incident.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egressguard.app.children import SMTPD
from egressguard.app.places import Places
from egressguard.mail.header import split_header_section
from egressguard.policy.routes import LOCAL
from egressguard.scan.rescan import Row
from egressguard.store.journal import Journal, find_messages, read_life

RELAYED, DELIVERED = "relayed_malware", "delivered_malware"
KINDS = (RELAYED, DELIVERED)
JOURNAL = "rescan"
"""The journal that a scan writes itself, when no scan role answers."""
INFECTED = "infected"
MAX_ROWS = 100_000
_MAX_RECIPIENTS, _MAX_IDS = 20, 10
_HEAD_OCTETS = 32 * 1024
_IN_NAME = re.compile(r"\d+\.Q([A-Za-z0-9_-]{1,40})\.")
_IN_TRACE = re.compile(rb"(?mi)^Received:[^\n]*(?:\r?\n[ \t][^\n]*)*?\sid\s+([A-Za-z0-9_-]{8,40})\b")
_MESSAGE_ID = re.compile(rb"(?mi)^Message-ID:\s*(<[\x21-\x7e]{1,250}>)")


@dataclass(frozen=True, slots=True)
class Incident:
    """`fields` are for the journal."""

    kind: str
    fields: dict[str, Any]


def incidents_of(row: Row, places: Places, now: float) -> Iterator[Incident]:
    """What this newly judged message means. Raises PermissionError when a journal cannot be read."""
    path = Path(row.path)
    is_delivered = path.is_relative_to(places.mailboxes)
    if row.verdict != INFECTED or row.was == INFECTED or not (is_delivered or path.is_relative_to(places.quarantine)):
        return
    journals = [places.journal(SMTPD.name), places.journal("relay")]
    about = {"path": row.path, "findings": list(row.findings)}
    if is_delivered:
        account = path.relative_to(places.mailboxes).parts[0]
        at = _delivered_at(path)
        fields = {"account": account, "delivered_at": at, "what": f"delivered {_ago(now, at)}, now malicious"}
        yield Incident(DELIVERED, fields | about)
    for queue_id in _queue_ids(path, journals):
        if relayed := [event for event in read_life(journals, queue_id) if _is_relayed(event)]:
            yield Incident(RELAYED, _relayed(queue_id, relayed, now) | about)


def _is_relayed(event: dict[str, Any]) -> bool:
    return event["kind"] == "delivery.delivered" and event.get("transport") != LOCAL


def _relayed(queue_id: str, events: Sequence[dict[str, Any]], now: float) -> dict[str, Any]:
    last = max(float(event["at"]) for event in events)
    recipients = list(dict.fromkeys(str(event.get("recipient", "")) for event in events))[:_MAX_RECIPIENTS]
    what = f"relayed {_ago(now, last)}, now malicious"
    return {"queue_id": queue_id, "recipients": recipients, "relayed_at": last, "what": what}


def _queue_ids(path: Path, journals: Sequence[Path]) -> list[str]:
    """Under which ids we may have had it, the surest first."""
    found = [match[1]] if (match := _IN_NAME.match(path.name)) else []
    try:
        with path.open("rb") as file:
            head, _ = split_header_section(file.read(_HEAD_OCTETS))
    except OSError:  # moved or deleted meanwhile
        return found
    found += [match[1].decode() for match in _IN_TRACE.finditer(head)]
    if message_id := _MESSAGE_ID.search(head):
        found += find_messages(journals, message_id=message_id[1].decode(), since=0, limit=_MAX_IDS)
    return list(dict.fromkeys(found))[:_MAX_IDS]


def _delivered_at(path: Path) -> float | None:
    """As the file's name says (Maildir: seconds since 1970 come first)."""
    seconds = path.name.partition(".")[0]
    return float(seconds) if seconds.isdecimal() and len(seconds) < 12 else None


def _ago(now: float, at: float | None) -> str:
    if at is None:
        return "some time ago"
    minutes = max(int(now - at) // 60, 0)
    if minutes < 60:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"


class Reporter:
    """Tells the scan role of incidents, which counts them; where none answers, they go to a journal of our own."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._journal: Journal | None = None

    def report(self, incident: Incident) -> None:
        from egressguard.app.control import CommandError, DaemonUnreachable, ask  # noqa: PLC0415 -- asyncio, rarely needed

        try:
            ask(self._places.control("scan"), "incident", 10, kind=incident.kind, fields=incident.fields)
        except (CommandError, DaemonUnreachable):
            self._journal = self._journal or Journal(self._places.journal(JOURNAL), max_rows=MAX_ROWS)
            self._journal.record(time.time(), f"incident.{incident.kind}", incident.fields)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
