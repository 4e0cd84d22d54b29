"""What the gate records of flows: real packets, each decision as it was, and decided again by the same rules alike."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from egressguard.observe.clock import local_moment
from egressguard.policy.backtest import FlowJudge, Tally, tally_flow
from egressguard.policy.model import Policy
from egressguard.policy.recorded import RecordedFlow, recorded_flow
from tests.firewall.conftest import GateRunner, Program
from tests.firewall.test_traffic import BLOCK, dial, policy
from tests.lab.network import MX_4, MX_6, SMART_4, Network

pytestmark = pytest.mark.system

OWN = {"name": "own-server", "from": "lan", "source": "192.0.2.10", "port": 25, "action": "allow"}
QUEUED = {"name": "asked", "from": "lan", "port": 26, "decide": "queue", "action": "reject"}


@pytest.fixture(scope="module")
def internet(network: Network) -> Iterator[Program]:
    servers = [Program(network, "internet", "-m", "tests.firewall.run_server", port) for port in ("25", "587")]
    for server in servers:
        server.wait("ready")
    yield servers[0]
    for server in servers:
        server.end()


def recorded(running: Program, wanted: int) -> list[RecordedFlow]:
    """So many classes of flows, as they come."""
    found = [recorded_flow(running.wait("flow.decided")) for _ in range(wanted)]
    return [each for each in found if each is not None]


def test_what_was_decided_stands_there_and_is_decided_again_alike(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    given = policy(OWN, BLOCK, QUEUED, journal={"passed_flows": {"port": [25, 26, 587]}})
    running = gate.start(given)
    has_queue = running.wait("ready")["queue_backend"] != "none"
    tried = [("bot", MX_4, 25), ("bot", MX_6, 25), ("laptop", SMART_4, 25), ("printer", MX_4, 587)]
    tried += [("bot", MX_4, 26)] if has_queue else []
    for host, address, port in tried:
        dial(network, host, address, port)

    found = recorded(running, len(tried))
    told = {
        (str(each.facts.flow.source), str(each.facts.flow.destination), each.facts.flow.destination_port): (
            each.facts.action,
            each.facts.rule,
        )
        for each in found
    }
    expected = {
        ("192.0.2.30", MX_4, 25): ("reject", "block"),
        ("2001:db8:1::30", MX_6, 25): ("reject", "block"),
        ("192.0.2.10", SMART_4, 25): ("allow", "own-server"),
        ("192.0.2.20", MX_4, 587): ("allow", ""),
    }
    expected |= {("192.0.2.30", MX_4, 26): ("reject", "asked")} if has_queue else {}
    assert told == expected
    assert all(each.facts.flow.interface == "br0" and each.facts.flow.source_mac for each in found)

    same, open_to_all = Tally(), Tally()
    for each in found:
        tally_flow(same, each, FlowJudge(Policy.model_validate(given), local_moment))
        tally_flow(open_to_all, each, FlowJudge(Policy.model_validate(policy(OWN)), local_moment))
    assert same.is_same and same.judged["flow"] == sum(each.count for each in found)
    assert {row["host"] for row in open_to_all.found()} == {"192.0.2.30", "2001:db8:1::30"}
