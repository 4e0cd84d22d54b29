"""Real captures through the shipped rules (tests/data/SOURCES.md names where they come from)."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.app.rules import read_rules
from egressguard.firewall.replay import NotACapture, replay
from egressguard.policy.flows import Surroundings
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy

DATA = Path(__file__).parent.parent / "data" / "pcap"
CAPTURES = sorted(path for path in DATA.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def policy() -> Policy:
    loaded, _ = read_rules(Path(__file__).parent.parent.parent / "rules")
    assert loaded.policy is not None
    return loaded.policy


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_a_capture_goes_through(capture: Path, policy: Policy) -> None:
    result = replay(capture, policy, Surroundings())

    assert result.packets > 0
    assert all(row["action"] in {"allow", "reject"} for row in result.rows())


def test_a_client_that_speaks_smtp_directly_would_have_been_blocked(policy: Policy) -> None:
    rows = list(replay(DATA / "smtp" / "smtp.pcap", policy, Surroundings()).rows())

    blocked = {(r["source"], r["rule"], r["to"]) for r in rows if r["action"] == "reject"}
    hosts = ("10.10.1.4", "192.168.133.100")
    assert blocked == {(host, "block-direct-smtp", to) for host in hosts for to in ("25/tcp", "25/tcp smtp")}
    assert all("flows.yaml:" in row["at"] for row in rows if row["rule"] == "block-direct-smtp")


def test_a_compressed_capture_is_read_as_well(tmp_path: Path, policy: Policy) -> None:
    packed = tmp_path / "smtp.pcap.gz"
    packed.write_bytes(gzip.compress((DATA / "smtp" / "smtp.pcap").read_bytes()))

    assert replay(packed, policy, Surroundings()).packets > 0


@pytest.mark.parametrize("octets", [b"", b"not a capture at all", b"\xd4\xc3\xb2\xa1\x02"])
def test_what_is_no_capture_is_said_so(tmp_path: Path, policy: Policy, octets: bytes) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(octets)

    with pytest.raises(NotACapture):
        replay(path, policy, Surroundings())


def test_disguise_tunnels_answers_and_hours(tmp_path: Path) -> None:
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether
    from scapy.packet import Raw
    from scapy.utils import wrpcap

    rules = """{site: {zones: {lan: {interfaces: eth1}}, mac_sets: {cards: "00:53:00:00:00:01"}}, flows: [
        {name: night, port: 25, hours: "00:00-24:00", weekdays: mon-sun, action: drop},
        {name: card, source_mac: "@cards", port: 80, action: reject},
        {name: soon, port: 53, protocol: udp, action: drop, staged: true},
        {name: disguised, from: lan, speaks: smtp, action: reject}]}"""
    policy = parse_rules({"a.yaml": rules.encode()}).policy
    assert policy is not None
    link = Ether(src="00:53:00:00:00:01", dst="00:53:00:00:00:02")
    here, there = {"src": "10.0.0.1", "dst": "192.0.2.1"}, {"src": "192.0.2.1", "dst": "10.0.0.1"}
    packets = [
        link / IP(**here) / TCP(sport=1, dport=8025, flags="S"),
        link / IP(**there) / TCP(sport=8025, dport=1, flags="SA"),
        link / IP(**there) / TCP(sport=8025, dport=1, flags="PA") / Raw(b"220 hello"),
        link / IP(**here) / TCP(sport=1, dport=8025, flags="PA") / Raw(b"ehlo there"),
        link / IP(**here) / TCP(sport=2, dport=80, flags="S"),
        link / IP(**here) / TCP(sport=3, dport=25, flags="S"),
        link / IP(**here) / UDP(sport=4, dport=53),
        link / IP(**there) / UDP(sport=53, dport=4),
        link / IP(**here) / IPv6() / TCP(dport=25),
        link / IP(**here, proto=6) / Raw(b"cut"),
    ]
    wrpcap(str(tmp_path / "x.pcap"), packets)

    result = replay(tmp_path / "x.pcap", policy, Surroundings(), interface="eth1")

    found = {(row["action"], row["rule"], row["to"]) for row in result.rows()}
    assert found == {
        ("allow", "(none)", "8025/tcp"),
        ("reject", "disguised", "8025/tcp smtp"),
        ("reject", "card", "80/tcp"),
        ("drop", "night", "25/tcp"),
        ("allow", "(none)", "53/udp"),
        ("would drop", "soon", "53/udp"),
        ("reject", "tunnels", "6in4"),
    }
    assert (result.packets, result.malformed) == (10, 1)


@given(
    st.binary(min_size=1, max_size=40),
    st.integers(0, 1 << 16),
    st.sampled_from(["smtp.pcap", "smtp-bdat-cmd-invalid.pcapng"]),
)
@settings(deadline=None, max_examples=150)
def test_a_damaged_capture_is_read_as_far_as_it_goes_or_refused(damage: bytes, at: int, name: str) -> None:
    octets = bytearray((DATA / "smtp" / name).read_bytes()[:6000])
    at %= len(octets)
    octets[at : at + len(damage)] = damage
    with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
        file.write(octets)
        file.flush()
        with contextlib.suppress(NotACapture):
            list(replay(Path(file.name), Policy.model_validate({"site": {"zones": {}}}), Surroundings()).rows())
