"""Real connections through a real kernel: what the rules promise is what a host in the LAN meets."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.firewall.conftest import RELAY_UID, SECONDS, GateRunner, Program
from tests.lab.network import GATEWAY_LAN_4, MX_4, MX_6, NET_4, NET_6, SMART_4, Network

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

HOLD = """
import json, socket, sys
with socket.create_connection((sys.argv[1], 25), 5) as sock:
    sock.recv(100)
    print(json.dumps(["open", 0]), flush=True)
    sock.sendall(json.loads(sys.stdin.readline())[0].encode())
    try:
        print(json.dumps(["closed", "end" if sock.recv(1) == b"" else "data"]), flush=True)
    except ConnectionResetError:
        print(json.dumps(["closed", "reset"]), flush=True)
    except TimeoutError:
        print(json.dumps(["closed", "silence"]), flush=True)
"""
FORGE = """
import sys
from scapy.layers.inet import IP, TCP
from scapy.sendrecv import send
send(IP(src=sys.argv[1], dst=sys.argv[2]) / TCP(sport=25, dport=40000, flags="S", seq=1), verbose=False)
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


def test_a_staged_rule_counts_and_tells_and_stops_nothing(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    running = gate.start(policy(BLOCK | {"staged": True}))
    running.wait("ready")

    assert [dial(network, "bot", a) for a in (MX_4, MX_6)] == ["220 here"] * 2
    seen = running.wait("flow.would")
    assert (seen["rule"], seen["destination"], seen["port"]) == ("block", MX_4, 25)
    running.say("stop")
    assert 'action="would",rule="block",zone="lan"} 2.0' in flows(running.wait("stopped"))


BOT = ("192.0.2.30", "2001:db8:1::30", "2001:db8:1::1e")
CONTAINS = {"limits": [{"name": "few", "per": "host", "messages_per_hour": 9, "above": "contain"}]}


def test_a_contained_host_reaches_no_mail_port_and_is_let_go(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    allow = {"name": "all", "from": "lan", "port": 25, "action": "allow"}
    running = gate.start(policy(allow) | CONTAINS)
    running.wait("ready")
    assert dial(network, "bot", MX_4) == "220 here"

    running.say("contain", {bot: 60 for bot in BOT})

    wait_until(lambda: dial(network, "bot", MX_4) == "refused")
    assert dial(network, "bot", MX_6) == "refused"
    assert dial(network, "laptop", MX_4) == "220 here"
    assert running.wait("flow.blocked")["rule"] == "contained"

    running.say("reload", policy(allow) | CONTAINS)  # a new table learns it again
    running.wait("reloaded")
    wait_until(lambda: dial(network, "bot", MX_4) == "refused")

    running.say("contain", {})
    wait_until(lambda: dial(network, "bot", MX_4) == "220 here")


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
        assert internet.wait("connection", lambda came: came[0] == "::ffff:192.0.2.140")
    finally:
        relay.end()


LAN_6_GATEWAY, WAN_4, WAN_6 = "2001:db8:1::1", f"{NET_4}2", f"{NET_6}2"


@pytest.mark.parametrize(
    ("zones", "reached"),
    [([], ["laptop", "guest"]), (["lan"], ["laptop"]), (["guest"], ["guest"])],
    ids=["every zone", "lan", "guest"],
)
def test_the_gateway_s_own_mail_ports_are_open_to_its_zones_only(
    network: Network, gate: GateRunner, zones: list[str], reached: list[str]
) -> None:
    server = Program(network, "gateway", "-m", "tests.firewall.run_server", "993")
    other = Program(network, "gateway", "-m", "tests.firewall.run_server", "8080")
    try:
        server.wait("ready"), other.wait("ready")
        running = gate.start(policy(BLOCK, access={"imaps_port": 993, "zones": zones}))
        running.wait("ready")

        for host in ("laptop", "guest"):
            meets = "220 here" if host in reached else "refused"
            assert dial(network, host, GATEWAY_LAN_4, 993) == meets
            assert dial(network, host, GATEWAY_LAN_4, 8080) == "220 here"
        meets = "220 here" if "laptop" in reached else "refused"
        assert dial(network, "laptop", LAN_6_GATEWAY, 993) == meets
        for address in (WAN_4, WAN_6):
            assert dial(network, "internet", address, 993) == "refused"
            assert dial(network, "internet", address, 8080) == "220 here"
        assert dial(network, "gateway", GATEWAY_LAN_4, 993) == "220 here"
        assert running.wait("flow.blocked")["rule"] == "mail-access"
    finally:
        server.end()
        other.end()


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
    other = "table inet other {\n\tset s { type ipv4_addr; elements = { 192.0.2.99 }; }\n\tchain c { counter; }\n}\n"
    assert network.run("gateway", "nft", "-f", "-", given=other).returncode == 0
    listing = ("nft", "list", "table", "inet", "other")
    before = network.run("gateway", *listing).stdout
    running = gate.start(policy(BLOCK))
    running.wait("ready")
    running.say("reload", policy())
    running.wait("reloaded")

    listed = network.run("gateway", "nft", "list", "tables").stdout.split("\n")
    assert sorted(filter(None, listed)) == ["table inet egressguard", "table inet other"]
    assert "192.0.2.99" in before
    assert network.run("gateway", *listing).stdout == before


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


def test_the_gateways_own_services_are_not_the_walls_business(network: Network, gate: GateRunner) -> None:
    relay = Program(network, "gateway", "-m", "tests.firewall.run_server", "25")
    try:
        relay.wait("ready")
        redirect = {"name": "guests", "from": ["lan", "guest"], "port": 25, "action": "redirect"}
        gate.start(policy(redirect, BLOCK), redirect_port=9).wait("ready")

        assert dial(network, "bot", GATEWAY_LAN_4) == "220 here"
    finally:
        relay.end()


def test_a_connection_older_than_the_wall_is_cut(network: Network, internet: Program, gate: GateRunner) -> None:
    clients = [Program(network, "bot", "-c", HOLD, address) for address in (MX_4, MX_6)]
    try:
        for client in clients:
            client.wait("open")
        running = gate.start(policy(BLOCK))
        running.wait("ready")
        for client in clients:
            client.say("QUIT")
            assert client.wait("closed") == "reset"
    finally:
        for client in clients:
            client.end()


def test_a_connection_older_than_a_redirect_is_cut(network: Network, internet: Program, gate: GateRunner) -> None:
    client = Program(network, "guest", "-c", HOLD, MX_4)
    try:
        client.wait("open")
        redirect = {"name": "guests", "from": "guest", "port": 25, "action": "redirect"}
        gate.start(policy(redirect), redirect_port=9).wait("ready")
        client.say("QUIT")
        assert client.wait("closed") == "reset"
    finally:
        client.end()


def test_an_allowed_connection_lives_through_a_reload(network: Network, internet: Program, gate: GateRunner) -> None:
    allow = {"name": "own", "from": "lan", "source": "192.0.2.10", "port": 25, "action": "allow"}
    running = gate.start(policy(allow, BLOCK))
    running.wait("ready")
    client = Program(network, "laptop", "-c", HOLD, MX_4)
    try:
        client.wait("open")
        running.say("reload", policy(allow | {"name": "renamed"}, BLOCK))
        running.wait("reloaded")
        client.say("Q")
        assert client.wait("closed") == "end"
    finally:
        client.end()


@pytest.mark.parametrize("decide", ["kernel", "queue"])
def test_an_accomplice_outside_cannot_open_the_way_with_a_forged_packet(
    network: Network, internet: Program, gate: GateRunner, decide: str
) -> None:
    """To conntrack the bot's SYN answers the forged one (a simultaneous open); it must be judged all the same."""
    running = gate.start(policy({**BLOCK, "decide": decide}))
    running.wait("ready")
    # Our rules make the kernel track nothing; those of a router that translates addresses do.
    tracks = "table inet tracks { chain c { type filter hook forward priority 1; ct state established; }; }"
    assert network.run("gateway", "nft", tracks).returncode == 0
    hush = "table ip hush { chain c { type filter hook output priority 0; tcp flags & (rst) == rst drop; }; }"
    network.run("bot", "nft", hush)  # the bot's own kernel would end what it knows nothing of
    try:
        network.run("internet", sys.executable, "-c", FORGE, MX_4, "192.0.2.30")
        tracked = network.run("gateway", "conntrack", "-L", "-p", "tcp").stdout
        assert "sport=25 dport=40000" in tracked, "the kernel did not take the forged packet for a connection"

        assert dial(network, "bot", MX_4, source_port=40000) == "refused"
    finally:
        network.run("bot", "nft", "flush", "ruleset")


def test_what_comes_to_be_inside_is_guarded_too(network: Network, internet: Program, gate: GateRunner) -> None:
    zones = {"zones": {"lan": {"interfaces": "@inside"}}}
    running = gate.start({"site": zones, "flows": [{**BLOCK, "from": "lan"}]})
    assert running.wait("ready")["inside_interfaces"] == ["br0", "guest0", "p-bot", "p-laptop", "p-printer"]
    made = network.run("gateway", "ip", "link", "add", "eg-new", "type", "veth", "peer", "name", "eg-peer")
    assert made.returncode == 0, made.stderr
    try:
        listing = ("nft", "list", "set", "inet", "egressguard", "zone_lan_if")
        wait_until(lambda: "eg-new" in network.run("gateway", *listing).stdout)
    finally:
        network.run("gateway", "ip", "link", "delete", "eg-new")
    assert dial(network, "bot", MX_4) == "refused"


def test_counts_live_through_a_reload(network: Network, internet: Program, gate: GateRunner) -> None:
    running = gate.start(policy(BLOCK))
    running.wait("ready")
    for _ in range(3):
        assert dial(network, "bot", MX_4) == "refused"
        running.say("reload", policy(BLOCK))
        running.wait("reloaded")
    running.say("metrics")

    assert 'action="blocked",rule="block",zone="lan"} 3.0' in flows(running.wait("metrics"))


def test_rules_that_the_kernel_refuses_leave_the_old_ones_in_force(
    network: Network, internet: Program, gate: GateRunner
) -> None:
    running = gate.start(policy(BLOCK))
    running.wait("ready")
    running.say("reload", {"site": {"zones": {"lan": {"interfaces": "a-name-too-long-for-an-interface"}}}})

    assert "\n" not in running.wait("refused")
    assert dial(network, "bot", MX_4) == "refused"
    assert running.wait("flow.blocked")["rule"] == "block"
    running.say("metrics")
    assert 'egressguard_firewall_apply_total{result="failed"} 1.0' in running.wait("metrics")


def test_without_the_right_to_change_the_kernel_the_plan_is_written(
    network: Network, internet: Program, gate: GateRunner, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    running = gate.start(policy(BLOCK), capabilities="-all")
    status = running.wait("ready")

    assert status["mode"] == "plan"
    assert len(status["reasons"]) == 1 and "run as root" in status["reasons"][0]
    assert "chain rule_block" in (tmp_path / "plan.nft").read_text()
    assert dial(network, "bot", MX_4) == "220 here"


def test_net_admin_is_all_that_the_gate_needs(network: Network, internet: Program, gate: GateRunner) -> None:
    running = gate.start(policy(BLOCK), capabilities="-all,+net_admin")
    assert running.wait("ready")["mode"] == "enforcing"

    assert dial(network, "bot", MX_4) == "refused"
    assert running.wait("flow.blocked")["rule"] == "block"


def wait_until(truth: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not truth():
        assert time.monotonic() < deadline
        time.sleep(0.02)
