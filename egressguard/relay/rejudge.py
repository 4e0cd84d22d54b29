"""Past messages judged again under other rules, by the very code that judges live ones. No I/O.

Contract
    Each recipient is asked for at RCPT, those that are left as one message: as the server does it.
    Limits are counted again, from the first message on: what other rules would have let pass counts, too.
    A fact that was not recorded and that the outcome hangs on makes it UNKNOWN.
    Messages with equal facts are judged once, as long as none is above a limit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from egressguard.mail.envelope import Envelope
from egressguard.observe.clock import local_moment
from egressguard.policy.backtest import GOES_ON, UNKNOWN, Line, Outcome, Tally, change_of
from egressguard.policy.decision import MailAction, MailDecision
from egressguard.policy.facts import Attachment, Moment, ScanReport
from egressguard.policy.index import Remembered
from egressguard.policy.limits import Amounts
from egressguard.policy.mail import CANNOT_TELL, asks_for_block_lists, asks_for_scan, header_fields, limit_of
from egressguard.policy.matchers import in_hours, in_weekdays
from egressguard.policy.model import Policy
from egressguard.policy.patterns import name_matches
from egressguard.policy.recorded import RecordedMail
from egressguard.policy.recount import Keys, Recount
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.relay.facts import OWN_SENDER, ContentFacts, SenderFacts
from egressguard.relay.judge import judge_message, judge_recipient
from egressguard.relay.outside import is_of_the_world
from egressguard.smtp.hooks import SessionFacts

NOT_BY_RULES = frozenset({"", "(hops)", "(limits)"})
"""Decisions on messages that rules have no part in: unknown mailboxes, loops, trouble of our own."""
REMEMBERED = 100_000
_ELSEWHERE = "192.0.2.1:25"
"""Where a redirected connection was meant to go is no rule's business; that it was is."""
_DENIED = ("denied name: ", "denied type ")

Outcomes = Mapping[Outcome, int]
"""What became of a message -> for how many of its recipients."""
_RECIPIENTS_LOST: Outcomes = {Outcome(UNKNOWN, ""): 1}


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of one message; `is_whole` False: something that rules look at is not."""

    session: SessionFacts
    at_rcpt: SenderFacts
    content: ContentFacts
    is_whole: bool


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a message comes to. `limits` count it (or its refusal) for `keys`; of its recipients (`paths`) `left` were
    not refused at RCPT."""

    outcomes: Outcomes
    charges_at_rcpt: bool = False
    left: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    is_refused: bool = False
    keys: Keys = ()
    host: str = ""
    paths: tuple[str, ...] = ()


class MailJudge:
    """Takes recorded decisions on messages again, in the order of time.

    `counted_from`: before then limits do not know all that was sent."""

    def __init__(self, policy: Policy, counted_from: float = 0.0) -> None:
        self._policy = policy
        self._counted_from = counted_from
        self._limits, self._blank = Recount(policy), Recount(policy)
        self._remembered: dict[object, _Judged] = {}
        asked = {(rule.match.weekdays, rule.match.hours) for rule in policy.mail} - {((), ())}
        self._times = Remembered[Moment, tuple[bool, ...]](
            lambda moment: tuple(
                (not days or in_weekdays(days, moment)) and (not hours or in_hours(hours, moment))
                for days, hours in asked
            )
        )
        levels = {rule.match.larger_than_octets for rule in policy.mail} - {None}
        self._levels = sorted(level for level in levels if level is not None)

    def outcomes(self, recorded: RecordedMail, looked_at: object = None) -> Outcomes:
        """`looked_at`: the row's policy.recorded.looked_at, if it is a row as it stands."""
        if recorded.limit:
            return self._judge(recorded, self._limits).outcomes
        key = self._key(recorded.at, recorded.size_octets, looked_at or _all_of(recorded))
        known = self._remembered.get(key)
        if known is None:
            if len(self._remembered) >= REMEMBERED:
                self._remembered.clear()
            known = self._remembered[key] = self._judged(recorded)
        if self._counts_as(known, recorded.at, recorded.size_octets):
            return known.outcomes
        return self._judge(recorded, self._limits).outcomes

    def is_as_before(self, at: float, size_octets: int | None, looked_at: object, action: str) -> bool:
        """Whether such a message is known to come to this, and counted as it; False: it has to be read whole."""
        known = self._remembered.get(self._key(at, size_octets, looked_at))
        if known is None or any(outcome.action != action for outcome in known.outcomes):
            return False
        return self._counts_as(known, at, size_octets)

    def _key(self, at: float, size_octets: int | None, looked_at: object) -> object:
        """Of size and time only what rules can tell apart."""
        size = None if size_octets is None else bisect_left(self._levels, size_octets)
        return looked_at, size, self._times[local_moment(at)]

    def _judged(self, r: RecordedMail) -> _Judged:
        """What it comes to while nothing was counted, and for whom it counts."""
        judged = self._judge(r, self._blank)
        if not self._policy.limits:
            return judged
        self._blank.forget()
        keys = self._limits.keys(self._policy, r.client, r.user, r.reverse_path)
        return replace(judged, keys=keys, host=str(r.client), paths=r.forward_paths)

    def _counts_as(self, known: _Judged, at: float, size_octets: int | None) -> bool:
        """Count a message like the known one; False, and nothing is counted: it has to be judged by itself.

        Limits look at the whole message first: what that is not above, no recipient by himself is."""
        if not self._policy.limits:
            return True
        if known.charges_at_rcpt or self._limits.contained(known.host, at) is not None:
            return False
        amounts = Amounts(messages=1, octets=size_octets or 0, recipients=known.paths)
        if self._limits.exceeded_by(known.keys, amounts, at):
            return False
        if known.limits:
            counted = Amounts(refusals=1) if known.is_refused else replace(amounts, recipients=known.left)
            self._limits.charge_to(known.keys, known.limits, counted, at)
        return True

    def _judge(self, r: RecordedMail, limits: Recount) -> _Judged:
        if r.recipient_count != len(r.forward_paths):
            return _Judged(_RECIPIENTS_LOST)
        policy, known, found = self._policy, self._known(r), Counter[Outcome]()
        left: list[str] = []
        charges_at_rcpt = False
        for path in r.forward_paths:
            size = r.size_octets or 0
            refusal = judge_recipient(policy, limits, known.session, r.reverse_path, path, size, r.at, known.at_rcpt)
            if refusal is not None:
                found[Outcome(refusal.action.value, refusal.rule)] += 1
                charges_at_rcpt = charges_at_rcpt or bool(refusal.effects.limits)
            else:
                left.append(path)
        judged = _Judged(found, charges_at_rcpt=charges_at_rcpt, left=tuple(left))
        if left and r.is_whole:
            envelope = Envelope(r.reverse_path, judged.left)
            decision = judge_message(policy, limits, known.session, envelope, known.content, r.at).decision
            if self._misses_count(r, decision):
                found[Outcome(UNKNOWN, decision.rule)] += len(left)
            else:
                found[_outcome(decision, is_known=known.is_whole)] += len(left)
            return replace(judged, limits=decision.effects.limits, is_refused=decision.refuses)
        if left:
            found[Outcome(GOES_ON, "")] += len(left)
        return judged

    def _misses_count(self, r: RecordedMail, decision: MailDecision) -> bool:
        """It was above a limit that still counts, and is not so here; what was sent before is not known."""
        return r.at < self._counted_from and not decision.limit and limit_of(self._policy, r.limit) is not None

    def _known(self, r: RecordedMail) -> _Known:
        policy = self._policy
        listener = policy.site.relay.listeners.get(r.listener)
        session = SessionFacts(
            r.client,
            0,
            r.listener,
            listener.kind if listener is not None else "smtp",
            helo=r.helo,
            tls=r.tls,
            user=r.user,
            original_destination=_ELSEWHERE if r.is_redirected else None,
        )
        at_rcpt = sender = OWN_SENDER
        if is_of_the_world(policy, session):
            lists = r.lists if asks_for_block_lists(policy) else frozenset()
            at_rcpt, sender = SenderFacts(None, lists), SenderFacts(r.authentication, lists)
        has_headers = r.has_all_headers or header_fields(policy) <= r.headers.keys()
        report = scan_again(r, policy.site.scan) if asks_for_scan(policy) else _NOT_ASKED
        content = ContentFacts(r.size_octets or 0, r.headers if has_headers else None, report, sender)
        is_checked = sender.authentication is not None and sender.listed is not None
        return _Known(session, at_rcpt, content, is_checked and has_headers and _is_known(r, report))


_NOT_ASKED = ScanReport(Verdict.CLEAN, (), ())
"""No rule looks at it."""


def _outcome(decision: MailDecision, *, is_known: bool) -> Outcome:
    cannot_tell = decision.action is MailAction.DEFER and decision.text == CANNOT_TELL
    return Outcome(UNKNOWN if cannot_tell and not is_known else decision.action.value, decision.rule)


def _is_known(r: RecordedMail, report: ScanReport) -> bool:
    """Whether all that a scan tells is known; that no scanner answered is."""
    if report is _NOT_ASKED or (r.report is not None and r.report.verdict is None):
        return True
    return report.verdict is not None and report.score is not None and report.attachments is not None


def scan_again(r: RecordedMail, settings: Scan) -> ScanReport:
    """What a scan would have found by other settings, as far as names and types of attachments tell."""
    report = r.report
    if report is None:
        return ScanReport(None, (), None, score=None)
    if report.verdict is None:
        return report
    score = report.score if r.has_score else None if settings.rspamd or settings.spamd else 0.0
    verdict: Verdict | None = report.verdict
    if report.attachments is not None:
        verdict = _denied_again(report.verdict, report.findings, report.attachments, settings)
    if verdict is not Verdict.INFECTED and not r.asked_engines and (settings.clamd or settings.yara):
        verdict = None
    return (
        report if (verdict, score) == (report.verdict, report.score) else replace(report, verdict=verdict, score=score)
    )


def _denied_again(
    verdict: Verdict, findings: tuple[str, ...], attachments: tuple[Attachment, ...], settings: Scan
) -> Verdict | None:
    """None: it was denied by name or type, and for another reason besides, perhaps."""
    if verdict is Verdict.INFECTED:
        return verdict
    if any(_is_denied(each, settings) for each in attachments):
        return Verdict.DENIED
    by_name = [finding.startswith(_DENIED) for finding in findings]
    if verdict is not Verdict.DENIED or not any(by_name):
        return verdict
    return Verdict.CLEAN if all(by_name) else None


def _is_denied(each: Attachment, settings: Scan) -> bool:
    by_type = any(fnmatchcase(each.media_type, pattern.lower()) for pattern in settings.denied_types)
    return by_type or name_matches(settings.denied_names, each.name)


def _all_of(r: RecordedMail) -> object:
    """What `looked_at` has of a row, of a message that is known better."""
    return (
        (r.client, r.listener, r.helo, r.tls, r.user, r.is_redirected, r.reverse_path, r.forward_paths),
        (r.recipient_count, r.is_whole, r.has_all_headers, r.has_score, r.asked_engines),
        tuple(r.headers.items()),
        (r.report, r.authentication, r.lists),
    )


def tally_mail(
    tally: Tally, recorded: RecordedMail, judge: MailJudge, old: MailJudge | None = None, looked_at: object = None
) -> None:
    """Count one message; what it was is what was recorded, or what `old` rules make of it."""
    tally.judge("message")
    if recorded.rule in NOT_BY_RULES:
        tally.beside += 1
        return
    befores = {Outcome(recorded.action, recorded.rule): 1} if old is None else old.outcomes(recorded, looked_at)
    afters = judge.outcomes(recorded, looked_at)
    if befores is afters or befores.keys() == afters.keys():
        return
    for before, after in _paired(befores, afters):
        if change_of(before, after) is not None:
            line = Line("message", str(recorded.client), recorded.user or "", before, after)
            tally.meet(line, 1, recorded.at, recorded.at, lambda: mail_words(recorded))


def _paired(befores: Outcomes, afters: Outcomes) -> list[tuple[Outcome, Outcome]]:
    """What a message was, beside each other end that some of its recipients would meet."""
    before = next(iter(befores))
    if len(befores) == 1:
        return [(before, after) for after in afters]
    left = [after for after in afters if after not in befores] or list(afters)
    gone = [each for each in befores if each not in afters] or [before]
    return [(gone[0], after) for after in left]


def mail_words(r: RecordedMail) -> str:
    """The message for a person, as an example."""
    first = r.forward_paths[0] if r.forward_paths else "?"
    more = f" and {r.recipient_count - 1} more" if r.recipient_count > 1 else ""
    return f"{r.reverse_path or '<>'} -> {first}{more}" + (f" ({r.queue_id})" if r.queue_id else "")
