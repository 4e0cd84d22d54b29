"""The NFLOG parser: what the kernel sends is understood, and no octets make it raise."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from egressguard.firewall.nflog import parse_datagram, parse_message

PACKET = bytes.fromhex("45000028000100004006") + b"\0\0" + bytes([192, 0, 2, 7, 198, 51, 100, 25])
SEGMENT = struct.pack("!HHIIBBHHH", 4000, 25, 0, 0, 0x50, 2, 8192, 0, 0)


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def message(prefix: bytes = b"eg:block:no-smtp\0", payload: bytes = PACKET + SEGMENT) -> bytes:
    mac = struct.pack("!HH", 6, 0) + b"\x02\x00\x00\x00\x00\x07\0\0"
    body = attribute(10, prefix) + attribute(4, struct.pack("!I", 3)) + attribute(8, mac) + attribute(9, payload)
    return b"\0" * 4 + body


def test_a_blocked_packet_is_told_with_its_rule_interface_and_mac() -> None:
    seen = parse_message(message(), lambda index: f"if{index}")

    assert seen is not None
    assert (seen.action, seen.rule, seen.interface, seen.mac) == ("block", "no-smtp", "if3", "02:00:00:00:00:07")
    assert (str(seen.packet.source), seen.packet.destination_port) == ("192.0.2.7", 25)


def test_other_programs_prefixes_are_none_of_ours() -> None:
    assert parse_message(message(prefix=b"fw: dropped\0"), str) is None
    assert parse_message(message(prefix=b"eg:block:\0"), str) is None


def test_several_messages_in_one_datagram() -> None:
    one = message()
    wire = struct.pack("=IHHII", 16 + len(one), 4 << 8, 0, 0, 0) + one

    assert len(list(parse_datagram(wire * 3, str))) == 3


@given(st.binary(max_size=300))
def test_any_octets_are_no_observation_or_one(octets: bytes) -> None:
    parse_message(octets, str)
    list(parse_datagram(octets, str))


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_message_with_one_octet_changed_never_raises(position: int, value: int) -> None:
    one = message()
    wire = bytearray(struct.pack("=IHHII", 16 + len(one), 4 << 8, 0, 0, 0) + one)
    wire[position % len(wire)] = value

    list(parse_datagram(bytes(wire), str))
