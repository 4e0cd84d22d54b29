"""Mail with REQUIRETLS (RFC 8689) and the hosts that were tried with it. Pure.

Contract
    A host that cannot take it ends nothing: another one of the same destination may (s4.2.1).
    It bounces when each host that was tried offers no TLS (5.7.10) or no REQUIRETLS (5.7.30). One that could not be
    talked to, or whose TLS failed, may be better next time: transient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from egressguard.mail.outcome import Outcome, permanent
from egressguard.smtp.client import Sent

_NO_REQUIRETLS, _NO_STARTTLS = "5.7.30", "4.7.4"


def wants_another_host(sent: Sent) -> bool:
    """Whether what a host said is no reason to leave it at that."""
    return not sent.begun or _is_of_all(sent, _NO_REQUIRETLS)


def summed_up(tried: Sequence[Sent], *, requiretls: bool) -> Sent:
    """What becomes of the message; `tried` are the hosts that did not take part in a transaction, at least one.

    The last one has the dialogues of all."""
    last = tried[-1]
    if not requiretls:
        return last
    for sent in reversed(tried):
        if not (_is_of_all(sent, _NO_REQUIRETLS) or _is_of_all(sent, _NO_STARTTLS)):
            return replace(sent, dialogues=last.dialogues)
    outcomes = {path: _no_tls(outcome) for path, outcome in last.outcomes.items()}
    return replace(last, outcomes=outcomes, begun=True)


def _is_of_all(sent: Sent, status: str) -> bool:
    """What we found out ourselves, not a host's own words."""
    return all(outcome.status == status and outcome.reply is None for outcome in sent.outcomes.values())


def _no_tls(outcome: Outcome) -> Outcome:
    if outcome.status == _NO_REQUIRETLS:
        return outcome
    return permanent("5.7.10", f"REQUIRETLS: {outcome.text}", outcome.said_by)
