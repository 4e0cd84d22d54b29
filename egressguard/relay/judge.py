"""What a message comes to: facts for each recipient, the policy's decisions, and what limits say to that.

Contract
    Limits are looked at, decided by and charged in one step: of many messages at once, exactly as many pass as may.
    A limit that cannot be counted (its file is damaged, the disk is full) is trouble of our own: LimitTrouble, 451.
    A contained host is deferred before any rule is asked.
    One reply speaks for all recipients: the strictest decision holds, with the effects of all (decisions/0003).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from egressguard.mail.envelope import Envelope
from egressguard.net.flow import IPAddress
from egressguard.policy.decision import MailAction, MailDecision
from egressguard.policy.facts import Excess
from egressguard.policy.limits import Amounts
from egressguard.policy.mail import contains_hosts, decide_envelope, decide_mail, strictest
from egressguard.policy.model import Policy
from egressguard.relay.facts import OWN_SENDER, ContentFacts, SenderFacts, recipient_facts
from egressguard.smtp.hooks import SessionFacts
from egressguard.values import value

CONTAINED = "(contained)"


class Until(Protocol):
    @property
    def until(self) -> float: ...

    @property
    def limit(self) -> str: ...


class Limits(Protocol):
    """store.limits.LimitStore, as far as it is used here. Raises OSError when it cannot count."""

    def step(self) -> AbstractContextManager[object]: ...

    def exceeded(
        self, policy: Policy, client: IPAddress, user: str | None, reverse_path: str, amounts: Amounts, now: float
    ) -> Mapping[str, Excess]: ...

    def charge(
        self,
        policy: Policy,
        limit_names: tuple[str, ...],
        client: IPAddress,
        user: str | None,
        reverse_path: str,
        amounts: Amounts,
        now: float,
    ) -> None: ...

    def contain(self, host: str, until: float, limit: str) -> None: ...

    def contained(self, host: str, now: float) -> Until | None: ...


@value(frozen=True, slots=True)
class Judgement:
    """`via` has the way out of each recipient whose rules named one."""

    decision: MailDecision
    via: Mapping[str, tuple[str, ...]]


def judge_recipient(
    policy: Policy,
    limits: Limits,
    session: SessionFacts,
    reverse_path: str,
    forward_path: str,
    size: int,
    now: float,
    sender: SenderFacts = OWN_SENDER,
) -> MailDecision | None:
    """The refusal of one recipient, or None: go on. Raises OSError."""
    if (shut := _contained(policy, limits, session, now)) is not None:
        return shut
    if not policy.limits:
        return decide_envelope(policy, recipient_facts(session, reverse_path, forward_path, now, {}, sender))
    one = Amounts(messages=1, octets=size, recipients=(forward_path,))
    with limits.step():
        exceeded = limits.exceeded(policy, session.client, session.user, reverse_path, one, now)
        facts = recipient_facts(session, reverse_path, forward_path, now, exceeded, sender)
        decision = decide_envelope(policy, facts)
        if decision is not None:
            _charge(policy, limits, session, reverse_path, decision, Amounts(refusals=1), now)
    return decision


def judge_message(
    policy: Policy, limits: Limits, session: SessionFacts, envelope: Envelope, content: ContentFacts, now: float
) -> Judgement:
    """The decision on a whole message, its limits charged. Raises OSError."""
    if (shut := _contained(policy, limits, session, now)) is not None:
        return Judgement(shut, {})
    if not policy.limits:
        return _decide(policy, session, envelope, content, now, {})
    amounts = Amounts(messages=1, octets=content.size_octets, recipients=envelope.forward_paths)
    with limits.step():
        exceeded = limits.exceeded(policy, session.client, session.user, envelope.reverse_path, amounts, now)
        judgement = _decide(policy, session, envelope, content, now, exceeded)
        charged = Amounts(refusals=1) if judgement.decision.refuses else amounts
        _charge(policy, limits, session, envelope.reverse_path, judgement.decision, charged, now)
    return judgement


def _decide(
    policy: Policy,
    session: SessionFacts,
    envelope: Envelope,
    content: ContentFacts,
    now: float,
    exceeded: Mapping[str, Excess],
) -> Judgement:
    decisions = {
        path: decide_mail(policy, content.facts(session, envelope, path, now, exceeded))
        for path in envelope.forward_paths
    }
    via = {path: decision.effects.via for path, decision in decisions.items() if decision.effects.via}
    return Judgement(strictest(decisions.values()), via)


def _charge(
    policy: Policy,
    limits: Limits,
    session: SessionFacts,
    reverse_path: str,
    decision: MailDecision,
    amounts: Amounts,
    now: float,
) -> None:
    if decision.effects.limits:
        names = decision.effects.limits
        limits.charge(policy, names, session.client, session.user, reverse_path, amounts, now)
    if decision.contain_seconds:
        limits.contain(session.client_text, now + decision.contain_seconds, decision.limit)


def _contained(policy: Policy, limits: Limits, session: SessionFacts, now: float) -> MailDecision | None:
    if not contains_hosts(policy):
        return None
    found = limits.contained(session.client_text, now)
    if found is None:
        return None
    text = f"this host was above the limit {found.limit} and is shut out for {max(int(found.until - now), 1)} seconds"
    return MailDecision(MailAction.DEFER, CONTAINED, f"contained by limit {found.limit}", text=text)
