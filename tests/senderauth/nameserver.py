"""A name server of a test's own on loopback, UDP and TCP: answers from zone text, fails or keeps silent where told."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Collection

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zonefile

from egressguard.senderauth.resolver import Resolver

UDP_OCTETS = 1232


class NameServer:
    """`zone` has lines as in a zone file, with absolute names. Any name below one in `failing` is SERVFAIL."""

    def __init__(self, zone: str, failing: Collection[str] = (), silent: Collection[str] = ()) -> None:
        rrsets = dns.zonefile.read_rrsets(zone, rdclass="IN", relativize=False)
        self._rrsets: dict[tuple[dns.name.Name, int], dns.rrset.RRset] = {(r.name, r.rdtype): r for r in rrsets}
        self._names = {ancestor for name, _ in self._rrsets for ancestor in _ancestors(name)}
        self._failing = [dns.name.from_text(name) for name in failing]
        self._silent = [dns.name.from_text(name) for name in silent]
        self.asked: Counter[tuple[str, str]] = Counter()
        self.endpoint = ""

    def answer(self, octets: bytes, *, most: int) -> bytes | None:
        query = dns.message.from_wire(octets)
        name, kind = query.question[0].name, query.question[0].rdtype
        self.asked[name.to_text().lower(), dns.rdatatype.to_text(kind)] += 1
        if any(name.is_subdomain(one) for one in self._silent):
            return None
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        if any(name.is_subdomain(one) for one in self._failing):
            reply.set_rcode(dns.rcode.SERVFAIL)
        else:
            self._fill(reply, name, kind)
        try:
            return reply.to_wire(max_size=most)
        except dns.exception.TooBig:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            return reply.to_wire()

    def _fill(self, reply: dns.message.Message, name: dns.name.Name, kind: int) -> None:
        for _ in range(12):
            if (name, kind) in self._rrsets:
                reply.answer.append(self._rrsets[name, kind])
                return
            alias = self._rrsets.get((name, dns.rdatatype.CNAME))
            if alias is None:
                break
            reply.answer.append(alias)
            name = alias[0].target
        if name not in self._names:
            reply.set_rcode(dns.rcode.NXDOMAIN)


def _ancestors(name: dns.name.Name) -> list[dns.name.Name]:
    return [dns.name.Name(name.labels[at:]) for at in range(len(name.labels))]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: NameServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: object) -> None:
        reply = self._server.answer(data, most=UDP_OCTETS)
        if reply is not None:
            self._transport.sendto(reply, address)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def running(server: NameServer, *, lifetime_seconds: float = 3.0) -> AsyncIterator[Resolver]:
    """Serves while the block runs, and gives a resolver that asks it."""

    async def streamed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            reply = server.answer(await reader.readexactly(length), most=65535)
            if reply is not None:
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    for _ in range(20):  # the same port twice
        streams = await asyncio.start_server(streamed, "127.0.0.1", 0)
        port = streams.sockets[0].getsockname()[1]
        try:
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(server), local_addr=("127.0.0.1", port)
            )
            break
        except OSError:
            streams.close()
    server.endpoint = f"127.0.0.1:{port}"
    try:
        yield Resolver([server.endpoint], lifetime_seconds=lifetime_seconds)
    finally:
        transport.close()
        streams.close()
