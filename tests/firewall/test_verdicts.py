"""Verdicts on queued packets: the policy's answer, from the rule that queued the packet on."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.firewall.table import queue_mark
from egressguard.firewall.verdicts import Recent, decide_packet, flow_key, mac_of
from egressguard.net.flow import IPAddress
from egressguard.net.headers import parse_packet
from egressguard.policy.decision import FlowAction, FlowDecision
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


def test_a_card_is_known() -> None:
    assert mac_of(bytes.fromhex("0053000000010000")) == "00:53:00:00:00:01"
    assert mac_of(b"") == ""


ANY = st.binary(max_size=80)
LIKELY = st.builds(lambda head, rest: head + rest, st.sampled_from([b"\x45\x00", b"\x46\x00", b"\x60\x00"]), ANY)


@given(ANY | LIKELY, st.binary(min_size=2, max_size=2))
def test_packets_of_one_key_are_one_flow_to_the_rules(octets: bytes, port: bytes) -> None:
    """The source port and all that is not looked at may differ; what has a key can be parsed."""
    key = flow_key(octets)
    if not key:
        return
    at = 20 if octets[0] >> 4 == 4 else 40
    other = octets[:at] + port + octets[at + 2 :]
    assert flow_key(other) == key
    one, two = parse_packet(octets + bytes(40)), parse_packet(other + bytes(40))
    assert one is not None and two is not None
    assert (one.source, one.destination, one.destination_port, one.protocol) == (
        two.source,
        two.destination,
        two.destination_port,
        two.protocol,
    )


def test_a_decision_serves_for_a_second_and_an_open_question_never() -> None:
    now = [0.0]
    recent = Recent(clock=lambda: now[0])
    key = (flow_key(PACKET + SEGMENT), 1, 2, None)
    open_question = (None, FlowDecision(None, "r", ""), "", "")
    decided = (None, FlowDecision(FlowAction.DROP, "r", ""), "", "")

    recent.keep(key, open_question)
    assert recent.find(key) is None
    recent.keep(key, decided)
    assert recent.find(key) is decided
    assert recent.find((key[0], 2, 2, None)) is None and recent.find((key[0], 1, 2, b"x")) is None
    recent.keep((b"", 1, 2, None), decided)
    assert recent.find((b"", 1, 2, None)) is None
    now[0] = 1.0
    assert recent.find(key) is None


def test_what_a_decision_served_for_is_noted_once_and_counted() -> None:
    now, noted = [0.0], []
    recent = Recent(clock=lambda: now[0], note=lambda *told: noted.append(told))
    packet = parse_packet(PACKET + SEGMENT)
    key, other = (flow_key(PACKET + SEGMENT), 1, 2, None), (b"", 1, 2, None)
    decision = FlowDecision(FlowAction.DROP, "r", "")
    judged = (packet, decision, "lan0", "00:53:00:00:00:01")

    for _ in range(3):
        if recent.find(key) is None:
            recent.keep(key, judged)
    recent.keep(other, judged)  # one that is parsed each time
    assert noted == [(*judged[:1], "lan0", judged[3], decision, 1)]
    recent.settle()
    assert len(noted) == 1
    now[0] = 1.5
    recent.settle()
    recent.settle()
    assert noted[1:] == [(packet, "lan0", "00:53:00:00:00:01", decision, 3)]
