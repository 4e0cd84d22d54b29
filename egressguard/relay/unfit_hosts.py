"""Hosts that cannot take a message as it has to be sent, and others that were tried with it. Pure.

Contract
    A host without what a message needs (8BITMIME, BINARYMIME, SMTPUTF8, REQUIRETLS, its SIZE) ends nothing: another one
    of the same destination may have it (RFC 6531 s3.2, RFC 8689 s4.2.1).
    The message bounces when none has; where one could not be asked it waits.
    With REQUIRETLS it bounces when each host that was tried offers no TLS, or none that can be verified (5.7.10), or no
    REQUIRETLS (5.7.30): RFC 8689 s4.2.1 demands a notice then. One that could not be talked to, also in the middle of
    the handshake, may be better next time: transient. So is a wrong certificate of a host that our own rules name.
    A host whose TLS is not enough for such a message has answered all the same: other mail for it need not rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from egressguard.mail.outcome import Outcome, permanent
from egressguard.smtp.client import Sent

_NO_REQUIRETLS, _NO_STARTTLS, _TLS_FAILED, _TLS_CUT_OFF = "5.7.30", "4.7.4", "4.7.5", "4.7.0"
_CANNOT_TAKE = frozenset({_NO_REQUIRETLS, "5.6.3", "5.6.7", "5.3.4"})


def wants_another_host(sent: Sent) -> bool:
    """Whether what a host said is no reason to leave it at that."""
    return not sent.begun or _is_unfit(sent)


def _is_unfit(sent: Sent) -> bool:
    first = next(iter(sent.outcomes.values()), None)
    return first is not None and first.status in _CANNOT_TAKE and _is_of_all(sent, first.status)


def summed_up(tried: Sequence[Sent], *, requiretls: bool, by_rule: bool = False) -> Sent:
    """What becomes of the message; `tried` are the hosts that another one was wanted for, at least one.

    The last one has the dialogues of all. `by_rule`: the hosts are those that our rules name."""
    last = tried[-1]
    if not requiretls:
        silent = [sent for sent in tried if not sent.begun]
        if not silent or len(silent) == len(tried):
            return last
        return replace(silent[-1], begun=True, dialogues=last.dialogues)  # the destination is not dead: no rest for it
    final = (_NO_REQUIRETLS, _NO_STARTTLS, *(() if by_rule else (_TLS_FAILED,)))
    for sent in reversed(tried):
        if not any(_is_of_all(sent, status) for status in final):
            answered = _is_of_all(sent, _TLS_FAILED) or _is_of_all(sent, _TLS_CUT_OFF)
            return replace(sent, dialogues=last.dialogues, begun=sent.begun or answered)
    outcomes = {path: _no_tls(outcome) for path, outcome in last.outcomes.items()}
    return replace(last, outcomes=outcomes, begun=True)


def _is_of_all(sent: Sent, status: str) -> bool:
    """What we found out ourselves, not a host's own words."""
    return all(outcome.status == status and outcome.reply is None for outcome in sent.outcomes.values())


def _no_tls(outcome: Outcome) -> Outcome:
    if outcome.status == _NO_REQUIRETLS:
        return outcome
    return permanent("5.7.10", f"REQUIRETLS: {outcome.text}", outcome.said_by)
