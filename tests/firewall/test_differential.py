"""Two judges, one law: the kernel's table and policy.flows, asked about the same packets, never disagree.

Packets of both families, forged at the boundaries of every set, range and port list, are sent through a router with
the real table. What arrives on the other side is what the policy lets pass, packet by packet; what the kernel counted
for each rule is what the policy names, batch by batch. EGRESSGUARD_PACKETS says how many (`make system`: 20,000).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest

from egressguard.firewall.table import parse_counter_name
from egressguard.net.flow import TUNNELS, Flow, IPAddress, Protocol
from egressguard.net.speech import speaks
from egressguard.policy.decision import FlowAction, FlowDecision
from egressguard.policy.facts import Moment
from egressguard.policy.fields import parse_prefixes
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy
from tests.firewall.conftest import GateRunner, Program
from tests.firewall.test_traffic import wait_until
from tests.lab.network import Network

pytestmark = pytest.mark.system

PACKETS = int(os.environ.get("EGRESSGUARD_PACKETS", "5000"))
SETS = {
    "servers": ["10.1.0.8/29", "10.1.0.20", "10.1.0.100-10.1.0.130", "fd00:1::8/125", "fd00:1::100-fd00:1::10b"],
    "partners": [
        "203.0.113.16/28",
        "203.0.113.64-203.0.113.70",
        "203.0.113.99",
        "2001:db8:200::/124",
        "2001:db8:200::99",
    ],
    "nobody": [],
}
ZONES = {
    "lan": ["10.1.0.0/24", "fd00:1::/112"],
    "roaming": ["10.2.0.0/26", "fd00:2:8000::/66"],
}
LISTED = ["10.2.0.16/28", "10.3.0.0-10.3.0.9", "203.0.113.200/29", "fd00:2::/48", "2001:db8:201::/64"]
CARDS = ["02:53:00:00:00:01", "02:53:00:00:00:02"]
OTHER_CARD = "02:53:00:00:00:03"
POLICY: dict[str, Any] = {
    "site": {
        "zones": {
            "lan": {"interfaces": ["br0"], "networks": ZONES["lan"]},
            "guest": {"interfaces": ["guest0"], "tunnels": "allow"},
            "roaming": {"networks": ZONES["roaming"]},
        },
        "sets": SETS,
        "mac_sets": {"cards": CARDS},
        "relay": {"tarpit_port": 10},
        "packet_plane": {"log_per_second": 1},
    },
    "flows": [
        {"name": "nobody", "source": "@nobody", "action": "drop"},
        {"name": "soon", "from": ["lan", "guest"], "action": "drop", "staged": True},
        {"name": "guests-soon", "from": "guest", "port": 25, "action": "redirect", "staged": True},
        {"name": "said-soon", "from": "guest", "speaks": "smtp", "action": "reject", "staged": True},
        {"name": "vpn", "protocol": "gre", "destination": "@partners", "action": "allow"},
        {"name": "six", "from": "roaming", "protocol": "6in4", "action": "drop"},
        {"name": "servers", "from": "lan", "source": "@servers", "port": [25, 587], "action": "allow"},
        {"name": "cards", "from": "lan", "source_mac": ["@cards"], "port": 26, "action": "allow"},
        {"name": "one-card", "source_mac": CARDS[0], "port": 27, "destination": "@partners", "action": "drop"},
        {"name": "always", "from": "lan", "port": 28, "hours": ["06:00-18:00", "18:00-06:00"], "action": "reject"},
        {"name": "all-week", "from": "lan", "port": 29, "weekdays": ["mon-fri", "sat-sun"], "action": "drop"},
        {"name": "partners", "destination": ["@partners", "203.0.113.200/29"], "port": 25, "action": "allow"},
        {"name": "exempt", "from": "guest", "source": "10.3.0.0-10.3.0.9", "speaks": "smtp", "action": "allow"},
        {"name": "disguised", "from": ["lan", "guest"], "port": [443, 2525], "speaks": "smtp", "action": "reject"},
        {"name": "early", "from": "guest", "source": "10.2.0.16/28", "port": 25, "action": "drop"},
        {"name": "tar", "from": "roaming", "port": 2526, "action": "tarpit"},
        {"name": "guests", "from": ["guest", "roaming"], "port": 25, "action": "redirect"},
        {"name": "block", "from": "lan", "port": [25, 465, 2525], "action": "reject"},
        {"name": "udp", "from": ["lan", "guest"], "protocol": "udp", "destination": "@partners", "action": "drop"},
        {"name": "rest", "from": "roaming", "source": ["10.2.0.0/27", "fd00:2::/48"], "action": "reject"},
        {"name": "anyone", "port": 587, "destination": ["203.0.113.0/24", "2001:db8:201::/64"], "action": "reject"},
    ],
}
PORTS = [24, 25, 26, 27, 28, 29, 443, 464, 465, 466, 586, 587, 588, 2524, 2525, 2526, 3543, 3544, 3545]
SAID = ["", "", "EHLO bot.example\r\n", "mail from:<>\r\n", "GET / HTTP/1.0\r\n", "HELOS\r\n", "lhlo\n"]
SEND = """
import json, socket, sys
from scapy.layers.inet import GRE, ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
router = sys.argv[1]
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
numbers = {"ipip": 4, "6in4": 41, "gre": 47}
for line in sys.stdin:
    for number, source, destination, port, protocol, mac, said in json.loads(line):
        six = ":" in source
        if protocol == "tcp":
            inner = TCP(sport=number, dport=port, seq=1000, ack=1 if said else 0, flags="PA" if said else "S")
        elif protocol == "udp":
            inner = UDP(sport=number, dport=port)
        elif protocol == "gre":
            inner = GRE() / IP(src="10.9.9.9", dst="10.9.9.8") / ICMP()
        else:
            inner = IP(dst="10.9.9.8") / ICMP() if protocol == "ipip" else IPv6(src="fd09::9", dst="fd09::8")
        more = {"nh" if six else "proto": numbers[protocol]} if protocol in numbers else {}
        head = IPv6(src=source, dst=destination, **more) if six else IP(src=source, dst=destination, **more)
        wire.send(bytes(Ether(src=mac, dst=router) / head / inner / Raw(said.encode() + b"#%d" % number)))
    print(json.dumps(["sent", 0]), flush=True)
"""
SNIFF = """
import json, re, socket
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
sock.bind(("eth0", 3))
print(json.dumps(["ready", 0]), flush=True)
while True:
    octets, place = sock.recvfrom(65535)
    found = re.search(rb"#(\\d+)\\Z", octets)
    is_error = octets[9] == 1 if octets[0] >> 4 == 4 else octets[6] == 58  # ICMP quotes what it refuses
    if place[2] != 4 and found and not is_error:
        print(json.dumps(["arrived", int(found[1])]), flush=True)
"""


def edges(texts: Sequence[str]) -> Iterator[IPAddress]:
    """The first and last addresses of each prefix and range, and those beside them."""
    for text in texts:
        prefixes = parse_prefixes(text)
        first, last = prefixes[0][0], prefixes[-1][-1]
        kind = type(first)
        yield from (kind(int(first) - 1), first, last, kind(int(last) + 1))


INSIDE_4, OUTSIDE_4 = ip_network("10.0.0.0/8"), ip_network("203.0.0.0/16")
EDGES = sorted({*edges([*itertools.chain(*SETS.values(), *ZONES.values(), LISTED)])}, key=lambda a: (a.version, int(a)))
SOURCES = [a for a in EDGES if a in INSIDE_4 or (a.version == 6 and a.packed[0] == 0xFD)]
DESTINATIONS = [a for a in EDGES if a not in SOURCES and (a in OUTSIDE_4 or a.version == 6)]
MAPPED = [(IPv6Address("::ffff:10.1.0.9"), DESTINATIONS[-1]), (SOURCES[-1], IPv6Address("::ffff:203.0.113.16"))]
SENT_ELSEWHERE = {FlowAction.REDIRECT, FlowAction.TARPIT}
POLICY_MODEL = Policy.model_validate(POLICY)
Case = tuple[str, Flow, str]
"""(what sends it, the flow with a source port of its own, what is said)."""


def cases(count: int) -> list[Case]:
    """Every source meets every destination of its family before anything is repeated; the rest is drawn by lot."""
    dice = random.Random(5068)
    pairs = [(s, d) for s, d in itertools.product(SOURCES, DESTINATIONS) if s.version == d.version]
    dice.shuffle(pairs)
    found: list[Case] = []
    tunnels: set[tuple[object, ...]] = set()
    numbers = itertools.count(1025)
    for number, (source, destination) in enumerate(itertools.cycle([*MAPPED, *pairs])):
        if len(found) >= count:
            return found
        protocol = dice.choices(list(Protocol), weights=[20, 5, 1, 1, 1])[0]
        host = "bot" if number % 2 else "guest"
        tuple_of_flow = (source, destination, protocol, host)
        if protocol in TUNNELS and tuple_of_flow in tunnels:  # conntrack knows no ports of theirs: no new flow
            continue
        tunnels.add(tuple_of_flow)
        said = dice.choice(SAID) if protocol is Protocol.TCP else ""
        port = 0 if protocol in TUNNELS else dice.choice(PORTS)
        interface = "br0" if host == "bot" else "guest0"
        mac = dice.choice([*CARDS, OTHER_CARD])
        opening = Flow(source, destination, port, interface, protocol, next(numbers), mac)
        if decide_flow(POLICY_MODEL, opening, around()).action in SENT_ELSEWHERE:  # then nothing is said to the world
            said = ""
        found.append((host, replace(opening, speaks=speaks(said.encode())), said))
    return found


def test_the_boundaries_are_those_of_every_set() -> None:
    assert ip_address("10.1.0.99") in SOURCES and ip_address("10.1.0.131") in SOURCES
    assert ip_address("203.0.113.63") in DESTINATIONS and IPv4Address("203.0.113.71") in DESTINATIONS
    drawn = [flow for _, flow, _ in cases(6000)]
    assert {flow.source for flow in drawn} >= set(SOURCES)
    assert {flow.destination for flow in drawn} >= set(DESTINATIONS)
    decided = {decide_flow(POLICY_MODEL, flow, around()).rule for flow in drawn}
    named = {rule["name"] for rule in POLICY["flows"] if not rule.get("staged")} - {"nobody"}
    assert named | {"", "tunnels", "mapped-addresses"} <= decided


def around() -> Surroundings:
    return Surroundings(moment=lambda: Moment(0, 0))  # whatever the time, the rules that ask for it match


def test_the_kernel_and_the_policy_agree_on_every_packet(network: Network, gate: GateRunner) -> None:
    policy = POLICY_MODEL
    gate.start(POLICY, redirect_port=9, tarpit_port=10).wait("ready")
    prepare(network)
    sniffer = Program(network, "internet", "-c", SNIFF)
    macs = {host: interface_mac(network, name) for host, name in (("bot", "br0"), ("guest", "guest0"))}
    senders = {host: Program(network, host, "-c", SEND, mac) for host, mac in macs.items()}
    disagreements: list[str] = []
    seen = Counter[str]()
    try:
        sniffer.wait("ready")
        for batch in batches(cases(PACKETS)):
            decisions = {flow.source_port: (flow, decide_flow(policy, flow, around())) for _, flow, _ in batch}
            for host, sender in senders.items():
                sender.say(*(packet(flow, said) for sent_by, flow, said in batch if sent_by == host))
            for sender in senders.values():
                sender.wait("sent")
            pass_ = {n for n, (_, decision) in decisions.items() if decision.action is FlowAction.ALLOW}
            arrived: set[int] = set()
            while len(arrived & pass_) < len(pass_):
                try:
                    arrived.add(sniffer.wait("arrived"))
                except AssertionError:  # silence: what has not come is a disagreement, told below
                    break
            said_by = {flow.source_port: said for _, flow, said in batch}
            seen.update(d.rule for n, (flow, d) in decisions.items() if d.rule and is_counted(flow, d, said_by[n]))
            seen.update(would.rule for _, d in decisions.values() for would in d.would)
            with contextlib.suppress(AssertionError):  # what is not counted in time is a disagreement too
                wait_until(lambda: counted(network).total() >= seen.total())
            disagreements += [
                f"{flow} {decision.action} by {decision.rule!r}; it {'passed' if n in arrived else 'did not pass'}"
                for n, (flow, decision) in decisions.items()
                if (n in pass_) != (n in arrived)
            ]
            found = counted(network)
            disagreements += [
                f"{rule}: kernel {found[rule]}, policy {seen[rule]}"
                for rule in found | seen
                if found[rule] != seen[rule]
            ]
            assert not disagreements, "\n".join(disagreements[:20])
    finally:
        for program in (sniffer, *senders.values()):
            program.end()


def is_counted(flow: Flow, decision: FlowDecision, said: str) -> bool:
    """What an ordinary rule lets pass is counted when it opens a flow; these packets come out of the blue."""
    rule = next((r for r in POLICY_MODEL.flows if r.name == decision.rule), None)
    passes = decision.action is FlowAction.ALLOW and rule is not None and not rule.speaks
    return not (passes and flow.protocol is Protocol.TCP and said)


def batches(every: Sequence[Case]) -> Iterator[Sequence[Case]]:
    yield from (every[at : at + 250] for at in range(0, len(every), 250))


def packet(flow: Flow, said: str) -> tuple[object, ...]:
    where = (str(flow.source), str(flow.destination), flow.destination_port)
    return (flow.source_port, *where, flow.protocol.value, flow.source_mac, said)


def prepare(network: Network) -> None:
    """Forged sources are let in, nothing answers them, and they have a way back."""
    script = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done"
    assert network.run("gateway", "sh", "-c", script).returncode == 0


def interface_mac(network: Network, name: str) -> str:
    return network.run("gateway", "cat", f"/sys/class/net/{name}/address").stdout.strip()


def counted(network: Network) -> Counter[str]:
    """What the kernel counted, by rule."""
    listed = network.run("gateway", "nft", "-j", "list", "counters", "table", "inet", "egressguard").stdout
    found: Counter[str] = Counter()
    for item in json.loads(listed)["nftables"]:
        name = parse_counter_name(item["counter"]["name"]) if "counter" in item else None
        if name is not None and item["counter"]["packets"]:
            found[name[0]] += item["counter"]["packets"]
    return found
