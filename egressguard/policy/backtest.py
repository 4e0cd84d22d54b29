"""Past decisions taken again under other rules: what would be stopped now, what let through. Pure.

Contract
    What cannot be told from what was recorded is said to be unknown, and never taken for a change or for none.
    Only what became of something counts: a rule that decides in another's place, with the same end, is no change.
    What the packet plane stops beside the rules (BESIDE_RULES) stays as it was.
    A tally is bounded: at most MAX_LINES lines, EXAMPLES of each; what is beyond is counted (`left_out`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from egressguard.net.flow import TUNNELS, Flow, IPAddress
from egressguard.policy.decision import FlowAction, MailAction
from egressguard.policy.facts import Moment
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy
from egressguard.policy.recorded import FlowFacts, RecordedFlow
from egressguard.values import value

BESIDE_RULES = frozenset({"fragments", "own-processes", "contained"})
GOES_ON, UNKNOWN = "goes on", "unknown"
"""Outcomes that no rule has: a recipient that is no longer refused (its message was never seen); not to be told."""
MAX_LINES = 20_000
EXAMPLES = 3

MomentOf = Callable[[float], Moment | None]


class Change(enum.Enum):
    STOPPED = "stopped"
    PASSED = "let through"
    OTHER = "otherwise"
    UNKNOWN = "unknown"


@value(frozen=True, slots=True)
class Outcome:
    """`rule` "": no rule names it."""

    action: str
    rule: str

    def __str__(self) -> str:
        return f"{self.action} ({self.rule or 'no rule'})"


_REACHES = frozenset({FlowAction.ALLOW.value, MailAction.ACCEPT.value, GOES_ON})
_STOPS = frozenset(
    {FlowAction.REJECT.value, FlowAction.DROP.value, FlowAction.TARPIT.value}
    | {MailAction.REJECT.value, MailAction.DEFER.value, MailAction.QUARANTINE.value, MailAction.HOLD.value}
)


def change_of(before: Outcome, after: Outcome) -> Change | None:
    """None: the same end. A redirect is neither stopped nor through; what goes on to an unknown content is through."""
    if after.action == before.action:
        return None
    if UNKNOWN in {after.action, before.action}:
        return Change.UNKNOWN
    if before.action in _REACHES and after.action in _STOPS:
        return Change.STOPPED
    return Change.PASSED if before.action in _STOPS and after.action in _REACHES else Change.OTHER


class FlowJudge:
    """Takes recorded decisions on flows again. One at a time."""

    def __init__(self, policy: Policy, moment_of: MomentOf) -> None:
        self._policy = policy
        self._moment_of = moment_of
        self._facts: FlowFacts | None = None
        self._at = 0.0
        self._around: dict[str, Surroundings] = {}

    def outcome(self, recorded: RecordedFlow) -> Outcome:
        """As of when the class was seen last; `hosts` as they were."""
        facts = recorded.facts
        if facts.rule in BESIDE_RULES:
            return Outcome(facts.action, facts.rule)
        self._facts, self._at = facts, recorded.last
        decision = decide_flow(self._policy, facts.flow, self._surroundings(facts))
        return Outcome(UNKNOWN if decision.action is None else decision.action.value, decision.rule)

    def _surroundings(self, facts: FlowFacts) -> Surroundings:
        inside = facts.flow.interface if facts.is_inside else ""
        known = self._around.get(inside)
        if known is None:
            names = frozenset({inside} if inside else ())
            known = self._around[inside] = Surroundings(names, self._addresses_of, self._moment)
        return known

    def _addresses_of(self, name: str) -> frozenset[IPAddress] | None:
        assert self._facts is not None
        is_one = self._facts.hosts.get(name)
        return None if is_one is None else frozenset({self._facts.flow.destination} if is_one else ())

    def _moment(self) -> Moment | None:
        return self._moment_of(self._at)


def flow_words(flow: Flow) -> str:
    """The flow for a person, as an example."""
    source, to = str(flow.source), str(flow.destination)
    if flow.protocol in TUNNELS:
        return f"{source} -> {to} {flow.protocol.value}"
    said = f", speaks {flow.speaks}" if flow.speaks else ""
    return f"{source} -> {to} port {flow.destination_port}/{flow.protocol.value}{said}"


@dataclass(frozen=True, slots=True)
class Line:
    """Whom a change meets: `plane` is "flow" or "message"; `user` "" = nobody logged in."""

    plane: str
    host: str
    user: str
    before: Outcome
    after: Outcome

    @property
    def change(self) -> Change:
        return change_of(self.before, self.after) or Change.OTHER


@dataclass(slots=True)
class Met:
    """How often, when, and some examples."""

    count: int
    first: float
    last: float
    examples: list[str]


@dataclass(slots=True)
class Tally:
    """`judged` counts decisions taken again, by plane (a class of flows counts as often as it was seen);
    `rows` what was read for that; `beside` what rules do not decide; `odd` rows that make no sense."""

    judged: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    beside: int = 0
    odd: int = 0
    left_out: int = 0
    lines: dict[Line, Met] = field(default_factory=dict)
    changes: dict[Change, int] = field(default_factory=dict)

    def judge(self, plane: str, count: int = 1) -> None:
        self.judged[plane] = self.judged.get(plane, 0) + count

    def meet(self, line: Line, count: int, first: float, last: float, example: Callable[[], str]) -> None:
        self.changes[line.change] = self.changes.get(line.change, 0) + count
        met = self.lines.get(line)
        if met is None:
            if len(self.lines) >= MAX_LINES:
                self.left_out += count
                return
            met = self.lines[line] = Met(0, first, last, [])
        met.count += count
        met.first, met.last = min(met.first, first), max(met.last, last)
        if len(met.examples) < EXAMPLES and (words := example()) not in met.examples:
            met.examples.append(words)

    def add(self, other: Tally) -> None:
        """What another part of the past came to."""
        for plane, count in other.judged.items():
            self.judge(plane, count)
        self.rows, self.beside, self.odd = self.rows + other.rows, self.beside + other.beside, self.odd + other.odd
        self.left_out += other.left_out
        for change, count in other.changes.items():
            self.changes[change] = self.changes.get(change, 0) + count
        for line, met in other.lines.items():
            known = self.lines.get(line)
            if known is not None:
                known.count += met.count
                known.first, known.last = min(known.first, met.first), max(known.last, met.last)
                known.examples += [words for words in met.examples if words not in known.examples]
                del known.examples[EXAMPLES:]
            elif len(self.lines) < MAX_LINES:
                self.lines[line] = met
            else:
                self.left_out += met.count

    @property
    def is_same(self) -> bool:
        """Nothing changes, and nothing is left open."""
        return not self.changes

    def found(self) -> Iterator[dict[str, Any]]:
        """A row for each line: what is newly stopped first, the most of it first."""
        order = list(Change)
        for line, met in sorted(
            self.lines.items(),
            key=lambda item: (order.index(item[0].change), -item[1].count, item[0].plane, item[0].host, item[0].user),
        ):
            yield {
                "change": line.change.value,
                "plane": line.plane,
                "host": line.host,
                "user": line.user,
                "before": line.before.action,
                "before_rule": line.before.rule,
                "after": line.after.action,
                "after_rule": line.after.rule,
                "count": met.count,
                "first": met.first,
                "last": met.last,
                "examples": met.examples,
            }

    def summary(self) -> dict[str, Any]:
        return {
            "judged": dict(sorted(self.judged.items())),
            "changes": {change.value: self.changes.get(change, 0) for change in Change},
            "beside_the_rules": self.beside,
            "odd_rows": self.odd,
            "left_out": self.left_out,
        }


def tally_flow(tally: Tally, recorded: RecordedFlow, judge: FlowJudge, old: FlowJudge | None = None) -> None:
    """Count one class of flows; what it was is what was recorded, or what `old` rules make of it."""
    facts = recorded.facts
    tally.judge("flow", recorded.count)
    if facts.rule in BESIDE_RULES:
        tally.beside += recorded.count
        return
    before = Outcome(facts.action, facts.rule) if old is None else old.outcome(recorded)
    after = judge.outcome(recorded)
    if change_of(before, after) is not None:
        line = Line("flow", str(facts.flow.source), "", before, after)
        tally.meet(line, recorded.count, recorded.first, recorded.last, lambda: flow_words(facts.flow))


def totals(found: Mapping[str, Any]) -> str:
    """One line about a summary."""
    judged = ", ".join(f"{count} {plane}{'' if count == 1 else 's'}" for plane, count in found["judged"].items())
    changes = found["changes"]
    open_ones = f", {changes['unknown']} not to be told" if changes["unknown"] else ""
    return (
        f"{judged or 'nothing'} decided again: {changes['stopped']} newly stopped, {changes['let through']} newly let "
        f"through, {changes['otherwise']} otherwise{open_ones}"
    )
