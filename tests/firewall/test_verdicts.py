"""Verdicts on queued packets: the policy's answer, from the rule that queued the packet on."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from egressguard.firewall.table import queue_mark
from egressguard.firewall.verdicts import decide_packet
from egressguard.net.flow import IPAddress
from egressguard.policy.decision import FlowAction
from egressguard.policy.flows import Surroundings
from egressguard.policy.model import Policy
from tests.firewall.test_nflog import PACKET, SEGMENT

POLICY = Policy.model_validate(
    {
        "site": {"zones": {"lan": {"networks": "192.0.2.0/24"}}},
        "flows": [
            {"name": "never-reached", "from": "lan", "port": 25, "action": "allow"},
            {
                "name": "by-name",
                "from": "lan",
                "port": 25,
                "destination_host": "mx.example",
                "decide": "queue",
                "action": "allow",
            },
            {"name": "rest", "from": "lan", "port": 25, "action": "reject"},
        ],
    }
)
MX = frozenset({ip_address("198.51.100.25")})


@pytest.mark.parametrize(
    ("known", "action", "rule"),
    [(MX, FlowAction.ALLOW, "by-name"), (frozenset(), FlowAction.REJECT, "rest"), (None, None, "by-name")],
    ids=["the-named-host", "another-host", "not-resolved-yet"],
)
def test_a_host_name_decides(known: frozenset[IPAddress] | None, action: FlowAction | None, rule: str) -> None:
    surroundings = Surroundings(addresses_of=lambda _name: known)

    _, decision = decide_packet(POLICY, PACKET + SEGMENT, queue_mark(1), "lan0", surroundings)

    assert (decision.action, decision.rule) == (action, rule)


@pytest.mark.parametrize("mark", [0, queue_mark(0) - 1, queue_mark(99)])
def test_a_mark_that_no_rule_set_is_dropped(mark: int) -> None:
    _, decision = decide_packet(POLICY, PACKET + SEGMENT, mark, "lan0", Surroundings())

    assert decision.action is FlowAction.DROP


def test_what_is_no_packet_is_dropped() -> None:
    packet, decision = decide_packet(POLICY, b"rubbish", queue_mark(1), "lan0", Surroundings())

    assert packet is None
    assert decision.action is FlowAction.DROP
