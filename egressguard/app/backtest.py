"""Past decisions taken again under other rules: read from the journal, the quarantine, captures and mailboxes.

Contract
    Reads only. What is read is bounded: a page of rows at a time, HELD_MESSAGES held messages of HELD_OCTETS each.
    Spans of the journal are judged in `jobs` processes; one alone where there is little, and for messages under rules
    with limits, which count in the order of time.
    Messages that are held now are judged whole: their octets are looked into again, by the new rules' settings; what
    engines said stays as it was recorded.
    Raises PermissionError; sqlite3.Error for a damaged journal; NotACapture.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from egressguard.app.children import SMTPD
from egressguard.app.places import Places
from egressguard.mail.header import header_section
from egressguard.observe.clock import local_moment
from egressguard.policy.backtest import FlowJudge, Tally, tally_flow
from egressguard.policy.facts import ScanReport
from egressguard.policy.limits import NEW_DESTINATION_SECONDS, SLOTS, quotas
from egressguard.policy.model import Policy
from egressguard.policy.recorded import (
    ACTION_OF,
    LAST_MOMENT,
    FlowFacts,
    RecordedFlow,
    RecordedMail,
    looked_at,
    recorded_flow,
    recorded_mail,
)
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.quarantine.maildir import HoldMaildir, held_at
from egressguard.relay.facts import header_facts
from egressguard.relay.rejudge import NOT_BY_RULES, MailJudge, tally_mail
from egressguard.scan.examine import examine
from egressguard.store.decisions import Span, find_span, halved, read_decisions, whole_since

log = logging.getLogger(__name__)

JOBS = 2
UNIT_ROWS = 50_000
LITTLE_ROWS = 20_000
"""So few are judged before another process has started."""
HELD_MESSAGES, HELD_OCTETS = 1000, 64 * 1024 * 1024

Tick = Callable[[int, int], object]
"""Told how much of how much is done."""


def _nobody(_done: int, _of: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for: `old` None = what was recorded is compared; `since`: seconds since 1970."""

    new: Policy
    old: Policy | None
    since: float
    held: Mapping[str, RecordedMail] = field(default_factory=dict)
    whole_since: float = 0.0
    """Since when the journal has all messages."""

    def judges(self) -> tuple[MailJudge, MailJudge | None]:
        """By the new rules, and by the old ones."""
        return self._judge(self.new), None if self.old is None else self._judge(self.old)

    def _judge(self, policy: Policy) -> MailJudge:
        lacks = self.whole_since > 0
        return MailJudge(policy, self.whole_since + _counted_seconds(policy) if lacks else 0.0)


@dataclass(slots=True)
class _Done:
    tally: Tally = field(default_factory=Tally)
    whole: set[str] = field(default_factory=set)
    """Queue ids of held messages that were met."""


def backtest(
    new: Policy, places: Places, *, since: float, old: Policy | None = None, jobs: int = JOBS, tick: Tick = _nobody
) -> Tally:
    """Take again what was decided on flows and messages since then, as the journal of `places` has it."""
    held = {each.queue_id: each for each in _held(places.quarantine, since)}
    begins = whole_since(places.journal(SMTPD.name), "event")
    asked = Asked(new, old, since, _looked_into(held, places.quarantine, new.site.scan, jobs), begins)
    units = [*_flow_units(places, since), *_mail_units(places, asked)]
    done = _Done()
    for part in _worked_off(asked, units, jobs, tick):
        done.tally.add(part.tally)
        done.whole |= part.whole
    _judge_left(asked, done)
    return done.tally


def _flow_units(places: Places, since: float) -> Iterator[Span]:
    span = find_span(places.journal("gate"), "flow", since)
    return _cut(span) if span is not None else iter(())


def _mail_units(places: Places, asked: Asked) -> Iterator[Span]:
    policies = [each for each in (asked.new, asked.old) if each is not None]
    counts = any(policy.limits for policy in policies)
    begins = asked.since - max(map(_counted_seconds, policies)) if counts else asked.since
    span = find_span(places.journal(SMTPD.name), "event", begins)
    if span is None:
        return iter(())
    return iter((span,)) if counts else _cut(span)


def _counted_seconds(policy: Policy) -> float:
    """How long before a message others count, by the limits of a policy."""
    counted = [quota for limit in policy.limits for quota in quotas(limit)]
    if any(quota.counted == "new_destinations" for quota in counted):
        return NEW_DESTINATION_SECONDS
    return max((quota.window_seconds for quota in counted), default=0) * (1 + 1 / SLOTS)


def _cut(span: Span) -> Iterator[Span]:
    if span.rows <= UNIT_ROWS:
        yield span
    else:
        for half in halved(span):
            yield from _cut(half)


def _worked_off(asked: Asked, units: Sequence[Span], jobs: int, tick: Tick) -> Iterator[_Done]:
    total, done = sum(unit.rows for unit in units), 0
    tick(0, max(total, 1))
    if jobs == 1 or len(units) < 2 or total <= LITTLE_ROWS:
        for unit in units:
            yield _judge_span(asked, unit)
            done += unit.rows
            tick(done, total)
        return
    context = multiprocessing.get_context("fork")  # policies are large, and prepared
    largest = sorted(units, key=lambda unit: -unit.rows)
    with ProcessPoolExecutor(min(jobs, len(units)), context, _begin, (asked,)) as pool:
        waiting = {pool.submit(_judge_span_of, unit): unit for unit in largest}
        for ended in as_completed(waiting):
            yield ended.result()
            done += waiting[ended].rows
            tick(done, total)


_asked: list[Asked] = []
"""In a worker: what this run asks for."""


def _begin(asked: Asked) -> None:
    _asked[:] = [asked]


def _judge_span_of(span: Span) -> _Done:
    return _judge_span(_asked[0], span)


def _judge_span(asked: Asked, span: Span) -> _Done:
    done = _Done()
    if span.table == "flow":
        _judge_flows(asked, span, done.tally)
    else:
        _judge_mail(asked, span, done)
    return done


def _judge_flows(asked: Asked, span: Span, tally: Tally) -> None:
    judge = FlowJudge(asked.new, local_moment)
    old = FlowJudge(asked.old, local_moment) if asked.old is not None else None
    for _, _, text in read_decisions(span):
        tally.rows += 1
        recorded = recorded_flow(_fields(text))
        if recorded is None:
            tally.odd += 1
        elif recorded.last >= asked.since:
            tally_flow(tally, recorded, judge, old)


def read_flows(places: Places, since: float) -> Iterator[RecordedFlow]:
    """The classes of flows that were seen since then; what makes no sense is left out."""
    span = find_span(places.journal("gate"), "flow", since)
    for _, _, text in read_decisions(span) if span is not None else ():
        recorded = recorded_flow(_fields(text))
        if recorded is not None and recorded.last >= since:
            yield recorded


def _judge_mail(asked: Asked, span: Span, done: _Done) -> None:
    judge, old = asked.judges()
    for at, kind, text in read_decisions(span):
        fields = _fields(text)
        if kind not in ACTION_OF or "sender" not in fields:  # refused before there was anything to decide
            done.tally.odd += "cut" in fields
            continue
        done.tally.rows += 1
        is_held = str(fields.get("queue_id")) in asked.held and fields.get("stage") != "rcpt"
        if old is None and not is_held and _is_as_before(done.tally, kind, fields, judge, asked.since):
            continue
        recorded = recorded_mail(at, kind, fields)
        if recorded is None:
            done.tally.odd += 1
            continue
        if is_held:
            done.whole.add(recorded.queue_id)
            recorded, looked = asked.held[recorded.queue_id], None
        else:
            looked = looked_at(fields)
        if recorded.at >= asked.since:
            tally_mail(done.tally, recorded, judge, old, looked)
        else:  # it counts for limits
            judge.outcomes(recorded, looked)
            if old is not None:
                old.outcomes(recorded, looked)


def _is_as_before(tally: Tally, kind: str, fields: Mapping[str, Any], judge: MailJudge, since: float) -> bool:
    """Count a message that comes to what it came to, if that is known: most are like others before them."""
    at, size = fields.get("decided_at"), fields.get("size_octets")
    if not isinstance(at, float) or not (size is None or isinstance(size, int)):
        return False
    if not 0 <= at <= LAST_MOMENT or str(fields.get("rule")) in NOT_BY_RULES or "limit" in fields:
        return False
    is_same = judge.is_as_before(at, size, looked_at(fields), fields.get("decided", ACTION_OF[kind]))
    if is_same and at >= since:
        tally.judge("message")
    return is_same


def _fields(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _judge_left(asked: Asked, done: _Done) -> None:
    """Held messages that the journal does not know any more."""
    left = [each for queue_id, each in asked.held.items() if queue_id not in done.whole and each.at >= asked.since]
    judge, old = replace(asked, whole_since=math.inf).judges()
    for each in sorted(left, key=lambda message: message.at):
        tally_mail(done.tally, each, judge, old)


# Messages that are held.


def _held(root: Path, since: float) -> Iterator[RecordedMail]:
    """What was recorded of messages that are held, the newest HELD_MESSAGES."""
    if not (root / "envelopes").is_dir():
        return
    maildir = HoldMaildir(root)
    names = [(held_at(root / name), message_id) for message_id, name in maildir.names()]
    for at, message_id in sorted(names, reverse=True)[:HELD_MESSAGES]:
        told = maildir.facts(message_id).get("told")
        recorded = recorded_mail(at, "mail.quarantined", told) if isinstance(told, dict) else None
        if recorded is not None and recorded.at >= since:
            yield replace(recorded, queue_id=message_id)


def _looked_into(held: Mapping[str, RecordedMail], root: Path, settings: Scan, jobs: int) -> dict[str, RecordedMail]:
    """The same with all that their octets say."""
    if not held:
        return {}
    maildir = HoldMaildir(root)
    paths = {message_id: root / name for message_id, name in maildir.names() if message_id in held}
    added = {message_id: maildir.facts(message_id).get("added_octets", 0) for message_id in paths}
    work = partial(_look_into, settings=settings)
    given = [(held[message_id], path, added[message_id]) for message_id, path in paths.items()]
    if jobs == 1 or len(given) < 2 * jobs:
        found = list(map(work, given))
    else:
        with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
            found = list(pool.map(work, given, chunksize=8))
    return {each.queue_id: each for each in found}


def _look_into(given: tuple[RecordedMail, Path, object], settings: Scan) -> RecordedMail:
    recorded, path, added = given
    try:
        with path.open("rb") as file:
            content = file.read(HELD_OCTETS + 1)
    except OSError:  # released or moved meanwhile
        return recorded
    if len(content) > HELD_OCTETS or not isinstance(added, int) or not 0 <= added <= len(content):
        return recorded
    return whole_message(recorded, content[added:], settings)


def whole_message(recorded: RecordedMail, content: bytes, settings: Scan) -> RecordedMail:
    """The message with what its octets say now; `content` as it came. What engines found is kept."""
    try:
        report = examine(content, settings)
    except Exception:  # a parser's fault: what was recorded stands
        log.exception("a message cannot be looked into again")
        return recorded
    before = recorded.report
    if before is not None and before.verdict in {None, Verdict.INFECTED} and report.verdict is not Verdict.INFECTED:
        report = replace(report, verdict=before.verdict)
    report = replace(report, score=before.score if before is not None else 0.0)
    headers = header_facts(header_section(content))
    return replace(recorded, size_octets=len(content), headers=headers, has_all_headers=True, report=report)


# What no gateway decided: captures and mailboxes.


def backtest_capture(new: Policy, old: Policy, path: Path, *, interface: str = "", tick: Tick = _nobody) -> Tally:
    """The flows of a pcap file, under the old rules and the new ones. Raises NotACapture."""
    from egressguard.firewall.replay import Replayed, opened_flows  # noqa: PLC0415 -- scapy, see there

    tally, read = Tally(), Replayed()
    judges = FlowJudge(new, local_moment), FlowJudge(old, local_moment)
    for at, flow in opened_flows(path, read, interface=interface, tick=tick):
        facts = FlowFacts(flow, "", is_inside=bool(interface))
        tally_flow(tally, RecordedFlow(facts, 1, at, at), *judges)
    tally.rows, tally.odd = read.packets, read.malformed
    return tally


def backtest_messages(new: Policy, old: Policy, messages: Iterator[tuple[RecordedMail, bytes]]) -> Tally:
    """Whole messages, with what is said of who gave them, under the old rules and the new ones."""
    tally = Tally()
    judge, before = MailJudge(new), MailJudge(old)
    for recorded, content in messages:
        tally.rows += 1
        blank = replace(recorded, report=ScanReport(Verdict.CLEAN, (), ()), has_score=True)
        tally_mail(tally, whole_message(blank, content, new.site.scan), judge, before)
    return tally
