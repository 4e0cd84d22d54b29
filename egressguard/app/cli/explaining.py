"""What `egressguard explain` says of one flow or one message, in words or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import click

from egressguard.app.cli.output import SCHEMA, colored
from egressguard.net.flow import TUNNELS, Flow
from egressguard.policy.decision import MailAction
from egressguard.policy.explain import RouteExplanation, Step, explain_flow, explain_mail, explain_route
from egressguard.policy.facts import MailFacts
from egressguard.policy.flows import Surroundings
from egressguard.policy.mail import decide_envelope
from egressguard.policy.model import Policy
from egressguard.policy.trial import before_data

_STAYS_OUT = frozenset({MailAction.REJECT, MailAction.DEFER})


def say_flow(policy: Policy, flow: Flow, around: Surroundings, *, everything: bool, as_json: bool) -> None:
    """The flow rule that decides, what it became in the kernel, and why earlier rules did not match."""
    from egressguard.firewall.host import Host
    from egressguard.firewall.render import render_ruleset, statements_of

    told = explain_flow(policy, flow, around)
    decision = told.decision
    action = "drop for now" if decision.action is None else decision.action.value
    listener = policy.site.relay.listeners.get(policy.site.relay.redirect_to or "")
    host = Host(around.inside_interfaces, redirect_port=listener.port if listener else None, queue="native")
    statements = statements_of(render_ruleset(policy, host), decision.rule) if decision.rule else []
    if as_json:
        _tell_json(action, decision.rule, decision.reason, told.steps, {"nft": statements})
        return
    protocol = flow.protocol.value
    where = protocol if flow.protocol in TUNNELS else f"port {flow.destination_port}/{protocol}"
    _tell(f"{action}: {flow.source} -> {flow.destination} {where}", decision.rule, told.steps)
    if not decision.rule:
        click.echo(f"  {decision.reason}: allowed")
    for line in statements:
        click.echo(f"  nft: {line}")
    if everything:
        click.echo(f"  not asked: {', '.join(told.later) or '-'}")


def say_message(policy: Policy, facts: MailFacts, *, as_json: bool) -> None:
    """The rule that decides a message for one recipient, and which way it would leave."""
    told = explain_mail(policy, facts)
    decision, path = told.decision, facts.forward_path
    leaves = None if decision.action in _STAYS_OUT else explain_route(policy, facts, decision)
    refused = decide_envelope(policy, before_data(facts))
    findings = facts.scan.findings if facts.scan else ()
    if as_json:
        more: dict[str, object] = {"recipient": path, "findings": list(findings), "folder": decision.folder}
        more |= _way_json(leaves) if leaves else {}
        more["rcpt"] = {"action": refused.action.value, "rule": refused.rule} if refused else {"action": "go-on"}
        _tell_json(decision.action.value, decision.rule, decision.reason, told.steps, more)
        return
    _tell(f"{decision.action.value}: {facts.reverse_path or '<>'} -> {path}", decision.rule, told.steps)
    if told.steps and told.steps[-1].outcome != "decides":
        click.echo(f"  {decision.reason}")
    if refused is not None:
        rule = "for no rule matches" if refused.rule == "(none)" else f"by {refused.rule}"
        click.echo(f"  at RCPT already: {refused.action.value} {rule}")
    if leaves is not None:
        _tell_way(leaves)
    for finding in findings:
        click.echo(f"  found: {''.join(c if c.isprintable() else '?' for c in finding)}")


def _way_json(leaves: RouteExplanation) -> Mapping[str, object]:
    rows = [{"route": s.rule, "at": s.at, "outcome": s.outcome, "words": s.words} for s in leaves.steps]
    return {"via": list(leaves.way.written), "route": leaves.way.route, "routes": rows}


def _tell_way(leaves: RouteExplanation) -> None:
    way = leaves.way
    taken = leaves.steps[-1] if way.route else None
    for step in leaves.steps:
        if step is not taken:
            click.echo(f"  {'not ' if step.outcome == 'failed' else ''}route {step.rule} at {step.at}: {step.words}")
    where = {"local": "into the local mailbox", "mx": f"by the MX of {way.domain}"}.get(
        way.written[0], f"via {', '.join(way.written)}"
    )
    click.echo(f"  leaves {where}" + (f", route {taken.rule} at {taken.at}" if taken else ""))


def _tell(first: str, rule: str, steps: Sequence[Step]) -> None:
    color = {"allow": "green", "accept": "green"}.get(first.partition(":")[0], "red")
    click.echo(colored(first, color))
    deciding = next((step for step in steps if step.rule == rule and step is steps[-1]), None)
    if deciding is not None:
        click.echo(f"  by {deciding.rule} at {deciding.at} ({deciding.words})")
    for step in steps:
        if step is not deciding:
            click.echo(
                f"  not {step.rule} at {step.at}: {step.words}"
                if step.outcome in {"failed", "unknown"}
                else f"  {step.rule} at {step.at}: {step.words}"
            )


def _tell_json(action: str, rule: str, reason: str, steps: Sequence[Step], more: Mapping[str, object]) -> None:
    rows = [{"rule": s.rule, "at": s.at, "outcome": s.outcome, "words": s.words} for s in steps]
    click.echo(json.dumps({"schema": SCHEMA, "action": action, "rule": rule, "reason": reason, "steps": rows, **more}))
