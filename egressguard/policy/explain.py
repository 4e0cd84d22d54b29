"""Why a flow or a message is decided as it is: the deciding rule, and what made each rule before it not decide.

Contract
    Pure, and told rule by rule from the same matchers as the decision; a test holds that both name the same rule.
    For a rule that did not match: the first matcher that failed, in the schema's order, with what was found.
    "Cannot tell" stops a message at that rule, unless a matcher of it failed for certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from egressguard.net.flow import Flow
from egressguard.policy.decision import FlowDecision, MailDecision
from egressguard.policy.facts import MailFacts
from egressguard.policy.flows import MAPPED_RULE, Surroundings, decide_flow, mac_matches, time_matches
from egressguard.policy.mail import decide_mail
from egressguard.policy.matchers import answers
from egressguard.policy.mismatch import flow_words, listed, mail_words
from egressguard.policy.model import FlowRule, MailRule, Policy
from egressguard.policy.networks import normal, within, zones_of
from egressguard.policy.routes import LOCAL, RouteFacts, WayOut, mismatch, way_out
from egressguard.policy.verdict import Verdict

BUILT_IN = "(built in)"


@dataclass(frozen=True, slots=True)
class Step:
    """One rule: `outcome` is failed, unknown, added, would or decides; `words` say why."""

    rule: str
    at: str
    outcome: str
    words: str


@dataclass(frozen=True, slots=True)
class FlowExplanation:
    """`steps` end with the rule that decides; `later` are the rules behind it, which nobody asked."""

    decision: FlowDecision
    steps: tuple[Step, ...]
    later: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MailExplanation:
    decision: MailDecision
    steps: tuple[Step, ...]
    later: tuple[str, ...]


def explain_flow(policy: Policy, flow: Flow, surroundings: Surroundings) -> FlowExplanation:
    """Each flow rule up to the one that decides."""
    decision = decide_flow(policy, flow, surroundings)
    built_in = Step(decision.rule, BUILT_IN, "decides", decision.reason)
    if decision.rule == MAPPED_RULE:
        return FlowExplanation(decision, (built_in,), tuple(rule.name for rule in policy.flows))
    zones = zones_of(policy, flow.source, flow.interface, surroundings.inside_interfaces)
    steps: list[Step] = []
    for number, rule in enumerate(policy.flows):
        step = _flow_step(policy, rule, flow, zones, surroundings)
        steps.append(step)
        if step.outcome == "decides" or (step.outcome == "unknown" and not rule.staged):
            later = tuple(rule.name for rule in policy.flows[number + 1 :])
            return FlowExplanation(decision, tuple(steps), later)
    return FlowExplanation(decision, (*steps, built_in) if decision.rule else tuple(steps), ())


def _flow_step(policy: Policy, rule: FlowRule, flow: Flow, zones: frozenset[str], around: Surroundings) -> Step:
    for key, answer in _flow_answers(policy, rule, flow, zones, around):
        if not answer:
            words = f"{key}: {flow_words(rule, flow, zones, key, known=answer is not None)}"
            return Step(rule.name, rule.at, "failed" if answer is False else "unknown", words)
    if rule.staged:
        return Step(rule.name, rule.at, "would", f"staged: would {rule.action}")
    return Step(rule.name, rule.at, "decides", rule.action)


def _flow_answers(
    policy: Policy, rule: FlowRule, flow: Flow, zones: frozenset[str], around: Surroundings
) -> Iterator[tuple[str, bool | None]]:
    yield "protocol", rule.protocol == flow.protocol.value
    yield "port", not rule.port or flow.destination_port in rule.port
    yield "from", not rule.from_zone or not zones.isdisjoint(rule.from_zone)
    yield "source", not rule.source or within(policy, flow.source, rule.source)
    yield "destination", not rule.destination or within(policy, flow.destination, rule.destination)
    yield "speaks", rule.speaks is None or rule.speaks == flow.speaks
    yield "source_mac", not rule.source_mac or mac_matches(policy, rule, flow.source_mac)
    in_time = time_matches(rule, around.moment)
    host = _host_answer(rule, flow, around)
    # What is certain comes first, as in policy.flows: a host that does not match needs no clock.
    yield from sorted([("time", in_time), ("destination_host", host)], key=lambda answer: answer[1] is None)


def _host_answer(rule: FlowRule, flow: Flow, around: Surroundings) -> bool | None:
    if rule.destination_host:
        known = [around.addresses_of(name) for name in rule.destination_host]
        destination = normal(flow.destination)
        hit = any(destination in map(normal, addresses) for addresses in known if addresses is not None)
        return True if hit else None if None in known else False
    return True


def explain_mail(policy: Policy, facts: MailFacts) -> MailExplanation:
    """Each message rule up to the one that decides, for one recipient of a whole message."""
    decision = decide_mail(policy, facts)
    steps: list[Step] = []
    for number, rule in enumerate(policy.mail):
        step = _mail_step(policy, rule, facts, decision)
        steps.append(step)
        if step.outcome == "decides" or (step.outcome == "unknown" and not rule.staged):
            later = tuple(rule.name for rule in policy.mail[number + 1 :])
            return MailExplanation(decision, tuple(steps), later)
    return MailExplanation(decision, tuple(steps), ())


def _mail_step(policy: Policy, rule: MailRule, facts: MailFacts, decision: MailDecision) -> Step:
    asked = list(answers(policy, rule.match, facts))
    failed = next((key for key, answer in asked if answer is False), None)
    unknown = next((key for key, answer in asked if answer is None), None)
    if (key := failed or unknown) is not None:
        words = f"{key}: {mail_words(policy, key, getattr(rule.match, key), facts)}"
        return Step(rule.name, rule.at, "failed" if failed else "unknown", words)
    if rule.staged:
        return Step(rule.name, rule.at, "would", f"staged: would {rule.action}")
    if decision.rule == rule.name:
        return Step(rule.name, rule.at, "decides", decision.reason if decision.limit else rule.action)
    return Step(rule.name, rule.at, "added", _added(rule))


@dataclass(frozen=True, slots=True)
class RouteExplanation:
    """The way out of one recipient; `steps` are the routes that were asked, the one that was taken last."""

    way: WayOut
    steps: tuple[Step, ...]


def explain_route(policy: Policy, facts: MailFacts, decision: MailDecision) -> RouteExplanation:
    """Which way the message would leave for this recipient, once it is taken."""
    known = RouteFacts.of(facts, decision.effects.tags)
    way = way_out(policy, known, decision.effects.via)
    if decision.effects.via or way.via == (LOCAL,):
        return RouteExplanation(way, ())
    steps: list[Step] = []
    for route in policy.routes:
        failed = mismatch(policy, route.match, known)
        if failed is None and not route.staged:
            steps.append(Step(route.name, route.at, "decides", f"via {listed(route.via)}"))
            break
        words = f"staged: would go via {listed(route.via)}"
        if failed is not None:
            words = f"{failed}: not {listed(_wanted(getattr(route.match, failed)))}"
        steps.append(Step(route.name, route.at, "would" if failed is None else "failed", words))
    return RouteExplanation(way, tuple(steps))


def _wanted(value: object) -> list[str]:
    items = value if isinstance(value, tuple) else (value,)
    return [str(item.value) if isinstance(item, Verdict) else str(item) for item in items]


def _added(rule: MailRule) -> str:
    parts = {
        "header": rule.add_header,
        "tag": rule.tag,
        "limit": rule.limit,
        "route": rule.route,
        "source_routes": rule.source_routes,
        "notify": rule.notify,
        "rewrite_sender": ("SRS",) if rule.rewrite_sender else (),
    }
    return "goes on, adds " + "; ".join(f"{key} {listed(items)}" for key, items in parts.items() if items)
