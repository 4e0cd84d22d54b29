"""A relay behind a load balancer: the PROXY header in front of real sessions, and who may send one."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from egressguard.policy.relaying import Relay
from egressguard.smtp import engine
from egressguard.smtp.hooks import Kind
from egressguard.smtp.settings import SmtpSettings
from tests.smtp.conftest import Client, Running, Stand

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n"
V1_V6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 25\r\n"
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V2 = V2_SIGNATURE + b"\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 198, 51, 100, 1]) + b"\xdc\x04\x00\x19"
V2_LOCAL = V2_SIGNATURE + b"\x20\x00\x00\x00"
MAIL = b"EHLO client.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nBDAT 6 LAST\r\nx: y\r\nQUIT\r\n"


@asynccontextmanager
async def dialled(stand: Stand, running: Running, kind: Kind = "smtp") -> AsyncIterator[Client]:
    """A connection in clear on which nobody has said anything yet."""
    client = Client(*await asyncio.open_connection(*running.places[kind]))
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.parametrize("chunk_octets", [1, 7, 1 << 30])
@pytest.mark.parametrize(
    ("header", "client", "port"),
    [
        (V1, "192.0.2.7", 56324),
        (V1_V6, "2001:db8::7", 56324),
        (V2, "192.0.2.7", 56324),
        (V2_LOCAL, "127.0.0.1", None),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1", None),
    ],
)
def test_a_session_is_the_clients_that_the_header_names(
    stand: Stand, header: bytes, client: str, port: int | None, chunk_octets: int
) -> None:
    async def play() -> None:
        async with stand.serve(proxy_from=LOOPBACK) as running, dialled(stand, running) as us:
            await us.send(header + MAIL, chunk_octets)
            heard = await us.rest()
            assert heard.startswith("220 gateway.example.org ESMTP\r\n250-")
            assert heard.endswith("221 2.0.0 Bye\r\n")
            ((facts, _, _),) = running.hooks.messages
            assert str(facts.client) == client
            assert facts.client_port == (us.writer.get_extra_info("sockname")[1] if port is None else port)

    asyncio.run(play())


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("peers", [(), (ipaddress.ip_network("192.0.2.0/24"),)])
def test_nobody_else_is_heard(stand: Stand, header: bytes, peers: Any) -> None:
    async def play() -> None:
        async with stand.serve(proxy_from=peers) as running, stand.client(running) as us:
            await us.send(header)
            assert (await us.reply())[0] == "5"
            assert all(about == "" for _, _, about in running.hooks.refused)
            if header is V1:
                assert await us.say("PROXY TCP4 192.0.2.7 198.51.100.1 1 2") == "500 5.5.1 Command not recognised"
                await us.send(MAIL)
                assert (await us.rest()).endswith("221 2.0.0 Bye\r\n")
                assert str(running.hooks.messages[0][0].client) == "127.0.0.1"

    asyncio.run(play())


@pytest.mark.parametrize("kind", ["smtp", "submissions"])
@pytest.mark.parametrize(
    "octets", [b"EHLO client.example\r\n", b"PROXY TCP4 x\r\n", V2[:-1], V2_SIGNATURE + b"\x31", b""]
)
def test_a_load_balancer_that_sends_no_header_is_cut_without_a_word(
    stand: Stand, kind: Kind, octets: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "PROXY_SECONDS", 0.2)

    async def play() -> None:
        async with (
            stand.serve(proxy_from=LOOPBACK) as running,
            dialled(stand, running, kind) as us,
        ):
            await us.send(octets)
            assert await us.rest() == ""

    asyncio.run(play())


def test_a_load_balancer_that_leaves_early_costs_nothing(stand: Stand) -> None:
    async def play() -> None:
        async with stand.serve(proxy_from=LOOPBACK) as running:
            async with dialled(stand, running) as us:
                await us.send(V1[:10])
                us.writer.write_eof()
                assert await us.rest() == ""
            assert running.server._connections.open == 0

    asyncio.run(play())


def test_places_are_counted_for_the_clients_and_not_for_the_load_balancer(stand: Stand) -> None:
    async def greeting(us: Client, client: str) -> str:
        await us.send(f"PROXY TCP4 {client} 198.51.100.1 1 25\r\n".encode())
        return await us.reply()

    async def play() -> None:
        async with stand.serve(proxy_from=LOOPBACK, max_connections_per_client=1) as running:
            async with (
                dialled(stand, running) as one,
                dialled(stand, running) as again,
                dialled(stand, running) as other,
            ):
                assert (await greeting(one, "192.0.2.7"))[:3] == "220"
                assert (await greeting(again, "192.0.2.7"))[:3] == "421"
                assert (await greeting(other, "192.0.2.8"))[:3] == "220"
                assert [(stage, reply.code) for stage, reply, _ in running.hooks.refused] == [("connect", 421)]
                assert (await one.say("QUIT"))[:3] == "221"
                assert await one.rest() == ""
                async with dialled(stand, running) as third:
                    assert (await greeting(third, "192.0.2.7"))[:3] == "220"
            await running.server.drain(5)
            assert running.server._connections.open == 0
            assert not +running.server._connections._by_client

    asyncio.run(play())


class Handshake:
    """A TLS client that says which octets go together."""

    def __init__(self, context: ssl.SSLContext, us: Client) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="gateway.example.org")
        self._us = us

    def hello(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self._out.read()

    async def finish(self) -> str:
        """Shake hands, and return the greeting."""
        await self._until(self._tls.do_handshake)
        return (await self._until(self._tls.read)).decode()

    async def _until(self, step: Callable[[], Any]) -> Any:
        async with asyncio.timeout(20):
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    self._us.writer.write(self._out.read())
                    octets = await self._us.reader.read(65536)
                    assert octets, "the server has closed"
                    self._in.write(octets)


def on_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """What the gateway itself runs on."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@pytest.mark.parametrize("run", [asyncio.run, on_uvloop])
@pytest.mark.parametrize("together", [0, 1, 100, 1 << 20])
@pytest.mark.parametrize("header", [V1, V2])
def test_a_handshake_may_begin_in_the_headers_segment(
    stand: Stand, header: bytes, together: int, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def play() -> None:
        async with stand.serve(proxy_from=LOOPBACK) as running, dialled(stand, running, "submissions") as us:
            handshake = Handshake(running.client_context, us)
            hello = handshake.hello()
            await us.send(header + hello[:together])
            await us.send(hello[together:])
            assert await handshake.finish() == "220 gateway.example.org ESMTP\r\n"

    run(play())


def test_the_rules_name_the_load_balancers() -> None:
    relay = Relay.model_validate({"proxy_from": ["192.0.2.2", "2001:db8::/64"]})
    settings = SmtpSettings.of(relay, "gateway.example.org")
    assert settings.hears_proxy(ipaddress.ip_address("192.0.2.2"))
    assert settings.hears_proxy(ipaddress.ip_address("2001:db8::7"))
    assert not settings.hears_proxy(ipaddress.ip_address("192.0.2.3"))


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "::/0"])
def test_that_everybody_is_a_load_balancer_is_refused(everybody: str) -> None:
    with pytest.raises(ValueError, match="proxy_from"):
        Relay.model_validate({"proxy_from": everybody})


@pytest.mark.peers
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
def test_mail_comes_through_haproxy_with_the_clients_address(stand: Stand, version: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: scripts/peer makes a mount namespace")
    if not (ROOT / ".peers" / "haproxy" / ".unpacked").exists():
        pytest.skip("needs haproxy in .peers: run scripts/peers")

    async def play(listener: socket.socket) -> None:
        async with stand.serve(proxy_from=LOOPBACK) as running:
            host, port = running.places["smtp"]
            config = tmp_path / "haproxy.cfg"
            config.write_text(
                "defaults\n mode tcp\n timeout connect 10s\n timeout client 30s\n timeout server 30s\n"
                f"frontend in\n bind fd@{listener.fileno()}\n default_backend out\n"
                f"backend out\n server a {host}:{port} {version}\n"
            )
            words = [str(ROOT / "scripts" / "peer"), "haproxy", "haproxy", "-db", "-f", str(config)]
            haproxy = await asyncio.create_subprocess_exec(
                *words, pass_fds=[listener.fileno()], stderr=asyncio.subprocess.DEVNULL
            )
            try:
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", listener.getsockname()[1], local_addr=("127.0.0.9", 0)
                )
                us = Client(reader, writer)
                await us.send(MAIL)
                assert (await us.rest()).endswith("221 2.0.0 Bye\r\n")
                ours = us.writer.get_extra_info("sockname")
                await us.close()
            finally:
                haproxy.terminate()
                await haproxy.wait()
            ((facts, _, _),) = running.hooks.messages
            assert (str(facts.client), facts.client_port) == ours

    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(play(listener))
