"""The resolver against a name server of this test's own, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from egressguard.relay.dns import Resolver
from egressguard.relay.route import Answer

ZONE = {
    ("example.net.", "MX"): ["20 mx2.example.net.", "10 mx1.example.net."],
    ("null.example.", "MX"): ["0 ."],
    ("mx1.example.net.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("mx1.example.net.", "AAAA"): ["2001:db8::1"],
    ("only4.example.", "A"): ["192.0.2.4"],
    ("alias.example.", "CNAME"): ["only4.example."],
    ("unsafe.example.", "A"): ["192.0.2.5"],
    ("_25._tcp.only4.example.", "TLSA"): ["3 1 1 " + "00" * 32, "2 0 1 " + "11" * 32],
    ("_25._tcp.short.example.", "TLSA"): ["3 1 1 " + "00" * 31, "3 1 2 " + "22" * 32, "3 1 1 " + "11" * 32],
    ("_smtp._tls.only4.example.", "TXT"): ['"v=TLSRPTv1; " "rua=mailto:a@b.example"'],
}
NAMES = {name for name, _ in ZONE} | {"empty.example."}
SERVFAIL, SILENT = "servfail.example.", "silent.example."


class NameServer(asyncio.DatagramProtocol):
    def __init__(self, *, validates: bool = False) -> None:
        self.validates = validates
        self.asked: Counter[tuple[str, str]] = Counter()
        self.endpoint = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        host, port = transport.get_extra_info("sockname")[:2]
        self.endpoint = f"{host}:{port}"

    def datagram_received(self, data: bytes, address: object) -> None:
        query = dns.message.from_wire(data)
        name, kind = query.question[0].name.to_text().lower(), dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked[name, kind] += 1
        if name == SILENT:
            return
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        if self.validates and query.flags & dns.flags.AD and not name.startswith("unsafe"):
            reply.flags |= dns.flags.AD
        if name == SERVFAIL:
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif name not in NAMES:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        elif (alias := ZONE.get((name, "CNAME"))) and kind != "CNAME":
            reply.answer.append(dns.rrset.from_text(name, 300, "IN", "CNAME", *alias))
            reply.answer.append(dns.rrset.from_text(alias[0], 300, "IN", kind, *ZONE.get((alias[0], kind), [])))
        elif (name, kind) in ZONE:
            reply.answer.append(dns.rrset.from_text(name, 300, "IN", kind, *ZONE[name, kind]))
        self._transport.sendto(reply.to_wire(), address)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def served(*, validates: bool = False) -> AsyncIterator[tuple[Resolver, NameServer]]:
    loop = asyncio.get_running_loop()
    made = NameServer(validates=validates)
    transport, server = await loop.create_datagram_endpoint(lambda: made, local_addr=("127.0.0.1", 0))
    try:
        yield Resolver([server.endpoint], lifetime_seconds=1.0), server
    finally:
        transport.close()


@pytest.mark.parametrize(
    ("domain", "answer", "hosts"),
    [
        ("example.net", Answer.FOUND, {(10, "mx1.example.net"), (20, "mx2.example.net")}),
        ("Example.NET", Answer.FOUND, {(10, "mx1.example.net"), (20, "mx2.example.net")}),
        ("null.example", Answer.FOUND, {(0, "")}),
        ("empty.example", Answer.NOTHING, set()),
        ("nowhere.example", Answer.NO_SUCH_NAME, set()),
        ("servfail.example", Answer.FAILED, set()),
        ("silent.example", Answer.FAILED, set()),
        ("x" * 64 + ".example", Answer.NO_SUCH_NAME, set()),
        ("a..b", Answer.NO_SUCH_NAME, set()),
    ],
)
def test_mx_answers_are_values(domain: str, answer: Answer, hosts: set[tuple[int, str]]) -> None:
    async def walk() -> None:
        async with served() as (resolver, _):
            found = await resolver.resolve_mx(domain)
        assert (found.answer, {(p, h.rstrip(".").lower()) for p, h in found.hosts}) == (answer, hosts)

    asyncio.run(walk())


@pytest.mark.parametrize(
    ("host", "answer", "addresses"),
    [
        ("mx1.example.net", Answer.FOUND, {"2001:db8::1", "192.0.2.1", "192.0.2.2"}),
        ("only4.example", Answer.FOUND, {"192.0.2.4"}),
        ("192.0.2.9", Answer.FOUND, {"192.0.2.9"}),
        ("2001:DB8::9", Answer.FOUND, {"2001:db8::9"}),
        ("localhost", Answer.FOUND, {"127.0.0.1", "::1"}),
        ("empty.example", Answer.NOTHING, set()),
        ("nowhere.example", Answer.NO_SUCH_NAME, set()),
        ("servfail.example", Answer.FAILED, set()),
    ],
)
def test_address_answers_are_values(host: str, answer: Answer, addresses: set[str]) -> None:
    async def walk() -> None:
        async with served() as (resolver, _):
            found = await resolver.resolve_addresses(host)
        assert (found.answer, set(found.addresses)) == (answer, addresses)

    asyncio.run(walk())


def test_fifty_messages_for_a_new_domain_ask_once_and_the_next_not_at_all() -> None:
    async def walk() -> None:
        async with served() as (resolver, server):
            await asyncio.gather(*(resolver.resolve_mx("example.net") for _ in range(50)))
            await resolver.resolve_mx("example.net")
            assert server.asked["example.net.", "MX"] == 1

    asyncio.run(walk())


def test_one_who_gives_up_waiting_does_not_spoil_it_for_the_others() -> None:
    async def walk() -> None:
        async with served() as (resolver, _):
            one, other = (asyncio.create_task(resolver.resolve_mx("example.net")) for _ in range(2))
            await asyncio.sleep(0)
            one.cancel()
            assert (await other).answer is Answer.FOUND

    asyncio.run(walk())


def test_the_machines_search_list_is_not_used() -> None:
    async def walk() -> None:
        async with served() as (resolver, server):
            resolver._resolver.search = [dns.name.from_text("example.net")]
            assert (await resolver.resolve_addresses("mx1")).answer is Answer.NO_SUCH_NAME
            assert {name for name, _ in server.asked} == {"mx1."}

    asyncio.run(walk())


def test_two_servers_on_one_address_are_told_apart_by_their_ports() -> None:
    async def walk() -> None:
        async with served() as (_, first), served() as (_, second):
            resolver = Resolver([first.endpoint, second.endpoint], lifetime_seconds=1.0)
            ports = {server.port for server in resolver._resolver.nameservers}  # type: ignore[union-attr]
            assert ports == {int(first.endpoint.split(":")[1]), int(second.endpoint.split(":")[1])}
            assert (await resolver.resolve_mx("example.net")).answer is Answer.FOUND

    asyncio.run(walk())


@pytest.mark.parametrize(
    ("validates", "trusted", "host", "secure"),
    [
        (True, True, "only4.example", True),
        (True, False, "only4.example", False),
        (False, True, "only4.example", False),
        (True, True, "unsafe.example", False),
    ],
)
def test_dnssec_is_believed_of_servers_on_this_machine_only(
    validates: bool, trusted: bool, host: str, secure: bool
) -> None:
    async def walk() -> None:
        async with served(validates=validates) as (resolver, _):
            assert resolver.is_trusted
            resolver.is_trusted = trusted
            assert (await resolver.resolve_addresses(host)).secure == secure
            assert (await resolver.resolve_mx(host)).secure == secure, "that there is none is an answer, too"

    asyncio.run(walk())


@pytest.mark.parametrize(
    ("endpoints", "trusted"),
    [(["127.0.0.1"], True), (["[::1]:5353", "127.0.0.53"], True), (["127.0.0.1", "192.0.2.53"], False)],
)
def test_one_server_elsewhere_is_enough_to_believe_none(endpoints: list[str], trusted: bool) -> None:
    assert Resolver(endpoints).is_trusted == trusted


def test_an_alias_is_told_with_its_end() -> None:
    async def walk() -> None:
        async with served(validates=True) as (resolver, _):
            answer = await resolver.resolve_addresses("alias.example")
            assert (answer.addresses, answer.alias_of) == (("192.0.2.4",), "only4.example")
            assert (await resolver.resolve_addresses("Only4.example.")).alias_of == ""
            assert await resolver.is_secure_alias("alias.example")
            assert not await resolver.is_secure_alias("only4.example")

    asyncio.run(walk())


@pytest.mark.parametrize(
    ("validates", "host", "answer", "records"),
    [
        (True, "only4.example", Answer.FOUND, [(2, 0, 1, 32), (3, 1, 1, 32)]),
        (False, "only4.example", Answer.NOTHING, []),
        (True, "short.example", Answer.FOUND, [(3, 1, 1, 31), (3, 1, 1, 32), (3, 1, 2, 32)]),
        (True, "mx1.example.net", Answer.NO_SUCH_NAME, []),
    ],
)
def test_tlsa_records_count_only_when_they_are_known_to_be_true(
    validates: bool, host: str, answer: Answer, records: list[tuple[int, int, int, int]]
) -> None:
    async def walk() -> None:
        async with served(validates=validates) as (resolver, _):
            found = await resolver.resolve_tlsa(host, 25)
        shown = sorted((r.usage, r.selector, r.matching, len(r.data)) for r in found.records)
        assert (found.answer, shown) == (answer, records)

    asyncio.run(walk())


def test_the_strings_of_a_text_are_one() -> None:
    async def walk() -> None:
        async with served() as (resolver, _):
            found = await resolver.resolve_text("_smtp._tls.only4.example")
            assert found.texts == (b"v=TLSRPTv1; rua=mailto:a@b.example",)
            assert (await resolver.resolve_text("nowhere.example")).answer is Answer.NO_SUCH_NAME

    asyncio.run(walk())
