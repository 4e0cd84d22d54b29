"""Two judges, one law: for the same flows the kernel's table and policy.flows name the same rules."""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from ipaddress import ip_address

import pytest

from egressguard.firewall.table import parse_counter_name
from egressguard.net.flow import Flow, Protocol
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy
from tests.firewall.conftest import GateRunner
from tests.firewall.test_traffic import flows, wait_until
from tests.lab.network import Network

pytestmark = pytest.mark.system

POLICY = {
    "site": {
        "zones": {
            "lan": {"interfaces": ["br0"], "networks": ["192.0.2.0/26", "2001:db8:1::/112"]},
            "guest": {"interfaces": ["guest0"]},
            "roaming": {"networks": ["192.0.2.64/26", "2001:db8:2:8000::/66"]},
        },
        "sets": {
            "servers": ["192.0.2.8/29", "192.0.2.12", "2001:db8:1::8/125"],
            "partners": ["198.51.100.0/28", "203.0.113.25", "2001:db8:100::/124"],
            "nobody": [],
        },
    },
    "flows": [
        {"name": "nobody", "source": "@nobody", "action": "drop"},
        {"name": "soon", "from": ["lan", "guest"], "action": "drop", "staged": True},
        {"name": "guests-soon", "from": "guest", "port": 25, "action": "redirect", "staged": True},
        {"name": "servers", "from": "lan", "source": "@servers", "port": [25, 587], "action": "allow"},
        {"name": "partners", "destination": ["@partners", "198.51.100.99"], "port": 25, "action": "allow"},
        {"name": "early", "from": "guest", "source": "192.0.2.128/28", "port": 25, "action": "drop"},
        {"name": "guests", "from": ["guest", "roaming"], "port": 25, "action": "redirect"},
        {"name": "block", "from": "lan", "port": [25, 465, 2525], "action": "reject"},
        {"name": "udp", "from": ["lan", "guest"], "protocol": "udp", "destination": "@partners", "action": "drop"},
        {"name": "rest", "from": "roaming", "source": ["192.0.2.64/27", "2001:db8:2::/48"], "action": "reject"},
        {"name": "anyone", "port": 587, "destination": "203.0.113.0/24", "action": "reject"},
    ],
}
SOURCES = [
    *("192.0.2.10", "192.0.2.33", "192.0.2.70", "192.0.2.100", "192.0.2.130", "192.0.2.200"),
    *("2001:db8:1::a", "2001:db8:1::1:1", "2001:db8:2:8000::1", "2001:db8:2::5"),
]
DESTINATIONS = [
    *("198.51.100.5", "198.51.100.25", "198.51.100.99", "203.0.113.25", "203.0.113.26"),
    *("2001:db8:100::1", "2001:db8:100::25", "2001:db8:200::1"),
]
PORTS = [25, 80, 465, 587, 2525]
SEND = """
import json, socket, sys
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
raw = {family: socket.socket(family, socket.SOCK_RAW, 255) for family in (socket.AF_INET, socket.AF_INET6)}
for number, (source, destination, port, protocol) in enumerate(json.load(sys.stdin)):
    six = ":" in source
    head = (IPv6 if six else IP)(src=source, dst=destination)
    segment = (TCP if protocol == "tcp" else UDP)(sport=int(sys.argv[1]) + number, dport=port)
    raw[socket.AF_INET6 if six else socket.AF_INET].sendto(bytes(head / segment), (destination, 0))
"""


def test_the_kernel_and_the_policy_agree_on_every_flow(network: Network, gate: GateRunner) -> None:
    policy = Policy.model_validate(POLICY)
    cases = [
        (source, destination, port, protocol)
        for source, destination in itertools.product(SOURCES, DESTINATIONS)
        if (":" in source) == (":" in destination)
        for port, protocol in itertools.product(PORTS, ("tcp", "udp"))
    ]
    expected: Counter[str] = Counter()
    for interface, case in itertools.product(("br0", "guest0"), cases):
        decision = decide_flow(policy, flow(interface, *case), Surroundings())
        expected.update([decision.rule, *(would.rule for would in decision.would)])
    unnamed = expected.pop("")
    assert unnamed > 100 and {rule.name for rule in policy.flows} - set(expected) == {"nobody"}
    accept_any_source(network)
    running = gate.start(POLICY, redirect_port=9)
    running.wait("ready")

    for host, first_port in (("bot", "20000"), ("guest", "40000")):  # flows of their own to the kernel
        sent = network.run(host, sys.executable, "-c", SEND, first_port, given=json.dumps(cases))
        assert sent.returncode == 0, sent.stderr

    wait_until(lambda: counted(network).total() >= expected.total())
    assert counted(network) == expected
    running.say("stop")
    assert 'action="redirected",rule="guests",zone="roaming"' in flows(running.wait("stopped"))


def flow(interface: str, source: str, destination: str, port: int, protocol: str) -> Flow:
    return Flow(ip_address(source), ip_address(destination), port, interface, Protocol(protocol))


def accept_any_source(network: Network) -> None:
    script = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done"
    assert network.run("gateway", "sh", "-c", script).returncode == 0


def counted(network: Network) -> Counter[str]:
    """What the kernel counted, by rule."""
    listed = network.run("gateway", "nft", "-j", "list", "counters", "table", "inet", "egressguard").stdout
    found: Counter[str] = Counter()
    for item in json.loads(listed)["nftables"]:
        name = parse_counter_name(item["counter"]["name"]) if "counter" in item else None
        if name is not None and item["counter"]["packets"]:
            found[name[0]] += item["counter"]["packets"]
    return found
