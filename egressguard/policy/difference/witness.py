"""What a policy really says to a witness: policy.mail and policy.flows are asked, not the boxes.

Contract
    Pure. Two policies say the same exactly when what they come to here is equal; names of rules do not count, nor
    does the order of things added whose order means nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from egressguard.policy.decision import MailDecision
from egressguard.policy.difference.programs import STAYS_OUT, way_meant
from egressguard.policy.expect import FlowGiven, MailGiven
from egressguard.policy.facts import MailFacts
from egressguard.policy.flows import decide_flow
from egressguard.policy.limits import quotas
from egressguard.policy.mail import decide_envelope, decide_mail, limit_of
from egressguard.policy.model import Policy
from egressguard.policy.routes import RouteFacts, way_out
from egressguard.policy.trial import before_data, flow_of, mail_facts, surroundings_of


def message_comes_to(policy: Policy, given: Mapping[str, Any]) -> Hashable:
    """What becomes of the message: for its first recipient, RCPT and content together."""
    message = MailGiven.model_validate(given)
    facts = mail_facts(policy, message, message.recipient[0])
    refused = decide_envelope(policy, before_data(facts))
    if refused is not None:
        return _decided(policy, refused)
    decision = decide_mail(policy, facts)
    return _decided(policy, decision), _beside(policy, facts, decision)


def flow_comes_to(policy: Policy, given: Mapping[str, Any]) -> Hashable:
    """What becomes of the flow."""
    flow = FlowGiven.model_validate(given)
    decision = decide_flow(policy, flow_of(flow), surroundings_of(flow))
    rule = next((rule for rule in policy.flows if rule.name == decision.rule), None)
    action = decision.action.value if decision.action else None
    beside: Hashable = ()
    if rule is not None and action is not None:
        beside = (rule.log, rule.log_per_second) if action != "allow" else ()
        beside = beside, (rule.fail if rule.decide == "queue" else "")
    return action, beside, frozenset(would.action for would in decision.would)


def _decided(policy: Policy, decision: MailDecision) -> Hashable:
    if decision.limit:
        limit = limit_of(policy, decision.limit)
        assert limit is not None
        return decision.action.value, decision.folder, limit.text, decision.contain_seconds, "above a limit"
    text = decision.text if decision.action.value in STAYS_OUT else ""
    return decision.action.value, decision.folder, text


def _beside(policy: Policy, facts: MailFacts, decision: MailDecision) -> Hashable:
    effects = decision.effects
    staged = {(would.rule.startswith("limit "), would.action) for would in decision.would}
    told = frozenset(address for _rule, address in effects.notify), frozenset(staged)
    if decision.refuses:
        return told
    way = way_out(policy, RouteFacts.of(facts, effects.tags), effects.via)
    limits = (limit_of(policy, name) for name in effects.limits)
    return (
        *told,
        frozenset((name.lower(), value) for name, value in effects.headers),
        frozenset(effects.tags),
        frozenset((limit.per, quotas(limit)) for limit in limits if limit is not None),
        effects.rewrite_sender,
        frozenset(way_meant({}, (way,)) for way in effects.source_routes),
        way.via,
        way.domain,
    )
