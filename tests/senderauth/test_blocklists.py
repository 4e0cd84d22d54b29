"""Block lists against a real name server: names, codes, refusals, silence, and whom nobody is asked about."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.senderauth.blocklists import BlockLists, DnsblZone, Listing, query_name
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import txt

NIBBLES = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2"

ZONE = (
    "9.100.51.198.bl.example. 300 A 127.0.0.4\n9.100.51.198.bl.example. 300 A 127.0.0.2\n"
    + txt("9.100.51.198.bl.example", "see http://bl.example/\\?198.51.100.9")
    + "9.100.51.198.plain.example. 300 A 127.0.0.2\n"
    + f"{NIBBLES}.bl.example. 300 A 127.0.0.3\n"
    + "9.100.51.198.refusing.example. 300 A 127.255.255.254\n9.100.51.198.refusing.example. 300 A 127.0.0.2\n"
    + "9.100.51.198.parked.example. 300 A 203.0.113.80\n"
    + "1.0.0.10.bl.example. 300 A 127.0.0.2\n"
)
CLIENT = ip_address("198.51.100.9")


def listed(client: IPv4Address | IPv6Address, *zones: DnsblZone) -> tuple[tuple[Listing, ...], NameServer]:
    server = NameServer(ZONE, failing=["failing.example"], silent=["silent.example"])

    async def ask() -> tuple[Listing, ...]:
        async with running(server, lifetime_seconds=1.0) as resolver:
            return await BlockLists(resolver, deadline_seconds=5.0).listed(client, zones)

    return asyncio.run(ask()), server


@pytest.mark.parametrize(
    ("client", "zone", "codes"),
    [
        ("198.51.100.9", DnsblZone("bl.example"), ("127.0.0.2", "127.0.0.4")),
        ("198.51.100.9", DnsblZone("BL.example."), ("127.0.0.2", "127.0.0.4")),
        ("::ffff:198.51.100.9", DnsblZone("bl.example"), ("127.0.0.2", "127.0.0.4")),
        ("198.51.100.9", DnsblZone("bl.example", frozenset({"127.0.0.4"})), ("127.0.0.4",)),
        ("2001:db8::1", DnsblZone("bl.example"), ("127.0.0.3",)),
        ("198.51.100.9", DnsblZone("bl.example", frozenset({"127.0.0.9"})), None),
        ("198.51.100.10", DnsblZone("bl.example"), None),
        ("198.51.100.9", DnsblZone("parked.example"), None),
        ("198.51.100.9", DnsblZone("failing.example"), None),
        ("198.51.100.9", DnsblZone("silent.example"), None),
        ("198.51.100.9", DnsblZone("nowhere.example"), None),
        ("198.51.100.9", DnsblZone("x" * 70 + ".example"), None),
        ("198.51.100.9", DnsblZone("refusing.example", frozenset({"127.255.255.254"})), None),
    ],
)
def test_who_is_listed(client: str, zone: DnsblZone, codes: tuple[str, ...] | None) -> None:
    found, _ = listed(ip_address(client), zone)
    assert [listing.codes for listing in found] == ([codes] if codes else [])


def test_zones_are_asked_side_by_side_and_answer_in_their_order() -> None:
    zones = [DnsblZone("plain.example"), DnsblZone("silent.example"), DnsblZone("bl.example", reasons=False)]
    found, server = listed(CLIENT, *zones)
    assert [listing.zone for listing in found] == ["plain.example", "bl.example"]
    assert ("9.100.51.198.bl.example.", "TXT") not in server.asked


def test_a_reason_is_asked_for_and_is_plain_text() -> None:
    (listing,), _ = listed(CLIENT, DnsblZone("bl.example"))
    assert listing.reason == "see http://bl.example/\\?198.51.100.9"
    (listing,), _ = listed(CLIENT, DnsblZone("plain.example"))
    assert listing.reason == ""


def test_a_refusal_is_logged_once_for_a_zone(caplog: pytest.LogCaptureFixture) -> None:
    async def ask() -> None:
        async with running(NameServer(ZONE)) as resolver:
            lists = BlockLists(resolver)
            for _ in range(3):
                assert await lists.listed(CLIENT, [DnsblZone("refusing.example")]) == ()

    with caplog.at_level(logging.WARNING):
        asyncio.run(ask())
    assert [record.message for record in caplog.records] == ["a block list refuses our questions"]


@pytest.mark.parametrize(
    "client",
    ["127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1",
     "255.255.255.255", "::1", "::", "fe80::1", "fd00::1", "ff02::1", "::ffff:10.0.0.1", "fe80::1%eth0"],
)  # fmt: skip
def test_nobody_is_asked_about_our_own_addresses(client: str) -> None:
    found, server = listed(ip_address(client), DnsblZone("bl.example"))
    assert (found, sum(server.asked.values())) == ((), 0)


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_names_can_be_read_back(address: IPv4Address | IPv6Address) -> None:
    labels = query_name(address, "bl.example.").removesuffix(".bl.example").split(".")
    labels.reverse()
    if address.version == 4:
        assert IPv4Address(".".join(labels)) == address
    else:
        digits = "".join(labels)
        assert (len(labels), IPv6Address(":".join(digits[at : at + 4] for at in range(0, 32, 4)))) == (32, address)
