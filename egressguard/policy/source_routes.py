"""The sender programs the route, as in UUCP: a field of the message names the way out, where a rule lets it.

Contract
    Pure. The field counts only in a message whose rule has `source_routes`, which says what may be asked for; in any
    other it is text like the rest of the message.
    Mail for the site's own domains stays here: who is asked to carry it out would bring it back.
    One field with one way out, or the message is refused: a route that was asked for is never quietly another.
    Nothing else of a message is a route: not a percent sign or a bang in a local-part, nor "@a,@b:c@d".
"""

from __future__ import annotations

from dataclasses import replace

from egressguard.policy.decision import MailAction, MailDecision
from egressguard.policy.facts import MailFacts
from egressguard.policy.fields import parse_via
from egressguard.policy.model import Policy
from egressguard.policy.next_hop import canonical
from egressguard.policy.routes import is_local
from egressguard.policy.words import one_of, quote

FIELD = "X-EgressGuard-Route"
_LEAVES = frozenset({MailAction.ACCEPT, MailAction.HOLD, MailAction.QUARANTINE})


def as_asked(policy: Policy, decision: MailDecision, facts: MailFacts) -> MailDecision:
    """The decision on a whole message, with the way out that its sender asks for."""
    allowed = decision.effects.source_routes
    asked = facts.headers.get(FIELD.lower(), ()) if allowed and facts.headers else ()
    if not asked or decision.action not in _LEAVES or is_local(policy, facts.forward_path):
        return decision
    way = _way(asked[0]) if len(asked) == 1 else None
    if way is None or way not in map(canonical, allowed):
        words = f"{FIELD}: found {quote(', '.join(asked))}, expected {one_of(allowed)}"
        effects = replace(decision.effects, via=())
        return MailDecision(
            MailAction.REJECT, decision.rule, words, text=_ascii(words), effects=effects, would=decision.would
        )
    return replace(decision, effects=replace(decision.effects, via=(way,)))


def _way(text: str) -> str | None:
    try:
        return canonical(parse_via(text))
    except ValueError:
        return None


def _ascii(words: str) -> str:
    """As a reply may say it."""
    return words.encode("ascii", "replace").decode()
