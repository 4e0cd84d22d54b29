"""Real connections through a real kernel: what the rules promise is what a host in the LAN meets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.firewall.conftest import RELAY_UID, GateRunner, Program
from tests.lab.network import GATEWAY_LAN_4, MX_4, MX_6, SMART_4, Network

pytestmark = pytest.mark.system

ZONES = {
    "lan": {"interfaces": ["br0"], "networks": ["192.0.2.0/25", "2001:db8:1::/64"]},
    "guest": {"interfaces": ["guest0"]},
}
BLOCK = {"name": "block", "from": ["lan", "guest"], "port": 25, "action": "reject"}
DIAL = """
import socket, sys
address, port, source_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
with socket.socket(family) as sock:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(float(sys.argv[4]))
    try:
        sock.bind(("", source_port))
        sock.connect((address, port))
        print(sock.recv(100).decode().strip())
    except ConnectionRefusedError:
        print("refused")
    except ConnectionResetError:
        print("reset")
    except TimeoutError:
        print("silence")
    except OSError as wrong:
        print(wrong.strerror)
"""


def policy(*flows: dict[str, Any], **site: Any) -> dict[str, Any]:
    return {"site": {"zones": ZONES, "packet_plane": {"log_per_second": 10_000}, **site}, "flows": list(flows)}


def dial(
    network: Network,
    host: str,
    address: str,
    port: int = 25,
    *,
    source_port: int = 0,
    uid: int = 0,
    seconds: float = 5,
) -> str:
    """What a TCP client meets: the server's greeting, "refused", "reset" or "silence"."""
    user = ["setpriv", "--reuid", str(uid), "--clear-groups"] if uid else []
    words = [*user, "/usr/bin/python3", "-c", DIAL, address, str(port), str(source_port), str(seconds)]
    return network.run(host, *words).stdout.strip()


@pytest.fixture(scope="module")
def internet(network: Network) -> Iterator[Program]:
    """A mail server on port 25 of every address of the Internet."""
    server = Program(network, "internet", "-m", "tests.firewall.run_server", "25")
    server.wait("ready")
    yield server
    server.end()


@pytest.mark.parametrize("address", [MX_4, MX_6])
def test_direct_smtp_is_refused_at_once(network: Network, internet: Program, gate: GateRunner, address: str) -> None:
    running = gate.start(policy(BLOCK))
    running.wait("ready")

    assert dial(network, "bot", address) == "refused"
    seen = running.wait("flow.blocked")
    assert (seen["rule"], seen["destination"], seen["port"]) == ("block", address, 25)
    assert (seen["interface"], seen["zones"]) == ("br0", ["lan"])
    assert len(seen["mac"].split(":")) == 6


def test_an_exempt_host_passes_and_its_neighbour_does_not(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    exempt = {"name": "own", "from": "lan", "source": ["192.0.2.10", "2001:db8:1::10"], "port": 25, "action": "allow"}
    gate.start(policy(exempt, BLOCK)).wait("ready")

    assert [dial(network, "laptop", a) for a in (MX_4, MX_6)] == ["220 here"] * 2
    assert [dial(network, "bot", a) for a in (MX_4, MX_6)] == ["refused"] * 2


def test_a_redirected_flow_lands_here_and_remembers_where_it_wanted_to(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    relay = Program(network, "gateway", "-m", "tests.firewall.run_server", "0")
    try:
        running = gate.start(
            policy(
                {"name": "own", "from": "guest", "destination": SMART_4, "port": 25, "action": "allow"},
                {"name": "guests", "from": "guest", "port": 25, "action": "redirect"},
                BLOCK,
            ),
            redirect_port=relay.wait("ready"),
        )
        running.wait("ready")
        for address, meant in ((MX_4, f"{MX_4}:25"), (MX_6, f"[{MX_6}]:25")):
            assert dial(network, "guest", address) == "220 here"
            assert relay.wait("connection")[1] == meant
            assert running.wait("flow.redirected")["destination"] == address
        assert dial(network, "guest", SMART_4) == "220 here"
        assert internet.wait("connection")[0].endswith("192.0.2.140")
    finally:
        relay.end()


def test_only_the_relays_user_reaches_port_25_from_the_gateway(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    running = gate.start(policy(BLOCK))
    running.wait("ready")

    assert dial(network, "gateway", MX_4, uid=RELAY_UID + 1) == "refused"
    assert running.wait("flow.blocked")["rule"] == "own-processes"
    assert [dial(network, "gateway", a, uid=RELAY_UID) for a in (MX_4, MX_6)] == ["220 here"] * 2
    running.say("stop")
    assert 'rule="own-processes",zone="gateway"} 1.0' in flows(running.wait("stopped"))


def flows(page: str) -> str:
    return "\n".join(line for line in page.splitlines() if line.startswith("egressguard_firewall_flows_total"))


def test_the_wall_stands_when_the_gate_is_killed(network: Network, internet: Program, gate: GateRunner) -> None:
    running = gate.start(policy(BLOCK))
    running.wait("ready")
    running.end()

    assert dial(network, "bot", MX_4) == "refused"


def test_tables_of_others_are_left_alone(network: Network, gate: GateRunner) -> None:
    other = 'table inet other {\n\tset s { type ipv4_addr; elements = { 192.0.2.99 }; }\n\tchain c { counter; }\n}\n'
    network.run("gateway", "nft", "-f", "-", given=other)
    before = network.run("gateway", "nft", "list", "table", "inet", "other").stdout
    running = gate._program = None
    running = Program(network, "gateway", "-m", "tests.firewall.run_gate")
    try:
        running.say("start", policy(BLOCK), None, RELAY_UID, "/nonexistent")
        running.wait("ready")
        running.say("reload", policy())
        running.wait("reloaded")
        listed = network.run("gateway", "nft", "list", "tables").stdout.split("\n")
        assert sorted(filter(None, listed)) == ["table inet egressguard", "table inet other"]
        assert "192.0.2.99" in before
        assert network.run("gateway", "nft", "list", "table", "inet", "other").stdout == before
    finally:
        running.end()


def test_a_server_in_the_lan_answers_though_its_host_may_open_nothing(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    server = Program(network, "printer", "-m", "tests.firewall.run_server", "8080")
    try:
        server.wait("ready")
        gate.start(policy({"name": "nothing", "from": "lan", "action": "reject"})).wait("ready")

        assert dial(network, "internet", "192.0.2.20", 8080) == "220 here"
        assert dial(network, "internet", "2001:db8:1::20", 8080) == "220 here"
        assert dial(network, "printer", MX_4, 25, source_port=8081) == "refused"
    finally:
        server.end()


def test_a_client_outside_whose_own_port_is_25_is_answered(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    server = Program(network, "printer", "-m", "tests.firewall.run_server", "8080")
    try:
        server.wait("ready")
        gate.start(policy(BLOCK)).wait("ready")

        assert dial(network, "guest", "192.0.2.20", 8080) == "220 here"
        # an address of the Internet on which nobody listens on port 25 would be needed: the server has them all
    finally:
        server.end()


def test_the_gateways_own_services_are_not_the_walls_business(network: Network, gate: GateRunner) -> None:
    relay = Program(network, "gateway", "-m", "tests.firewall.run_server", "25")
    try:
        relay.wait("ready")
        redirect = {"name": "guests", "from": ["lan", "guest"], "port": 25, "action": "redirect"}
        gate.start(policy(redirect, BLOCK), redirect_port=9).wait("ready")

        assert dial(network, "bot", GATEWAY_LAN_4) == "220 here"
    finally:
        relay.end()
