"""SMTP in disguise, tunnels and oddities: a bot's tries, and a sink that takes everything."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from egressguard.app.rules import read_rules
from egressguard.net.speech import speaks
from egressguard.policy.model import FlowRule
from tests.firewall.conftest import GateRunner, Program
from tests.firewall.test_traffic import BLOCK, dial, policy, wait_until
from tests.lab.network import MX_4, MX_6, Network

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PORTS = [25, 26, 465, 587, 2525, 8025, 53, 443]
SAYS = """
import json, socket, sys
found = []
for address, port, words in json.load(sys.stdin):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.settimeout(2)
        try:
            sock.connect((address, port))
            greeting = sock.recv(100)
            for part in words:
                sock.sendall(part.encode("latin-1"))
            answer = sock.recv(100).decode()
        except ConnectionRefusedError:
            answer = "refused"
        except ConnectionResetError:
            answer = "reset"
        except TimeoutError:
            answer = "silence"
    found.append(answer.strip())
print(json.dumps(found))
"""
RAW = """
import sys
from scapy.layers.inet import IP, TCP, UDP, GRE
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw
from scapy.sendrecv import sendp
from scapy.arch import get_if_hwaddr
six, four, mac = sys.argv[1], sys.argv[2], sys.argv[3]
inner = IP(src="192.0.2.30", dst=four) / TCP(sport=1025, dport=25, flags="S")
inner6 = IPv6(src="2001:db8:1::30", dst=six) / TCP(sport=1025, dport=25, flags="S")
segment = bytes(IP(src="192.0.2.30", dst=four) / TCP(sport=1040, dport=25, flags="S"))[20:]
base4, base6 = IP(src="192.0.2.30", dst=four), IPv6(src="2001:db8:1::30", dst=six)
packets = [
    base4 / inner, base4 / inner6, base4 / GRE() / inner, base4 / UDP(sport=3544, dport=3544) / inner6,
    base6 / inner, base6 / inner6, base6 / GRE() / inner,
    IPv6(src="2001:db8:1::30", dst="::ffff:" + four) / TCP(sport=1026, dport=25, flags="S"),
    IPv6(src="::ffff:192.0.2.30", dst=six) / TCP(sport=1027, dport=25, flags="S"),
    *[IP(src="192.0.2.30", dst=four) / TCP(sport=1030 + n, dport=25, flags=flags)
      for n, flags in enumerate(["", "F", "FPU", "SF", "SR", "A", "SEC"])],
    *(IP(src="192.0.2.30", dst=four, flags="MF", id=77, proto=6) / Raw(segment[:8]),
      IP(src="192.0.2.30", dst=four, frag=1, id=77, proto=6) / Raw(segment[8:])),
    IP(src="192.0.2.30", dst=four, options=[("NOP")] * 4) / TCP(sport=1041, dport=25, flags="S",
                                                               options=[("NOP", None)] * 40),
    IP(src="192.0.2.30", dst=four) / UDP(sport=1042, dport=9999) / Raw(b"the last one"),
]
for packet in packets:
    sendp(Ether(dst=mac) / packet, iface="eth0", verbose=False)
"""
SNIFF = """
import json, socket, sys
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
print(json.dumps(["ready", 0]), flush=True)
while True:
    octets, place = sock.recvfrom(65535)
    if place[2] != 4:
        print(json.dumps(["packet", octets.hex()]), flush=True)
"""


def shipped() -> dict[str, Any]:
    """The shipped flow rules, in the test network."""
    loaded, _ = read_rules(ROOT / "rules")
    assert loaded.policy is not None
    flows = [
        {FlowRule.model_fields[key].alias or key: getattr(rule, key) for key in rule.model_fields_set}
        for rule in loaded.policy.flows
    ]
    return policy(*json.loads(json.dumps(flows)), sets={"mail-servers": []})


@pytest.fixture(scope="module")
def sink(network: Network) -> Iterator[Program]:
    server = Program(network, "internet", "-m", "tests.firewall.run_sink", *map(str, PORTS))
    server.wait("ready")
    yield server
    server.end()


def says(network: Network, *tries: tuple[str, int, list[str]]) -> list[str]:
    done = network.run("bot", "/usr/bin/python3", "-c", SAYS, given=json.dumps(tries))
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_bot_gets_no_smtp_command_out_but_those_that_policy_allows(
    network: Network, sink: Program, gate: GateRunner
) -> None:
    running = gate.start(shipped())
    running.wait("ready")
    addresses = [MX_4, MX_6, f"::ffff:{MX_4}"]
    tries = [(address, port, ["EHLO bot.example\r\n"]) for address in addresses for port in PORTS]

    answers = says(network, *tries)

    allowed = [(address, port) for address, port, _ in tries if port == 587]
    for (address, port, _), answer in zip(tries, answers, strict=True):
        expected = "250 sink" if port == 587 else "refused" if port == 25 else "reset"
        assert answer == expected, (address, port)
    heard = [sink.wait("heard") for _ in allowed]
    assert {port for _, port, _ in heard} == {587}
    seen = running.wait("flow.blocked", lambda fields: fields["rule"] == "disguised-smtp")
    assert seen["source"] == "192.0.2.30"


SPOKEN = [
    *("ehlo x\r\n", "EhLo x\r\n", "HELO x\r\n", "hElO\r\n", "LHLO x\n", "lhlo\tx\r\n", "mail from:<a@b.example>\r\n"),
    *("EHLO\r\n", "MAIL FROM:<>\r\n", "EHLO x\r\nMAIL FROM:<>\r\n"),
]
OTHER = [
    *("GET / HTTP/1.0\r\n\r\n", "USER anna\r\n", "\x16\x03\x01\x02\x00", "ehl", "EHLOS\r\n", "HELLO\r\n", "MAIL TO:x"),
    *("A", "\r\nEHLO", "XEHLO x", "%hlo x\r\n", "ehlO_\r\n"),
]


@pytest.mark.parametrize("address", [MX_4, MX_6])
def test_the_kernel_hears_what_the_policy_hears(
    network: Network, sink: Program, gate: GateRunner, address: str
) -> None:
    gate.start(policy({"name": "disguised", "from": "lan", "speaks": "smtp", "action": "reject"})).wait("ready")

    answers = says(network, *((address, 8025, [words]) for words in [*SPOKEN, *OTHER]))

    assert answers == ["reset"] * len(SPOKEN) + ["250 sink"] * len(OTHER)
    assert all(speaks(words.encode("latin-1")) for words in SPOKEN)
    assert not any(speaks(words.encode("latin-1")) for words in OTHER)


def test_a_host_with_a_rule_of_its_own_may(network: Network, sink: Program, gate: GateRunner) -> None:
    own = {"name": "own", "from": "lan", "source": "192.0.2.30", "speaks": "smtp", "port": 2525, "action": "allow"}
    staged = {"name": "soon", "from": "lan", "port": 8025, "speaks": "smtp", "action": "drop", "staged": True}
    disguised = {"name": "disguised", "from": "lan", "speaks": "smtp", "port": [443, 2525], "action": "reject"}
    running = gate.start(policy(own, staged, disguised))
    running.wait("ready")

    tries = [(MX_4, port, ["EHLO x\r\n"]) for port in (2525, 443, 8025)]

    assert says(network, *tries) == ["250 sink", "reset", "250 sink"]
    assert running.wait("flow.would")["rule"] == "soon"


def test_nothing_odd_and_no_tunnel_reaches_the_internet(network: Network, gate: GateRunner) -> None:
    """Raw packets: tunnels of both families, mapped addresses, odd flags, fragments, options; the last one may pass."""
    running = gate.start(policy(BLOCK))
    running.wait("ready")
    sniffer = Program(network, "internet", "-c", SNIFF)
    try:
        sniffer.wait("ready")
        mac = network.run("gateway", "cat", "/sys/class/net/br0/address").stdout.strip()
        sent = network.run("bot", sys.executable, "-c", RAW, MX_6, MX_4, mac)
        assert sent.returncode == 0, sent.stderr
        passed: list[bytes] = []
        while not passed or b"the last one" not in passed[-1]:
            passed.append(bytes.fromhex(sniffer.wait("packet")))
    finally:
        sniffer.end()

    assert [octets.hex() for octets in passed[:-1] if from_bot(octets)] == []
    running.say("stop")
    page = running.wait("stopped")
    assert 'action="blocked",rule="tunnels",zone="lan"} 7.0' in page
    assert 'action="blocked",rule="mapped-addresses",zone="any"} 2.0' in page


def from_bot(octets: bytes) -> bool:
    if octets[0] >> 4 == 4:
        return octets[12:16] == ip_address("192.0.2.30").packed
    return octets[0] >> 4 == 6 and octets[8:24] in {
        ip_address(text).packed for text in ("2001:db8:1::30", "::ffff:192.0.2.30")
    }


def test_a_zone_that_allows_tunnels_and_a_rule_that_does(network: Network, gate: GateRunner) -> None:
    vpn = {"name": "vpn", "from": "lan", "protocol": "gre", "destination": MX_4, "action": "allow"}
    given = policy(vpn, BLOCK)
    running = gate.start(given)
    running.wait("ready")
    mac = network.run("gateway", "cat", "/sys/class/net/br0/address").stdout.strip()
    network.run("bot", sys.executable, "-c", RAW, MX_6, MX_4, mac)

    wait_until(lambda: 'action="allowed",rule="vpn",zone="lan"} 1.0' in metrics(running))
    assert 'action="blocked",rule="tunnels",zone="lan"} 6.0' in metrics(running)


def metrics(running: Program) -> str:
    running.say("metrics")
    return str(running.wait("metrics"))


def test_who_asks_for_mail_servers_is_told(network: Network, gate: GateRunner) -> None:
    running = gate.start(policy(BLOCK))
    running.wait("ready")
    ask = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "import dns.message\n"
        "for kind in ('A', 'MX'):\n"
        "    s.sendto(dns.message.make_query('victim.example', kind).to_wire(), (sys.argv[1], 53))"
    )
    asked = network.run("bot", sys.executable, "-c", ask, MX_4)
    assert asked.returncode == 0, asked.stderr

    seen = running.wait("dns.mx")
    assert (seen["source"], seen["name"], seen["zones"]) == ("192.0.2.30", "victim.example", ["lan"])
    assert 'egressguard_mx_questions_total{zone="lan"} 1.0' in metrics(running)


def test_a_card_is_known_by_its_mac_address(network: Network, sink: Program, gate: GateRunner) -> None:
    mac = network.run("printer", "cat", "/sys/class/net/eth0/address").stdout.strip()
    cards = {"mac_sets": {"printers": [mac]}}
    rule = {"name": "cards", "from": "lan", "port": 25, "source_mac": "@printers", "action": "allow"}
    gate.start(policy(rule, BLOCK, **cards)).wait("ready")

    assert [dial(network, host, MX_4) for host in ("printer", "bot")] == ["220 sink ESMTP", "refused"]
    assert [dial(network, host, MX_6) for host in ("printer", "bot")] == ["220 sink ESMTP", "refused"]
