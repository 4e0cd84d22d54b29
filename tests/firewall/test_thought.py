"""Flows that need the daemon: real packets through NFQUEUE, in whatever way this kernel has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.firewall.conftest import GateRunner, Program
from tests.firewall.test_traffic import dial, policy
from tests.lab.network import DNS_4, MX_4, MX_6, SMART_4, STRANGER_4, Network

pytestmark = pytest.mark.system

BY_NAME = {
    "name": "partner",
    "from": "lan",
    "port": 25,
    "destination_host": "mx.partner.example",
    "decide": "queue",
    "action": "allow",
}
PARTNER = ("mx.partner.example", SMART_4, "2001:db8:100::26")
REST = {"name": "rest", "from": "lan", "port": 25, "action": "reject"}


@pytest.fixture(scope="module")
def internet(network: Network) -> Iterator[Program]:
    """A mail server on port 25 of every address, and a name server that knows the partner's."""
    servers = [
        Program(network, "internet", "-m", "tests.firewall.run_server", "25"),
        Program(network, "internet", "-m", "tests.firewall.run_names", DNS_4, "53", *PARTNER),
    ]
    for server in servers:
        server.wait("ready")
    yield servers[0]
    for server in servers:
        server.end()


def started(gate: GateRunner) -> Program:
    program = gate.start(policy(BY_NAME, REST, resolvers=[DNS_4]))
    if program.wait("ready")["queue_backend"] == "none":
        pytest.skip("needs NFQUEUE: this kernel has neither nft's nor xt's")
    return program


def test_the_partner_known_by_name_is_reached_and_nobody_else(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    running = started(gate)

    # The first SYN is dropped while the name is asked for; TCP's second is decided.
    assert dial(network, "bot", SMART_4) == "220 here"
    assert dial(network, "bot", "2001:db8:100::26") == "220 here"
    assert dial(network, "bot", MX_4) == "refused"
    assert dial(network, "bot", MX_6) == "refused"
    seen = running.wait("flow.blocked", lambda fields: fields["destination"] == MX_4)
    assert (seen["rule"], seen["source"], seen["zones"]) == ("rest", "192.0.2.30", ["lan"])
    running.say("metrics")
    page = running.wait("metrics")
    for verdict, least in (("unknown", 1), ("allow", 1), ("reject", 2)):
        found = [line for line in page.splitlines() if f'packets_total{{verdict="{verdict}"}}' in line]
        assert float(found[0].split()[-1]) >= least, found


def test_with_nobody_to_decide_the_way_is_closed(network: Network, internet: Program, gate: GateRunner) -> None:
    started(gate).end()

    assert dial(network, "bot", SMART_4, seconds=2) == "silence"


def test_a_name_server_that_does_not_answer_keeps_the_way_closed(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    program = gate.start(policy(BY_NAME, REST, resolvers=[STRANGER_4]))
    program.wait("ready")

    assert dial(network, "bot", SMART_4, seconds=2) == "silence"


def test_an_allowed_connection_is_not_asked_about_again(network: Network, internet: Program, gate: GateRunner) -> None:
    running = started(gate)
    assert dial(network, "bot", SMART_4) == "220 here"
    running.say("metrics")
    page = running.wait("metrics")

    assert 'egressguard_nfqueue_packets_total{verdict="allow"} 1.0' in page


def test_rules_reloaded_while_the_queue_is_busy_are_the_ones_that_decide(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    running = started(gate)
    assert dial(network, "bot", SMART_4) == "220 here"
    running.say(
        "reload",
        policy({**REST, "name": "first", "port": 26}, {**BY_NAME, "action": "reject"}, REST, resolvers=[DNS_4]),
    )
    running.wait("reloaded")

    assert dial(network, "bot", MX_4) == "refused"
    assert running.wait("flow.blocked")["rule"] == "rest"


def test_a_fault_of_our_own_is_a_drop_and_the_next_packet_is_decided(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    faulty = {**BY_NAME, "destination_host": "x" * 64 + ".example"}  # no DNS label: dnspython raises
    running = gate.start(policy(faulty, REST, resolvers=[DNS_4]))
    running.wait("ready")

    assert dial(network, "bot", MX_4, seconds=2) == "silence"
    running.say("reload", policy(BY_NAME, REST, resolvers=[DNS_4]))
    running.wait("reloaded")
    assert dial(network, "bot", SMART_4) == "220 here"
