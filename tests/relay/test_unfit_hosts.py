"""Mail that some hosts cannot take: who else is tried, and what becomes of it."""

from __future__ import annotations

import pytest

from egressguard.mail.outcome import Outcome, Result, permanent, transient
from egressguard.mail.reply import Reply
from egressguard.relay.unfit_hosts import summed_up, wants_another_host
from egressguard.smtp.client import Sent

B = "b@example.net"
NOT_OFFERED = Sent({B: permanent("5.7.30", "no", "mx")}, begun=True)
STRIPPED = Sent({B: transient("4.7.4", "no STARTTLS", "mx")}, begun=False)
BROKEN = Sent({B: transient("4.7.5", "TLS failed", "mx")}, begun=False)
CUT_OFF = Sent({B: transient("4.7.0", "TLS failed: lost", "mx")}, begun=False)
SILENT = Sent({B: transient("4.4.1", "refused", "mx")}, begun=False)
REFUSED = Sent({B: permanent("5.1.1", "who", "mx")}, begun=True)
SAID_SO = Sent({B: Outcome.of_reply(Reply(550, "5.7.30", "REQUIRETLS needed"), "mx")}, begun=True)

SEVEN_BIT, ASCII, SMALL = (Sent({B: permanent(s, "no", "mx")}, begun=True) for s in ("5.6.3", "5.6.7", "5.3.4"))
SAID_TOO_BIG = Sent({B: Outcome.of_reply(Reply(552, "5.3.4", "too big"), "mx")}, begun=True)


@pytest.mark.parametrize(
    ("sent", "another"),
    [
        *((NOT_OFFERED, True), (STRIPPED, True), (SILENT, True), (REFUSED, False), (SAID_SO, False)),
        *((SEVEN_BIT, True), (ASCII, True), (SMALL, True), (SAID_TOO_BIG, False)),
    ],
)
def test_whether_another_host_is_tried(sent: Sent, another: bool) -> None:
    assert wants_another_host(sent) == another


@pytest.mark.parametrize(
    ("tried", "status", "begun"),
    [
        ([NOT_OFFERED], "5.7.30", True),
        ([STRIPPED], "5.7.10", True),
        ([NOT_OFFERED, STRIPPED], "5.7.10", True),
        ([STRIPPED, NOT_OFFERED], "5.7.30", True),
        ([BROKEN], "5.7.10", True),
        ([CUT_OFF], "4.7.0", True),
        ([SILENT], "4.4.1", False),
        ([SILENT, NOT_OFFERED], "4.4.1", False),
        ([BROKEN, STRIPPED], "5.7.10", True),
        ([BROKEN, NOT_OFFERED], "5.7.30", True),
        ([CUT_OFF, BROKEN], "4.7.0", True),
        ([SILENT, BROKEN], "4.4.1", False),
        ([BROKEN, SILENT], "4.4.1", False),
    ],
)
def test_what_becomes_of_it(tried: list[Sent], status: str, begun: bool) -> None:
    sent = summed_up(tried, requiretls=True)
    assert (sent.outcomes[B].status, sent.begun) == (status, begun)
    assert (sent.outcomes[B].result is Result.PERMANENT) == status.startswith("5")


@pytest.mark.parametrize(
    ("tried", "status"),
    [([BROKEN], "4.7.5"), ([STRIPPED], "5.7.10"), ([BROKEN, STRIPPED], "4.7.5"), ([SILENT, BROKEN], "4.7.5")],
)
def test_a_wrong_certificate_of_a_host_that_a_rule_names_is_ours_to_mend(tried: list[Sent], status: str) -> None:
    assert summed_up(tried, requiretls=True, by_rule=True).outcomes[B].status == status


def test_other_mail_is_what_the_last_host_was() -> None:
    assert summed_up([BROKEN, STRIPPED], requiretls=False) is STRIPPED


@pytest.mark.parametrize(
    ("tried", "status"),
    [
        ([ASCII], "5.6.7"),
        ([SEVEN_BIT, ASCII], "5.6.7"),
        ([SILENT, ASCII], "4.4.1"),
        ([ASCII, SILENT], "4.4.1"),
    ],
)
def test_what_no_host_could_take_bounces_and_waits_for_those_that_could_not_be_asked(
    tried: list[Sent], status: str
) -> None:
    sent = summed_up(tried, requiretls=False)
    assert (sent.outcomes[B].status, sent.begun) == (status, True)
