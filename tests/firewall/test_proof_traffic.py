"""A packet that the proof shows is sent for real, and gets through; with the rules mended it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from egressguard.firewall.host import Host
from egressguard.firewall.listing import parse_listing
from egressguard.firewall.proof import prove_listing
from egressguard.firewall.table import TABLE
from egressguard.policy.decision import FlowAction
from egressguard.policy.explain import explain_flow
from egressguard.policy.flows import Surroundings
from egressguard.policy.model import Policy
from egressguard.policy.proof import Proof
from tests.firewall.conftest import RELAY_UID, GateRunner, Program
from tests.firewall.test_differential import SEND, SNIFF, counted, interface_mac, packet, prepare
from tests.firewall.test_traffic import wait_until
from tests.lab.network import Network

pytestmark = pytest.mark.system

SITE: dict[str, Any] = {"zones": {"lan": {"interfaces": ["br0"], "networks": ["10.1.0.0/24", "fd00:1::/112"]}}}
OPEN = {"name": "open", "from": "lan", "destination": "203.0.113.16/28", "port": 25, "action": "allow"}
BLOCK = {"name": "block", "from": "lan", "port": 25, "action": "reject"}
NUMBER = 40123


def policy_of(*flows: dict[str, Any]) -> dict[str, Any]:
    return {"site": SITE, "flows": list(flows), "invariants": [{"name": "mine", "never": {"from": "lan", "port": 25}}]}


def proofs(network: Network, policy: Policy) -> dict[str, Proof]:
    listed = network.run("gateway", "nft", "-n", "-j", "list", "table", "inet", TABLE).stdout
    host = Host(frozenset(), None, RELAY_UID, "xt")
    return {proof.name: proof for proof in prove_listing(policy, host, parse_listing(listed, TABLE))}


def test_a_packet_against_an_invariant_gets_through_and_none_does_when_it_holds(
    network: Network, gate: GateRunner
) -> None:
    gate.start(policy_of(OPEN, BLOCK)).wait("ready")
    prepare(network)
    policy = Policy.model_validate(policy_of(OPEN, BLOCK))
    found = proofs(network, policy)
    assert {name for name, proof in found.items() if not proof.holds} == {"mine"}
    witness = found["mine"].witness
    assert witness is not None and witness.flow is not None and witness.interface == "br0"
    assert explain_flow(policy, witness.flow, Surroundings()).decision.action is FlowAction.ALLOW
    flow = replace(witness.flow, source_port=NUMBER, source_mac="02:53:00:00:00:01")

    sniffer = Program(network, "internet", "-c", SNIFF)
    sender = Program(network, "bot", "-c", SEND, interface_mac(network, "br0"))
    try:
        sniffer.wait("ready")
        sender.say(packet(flow, ""))
        assert sniffer.wait("arrived", lambda number: number == NUMBER) == NUMBER

        gate.end()
        gate.start(policy_of(BLOCK, OPEN)).wait("ready")
        mended = proofs(network, Policy.model_validate(policy_of(BLOCK, OPEN)))
        assert all(proof.holds for proof in mended.values())
        sender.say(packet(replace(flow, source_port=NUMBER + 1), ""), packet(replace(flow, destination_port=80), ""))
        wait_until(lambda: counted(network)["block"] == 1)
        assert sniffer.wait("arrived") == NUMBER  # the one to port 80: the other is stopped
    finally:
        for program in (sniffer, sender):
            program.end()
