"""Mutants of a policy: each rule taken away, each rule turned round; who notices?

Contract
    Pure. A mutant that no expectation notices survives: nobody would see that rule go wrong.
    Only the cases that a rule takes part in can notice its mutants; the others are not tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from egressguard.policy.expect import FlowCase, MailCase
from egressguard.policy.model import Device, FlowRule, Limit, MailRule, Policy, Route, TlsRule
from egressguard.policy.trial import Trial, run_trials

SECTIONS = ("flows", "mail", "limits", "routes", "tls", "devices")
_FLOW_FLIPS = {"allow": "reject", "reject": "allow", "drop": "allow", "redirect": "allow"}
_MAIL_FLIPS = {
    "accept": "reject",
    "reject": "accept",
    "defer": "accept",
    "quarantine": "accept",
    "hold": "accept",
    "continue": "accept",
}
_LIMIT_FLIPS = {"defer": "reject", "reject": "defer", "quarantine": "defer", "contain": "reject"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """`rule` of `section`, standing at `at`; `change` says what was done to it."""

    section: str
    rule: str
    at: str
    change: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class Mutation:
    """How many mutants there were, and those that no expectation noticed."""

    total: int
    survivors: tuple[Mutant, ...]

    @property
    def percent(self) -> float:
        return 100.0 if not self.total else 100.0 * (self.total - len(self.survivors)) / self.total


def mutate(
    policy: Policy, cases: Sequence[Trial], progress: Callable[[int, int], object] = lambda _n, _of: None
) -> Mutation:
    """Try every mutant. The cases are all green with `policy` itself; `progress` is told (tried, of how many)."""
    everyone = list(mutants(policy))
    watchers = _watchers(policy, cases)
    survivors: list[Mutant] = []
    for number, mutant in enumerate(everyone, start=1):
        watching = watchers(mutant)
        if all(result.is_green for result in run_trials(mutant.policy, watching)):
            survivors.append(mutant)
        progress(number, len(everyone))
    return Mutation(len(everyone), tuple(survivors))


def mutants(policy: Policy) -> Iterator[Mutant]:
    """Each rule, limit, route, `tls` rule and device of the policy taken away, and turned round where it can be."""
    for section in SECTIONS:
        items = getattr(policy, section)
        for index, item in enumerate(items):
            rest = (*items[:index], *items[index + 1 :])
            yield Mutant(section, item.name, item.at, "taken away", policy.replace(**{section: rest}))
            turned = _turned(item)
            if turned is not None:
                change, other = turned
                changed = (*items[:index], other, *items[index + 1 :])
                yield Mutant(section, item.name, item.at, change, policy.replace(**{section: changed}))


def _turned(item: Any) -> tuple[str, Any] | None:
    """The item turned round, with words for it; None when there is no other way round."""
    change: dict[str, Any]
    if getattr(item, "staged", False):
        change = {"staged": False}
    elif isinstance(item, FlowRule):
        change = {"action": _FLOW_FLIPS[item.action]}
    elif isinstance(item, MailRule):
        change = {"action": _MAIL_FLIPS[item.action]}
    elif isinstance(item, Limit):
        change = {"above": _LIMIT_FLIPS[item.above]}
    elif isinstance(item, Route):
        change = {"via": ("mx",)} if item.via != ("mx",) else {}
    elif isinstance(item, TlsRule):
        change = {"level": "none" if item.level != "none" else "encrypt"}
    else:
        assert isinstance(item, Device)
        change = {"recipients": ()} if item.recipients else {}
    if not change:
        return None
    words = ", ".join(f"{key}: {_written(value)}" for key, value in change.items())
    return f"turned to {words}", item.model_copy(update=change)


def _written(value: Any) -> str:
    """As a rule file would say it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else f"[{', '.join(value)}]"


def _watchers(policy: Policy, cases: Sequence[Trial]) -> Callable[[Mutant], list[Trial]]:
    """Mutant -> the cases that its rule takes part in: those whose result names it with all other rules as they are.

    Flow and mail cases see rules of their own plane; limits, routes, `tls` and devices by mail cases."""
    flows = [trial for trial in cases if isinstance(trial.case, FlowCase)]
    mail = [trial for trial in cases if isinstance(trial.case, MailCase)]
    of_flow: dict[str, list[Trial]] = {}
    for trial, result in zip(flows, run_trials(policy, flows), strict=True):
        for name in {result.found["rule"], *result.found["would"]}:
            of_flow.setdefault(name, []).append(trial)
    of_mail: dict[str, list[Trial]] = {}
    adding = {rule.name for rule in policy.mail if rule.action == "continue"}
    for trial, result in zip(mail, run_trials(policy, mail), strict=True):
        for name in {result.found["rule"], *result.found.get("would", ())}:
            of_mail.setdefault(name, []).append(trial)

    def watching(mutant: Mutant) -> list[Trial]:
        if mutant.section == "flows":
            return of_flow.get(mutant.rule, [])
        if mutant.section == "mail" and mutant.rule not in adding:
            return of_mail.get(mutant.rule, [])
        return mail

    return watching
