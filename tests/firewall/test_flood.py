"""Reloads under a SYN flood: nothing leaks, and no legal connection is lost. EGRESSGUARD_RELOADS says how many."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.firewall.conftest import GateRunner, Program
from tests.firewall.test_traffic import policy
from tests.lab.network import MX_4, MX_6, Network

pytestmark = pytest.mark.system

RELOADS = int(os.environ.get("EGRESSGUARD_RELOADS", "25"))
ALLOW = {"name": "own", "from": "lan", "source": ["192.0.2.10", "2001:db8:1::10"], "port": 25, "action": "allow"}
BLOCK = {"name": "block", "from": ["lan", "guest"], "port": 25, "action": "reject"}
FLOOD = """
import json, os, socket, sys
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
four, six = sys.argv[1:3]
packets = []
for number in range(400):
    sport = 1025 + number
    packets.append((4, bytes(IP(src=f"192.0.2.{30 + number % 60}", dst=four) / TCP(sport=sport, dport=25, flags="S"))))
    packets.append((6, bytes(IPv6(src="2001:db8:1::30", dst=six) / TCP(sport=sport, dport=25, flags="S"))))
raw = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, 255), 6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 255)}
to = {4: (four, 0), 6: (six, 0)}
os.nice(10)  # not before: with others' work on all processors, the import alone would take a quarter of a minute
print(json.dumps(["flooding", len(packets)]), flush=True)
sent = 0
while True:
    for family, packet in packets:
        raw[family].sendto(packet, to[family])
    sent += len(packets)
    print(json.dumps(["sent", sent]), flush=True)
"""
WATCH = """
import json, socket, struct
sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
sock.bind(("eth0", 3))
print(json.dumps(["ready", 0]), flush=True)
while True:
    octets, place = sock.recvfrom(200)
    six = octets[0] >> 4 == 6
    at, number = (40, octets[6]) if six else ((octets[0] & 15) * 4, octets[9])
    if place[2] == 4 or number != 6 or struct.unpack_from("!H", octets, at + 2)[0] != 25:
        continue
    source = octets[8:24] if six else octets[12:16]
    if source not in (socket.inet_aton("192.0.2.10"), socket.inet_pton(socket.AF_INET6, "2001:db8:1::10")):
        print(json.dumps(["leaked", octets[:60].hex()]), flush=True)
"""
TALK = """
import json, socket, sys
with socket.create_connection((sys.argv[1], 25), 60) as sock:
    sock.recv(100)
    print(json.dumps(["open", 0]), flush=True)
    for line in sys.stdin:
        sock.sendall(b"NOOP")
        print(json.dumps(["heard", sock.recv(100).decode()]), flush=True)
"""


@pytest.fixture
def sink(network: Network) -> Iterator[Program]:
    server = Program(network, "internet", "-m", "tests.firewall.run_sink", "25")
    server.wait("ready")
    yield server
    server.end()


def test_reloads_under_a_flood_leak_nothing_and_cut_nobody(network: Network, sink: Program, gate: GateRunner) -> None:
    running = gate.start(policy(ALLOW, BLOCK, packet_plane={}))
    running.wait("ready")
    watcher = Program(network, "internet", "-c", WATCH)
    watcher.wait("ready")
    legal = [Program(network, "laptop", "-c", TALK, address) for address in (MX_4, MX_6)]
    flood = Program(network, "bot", "-c", FLOOD, MX_4, MX_6)
    try:
        for connection in legal:
            connection.wait("open")
        flood.wait("flooding")
        for number in range(RELOADS):
            renamed = {**BLOCK, "name": f"block-{number % 7}", "action": "drop" if number % 2 else "reject"}
            running.say("reload", policy(ALLOW, renamed, packet_plane={}))
            running.wait("reloaded")
            for connection in legal:
                connection.say("NOOP")
                assert connection.wait("heard") == "250 sink\r\n", number
        sent = flood.wait("sent", lambda packets: packets >= 800 * RELOADS / 4)
        assert sent > 0
        running.say("stop")
        running.wait("stopped")
        # What went out would be here by now: a last legal word came after it on the same wire.
        for connection in legal:
            connection.say("NOOP")
            assert connection.wait("heard") == "250 sink\r\n"
        assert [line for line in pending(watcher) if '"leaked"' in line] == []
    finally:
        for program in (flood, watcher, *legal):
            program.end()


def pending(program: Program) -> Iterator[str]:
    while not program._lines.empty():
        yield program._lines.get_nowait()
