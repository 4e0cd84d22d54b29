"""A made-up past for benchmarks/policy.py: a journal of what the made-up site's flows and messages came to."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.policy_site import flows, messages
from egressguard.app.places import Places
from egressguard.policy.facts import MailFacts
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.mail import asks_of_engines, decide_envelope, decide_mail, header_fields
from egressguard.policy.model import Policy
from egressguard.policy.recorded import FlowFacts, told_headers, told_scan
from egressguard.store.journal import FLOW, Journal

BEGIN = 1_795_593_600.0  # a Wednesday, 8:00 UTC
SPAN_SECONDS = 7 * 86400
KINDS = {"accept": "accepted", "reject": "refused", "quarantine": "quarantined", "hold": "held", "defer": "deferred"}


def write_past(places: Places, policy: Policy, *, mail_rows: int, flow_rows: int, distinct: int) -> None:
    """Rows over a week; so many `distinct` messages and classes of flows, the others are like them at another time."""
    places.journals.mkdir(parents=True)
    mail = [_mail(policy, facts) for facts in messages(distinct)]
    flow = list(_flows(policy, distinct))
    _write(places.journal("smtpd"), "event", mail, mail_rows)
    _write(places.journal("gate"), "flow", flow, flow_rows)


Made = tuple[str, dict[str, object]]


def _flows(policy: Policy, count: int) -> Iterator[Made]:
    for flow in flows(count):
        decision = decide_flow(policy, flow, Surroundings())
        action = decision.action.value if decision.action else "drop"
        yield FLOW, FlowFacts(flow, action, decision.rule).told


def _mail(policy: Policy, facts: MailFacts) -> Made:
    refused = decide_envelope(policy, replace(facts, recipient_count=None, size_octets=None, headers=None, scan=None))
    decision = refused or decide_mail(policy, facts)
    assert facts.scan is not None and facts.headers is not None
    fields: dict[str, object] = {
        "client": str(facts.client),
        "listener": facts.listener,
        "helo": facts.helo,
        "tls": facts.tls,
        "user": facts.user,
        "original_destination": None,
        "sender": facts.reverse_path,
        "recipients": [facts.forward_path],
        "recipient_count": 1,
        "size_octets": facts.size_octets,
        "rule": decision.rule,
        "reason": decision.reason,
        "findings": [],
        "policy_revision": policy.revision,
        "authentication": asdict(facts.authentication) if facts.authentication else {},
    }
    if refused is not None:
        return f"mail.{KINDS[decision.action.value]}", fields | {"stage": "rcpt"}
    fields |= told_scan(facts.scan, asks_of_engines(policy)) | told_headers(facts.headers, header_fields(policy))
    return f"mail.{KINDS[decision.action.value]}", fields


def _write(path: Path, table: str, made: list[Made], rows: int) -> None:

    journal = Journal(path, max_rows=rows)
    journal.record(BEGIN, "x", {})
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA synchronous = OFF")
        insert = f"INSERT INTO {table} (at, kind, fields, queue_id) VALUES (?, ?, ?, ?)"
        db.executemany(insert, _rows(made, rows))
    db.close()


def _rows(made: list[Made], rows: int) -> Iterator[tuple[float, str, str, str | None]]:
    for number in range(rows):
        kind, fields = made[number * 7919 % len(made)]
        at = BEGIN + number * SPAN_SECONDS / rows
        if kind == FLOW:
            yield at, kind, json.dumps(fields | {"first": at, "last": at, "count": 1}), None
        else:
            queue_id = f"{number:016}"
            yield at, kind, json.dumps(fields | {"queue_id": queue_id, "decided_at": at}), queue_id
