"""The PROXY protocol: octets of the specification, of nobody, and of the real haproxy."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.smtp.proxy import V1_OCTETS, V2_BLOCK_OCTETS, Header, NeedMore, ProxyError, parse_proxy

ROOT = Path(__file__).resolve().parents[2]
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = ipaddress.ip_address("192.0.2.7").packed + ipaddress.ip_address("198.51.100.1").packed + b"\xdc\x04\x00\x19"
V6 = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::1").packed + b"\xdc\x04\x00\x19"
MAPPED = ipaddress.ip_address("::ffff:192.0.2.7").packed + ipaddress.ip_address("2001:db8::1").packed + b"\0\0\0\x19"


def v2(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + bytes([command, family]) + (len(block) if length is None else length).to_bytes(2, "big") + block


def header(octets: int, source: str, source_port: int, destination: str, destination_port: int) -> Header:
    ends = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    return Header(octets, ends[0], source_port, ends[1], destination_port)


GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 25\r\n", header(44, "192.0.2.7", 56324, "198.51.100.1", 25)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", None),
    (b"PROXY TCP6 2001:DB8::7 2001:db8::1 0 25\r\n", header(41, "2001:db8::7", 0, "2001:db8::1", 25)),
    (b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", None),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1 2\r\n", header(53, "192.0.2.7", 1, "198.51.100.1", 2)),
    (b"PROXY UNKNOWN\r\n", Header(15)),
    (b"PROXY UNKNOWN " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", Header(V1_OCTETS)),
    (b"PROXY UNKNOWN \xff anything\r\n", Header(26)),
    (v2(0x21, 0x11, V4), header(28, "192.0.2.7", 56324, "198.51.100.1", 25)),
    (v2(0x21, 0x21, V6), header(52, "2001:db8::7", 56324, "2001:db8::1", 25)),
    (v2(0x21, 0x21, MAPPED), header(52, "192.0.2.7", 0, "2001:db8::1", 25)),
    (v2(0x21, 0x11, V4 + b"\x04\0\0" + b"\x05\0\x02id"), header(36, "192.0.2.7", 56324, "198.51.100.1", 25)),
    (v2(0x21, 0x11, V4 + b"\x04\x07\xf1" + bytes(2033)), header(2064, "192.0.2.7", 56324, "198.51.100.1", 25)),
    (v2(0x20, 0x00, b""), Header(16)),
    (v2(0x20, 0xFF, b"whatever"), Header(24)),  # LOCAL: the family and the block do not count
    (v2(0x20, 0x31, bytes(216)), Header(232)),
    (v2(0x21, 0x00, b"whatever"), Header(24)),
    (v2(0x21, 0x10, V4), Header(28)),
    (v2(0x21, 0x02, V4), Header(28)),
]


@pytest.mark.parametrize(("octets", "wanted"), GOOD)
def test_headers_whole_and_with_mail_behind_them(octets: bytes, wanted: Header | None) -> None:
    found = parse_proxy(octets)
    assert isinstance(found, Header)
    assert found.octets == len(octets)
    assert wanted is None or found == wanted
    assert found.local == (found.source is None) == (found.destination is None)
    assert parse_proxy(octets + b"EHLO client.example\r\n") == found


@pytest.mark.parametrize("octets", [octets for octets, _ in GOOD])
def test_each_piece_of_a_header_asks_for_more_and_never_for_too_much(octets: bytes) -> None:
    for cut in range(len(octets)):
        found = parse_proxy(octets[:cut])
        assert isinstance(found, NeedMore)
        assert cut < found.octets <= len(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO client.example\r\n",
        b"E",
        b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY\tTCP4",
        b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\rX",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n",
        b"PROXY TCP6 2001:db8::7::8 2001:db8::1 1 2\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY UNKNOWN a\nb\r\n",
        b"PROXY \r\n",
        b"PROXY " + b"x" * (V1_OCTETS - 6),
        b"PROXY UNKNOWN " + b"x" * (V1_OCTETS - 15) + b"\r\n",
        b"\r\n\r\n\0\r\nQUIX",
        b"\r\nEHLO",
        v2(0x11, 0x11, V4),
        v2(0x31, 0x11, V4),
        v2(0x22, 0x11, V4),
        v2(0x2F, 0x11, V4),
        v2(0x21, 0x31, bytes(216)),
        v2(0x21, 0x32, bytes(216)),
        v2(0x21, 0x12, V4),
        v2(0x21, 0x22, V6),
        v2(0x21, 0x40, V4),
        v2(0x21, 0x13, V4),
        v2(0x21, 0x03, V4),
        v2(0x21, 0x11, V4[:-1]),
        v2(0x21, 0x11, b""),
        v2(0x21, 0x21, V4),
        v2(0x21, 0x11, b"", V2_BLOCK_OCTETS + 1),
        v2(0x20, 0x00, b"", 0xFFFF),
        v2(0x21, 0x11, V4 + b"\x04"),
        v2(0x21, 0x11, V4 + b"\x04\0"),
        v2(0x21, 0x11, V4 + b"\x04\0\x01"),
        v2(0x21, 0x11, V4 + b"\x04\xff\xff" + bytes(16)),
    ],
)
def test_what_is_no_header_is_refused(octets: bytes) -> None:
    with pytest.raises(ProxyError):
        parse_proxy(octets)


def test_a_refusal_comes_with_the_first_wrong_octet() -> None:
    for octets in (b"PROXZ", b"\r\n\r\n\0\r\nQUITX", v2(0x21, 0x31, b"", 216), v2(0x21, 0x11, b"", 4096)):
        with pytest.raises(ProxyError):
            parse_proxy(octets)


PIECES = st.sampled_from(
    [b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"192.0.2.1 ", b"::1 ", b"25", b" ", b"\r\n", SIGNATURE]
)
V2_LIKE = st.builds(
    v2,
    st.sampled_from([0x20, 0x21]) | st.integers(0, 255),
    st.sampled_from([0, 0x11, 0x21]) | st.integers(0, 255),
    st.binary(max_size=80),
    st.none() | st.integers(0, 90),
)


@given(st.binary(max_size=200) | st.lists(PIECES | st.binary(max_size=3), max_size=10).map(b"".join) | V2_LIKE)
def test_any_octets_are_a_header_more_or_refused(octets: bytes) -> None:
    try:
        found = parse_proxy(octets)
    except ProxyError:
        return
    if isinstance(found, NeedMore):
        assert len(octets) < found.octets <= 16 + V2_BLOCK_OCTETS
    else:
        assert parse_proxy(octets[: found.octets]) == found
        assert isinstance(parse_proxy(octets[: found.octets - 1]), NeedMore)


async def _first_octets(received: asyncio.Queue[bytes], port: int) -> tuple[bytes, int]:
    """Dial `port`; (what came before our own words at the other side, our port)."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        ours: int = writer.get_extra_info("sockname")[1]
        writer.write(b"EHLO client.example\r\n")
        await writer.drain()
        return await asyncio.wait_for(received.get(), 30), ours
    finally:
        writer.close()


async def _serve(received: asyncio.Queue[bytes]) -> asyncio.Server:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await received.put(await reader.readuntil(b"EHLO client.example\r\n"))
        except asyncio.IncompleteReadError:
            return  # haproxy looks whether somebody is there
        finally:
            writer.close()

    return await asyncio.start_server(take, "127.0.0.1", 0)


@pytest.mark.peers
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
def test_what_haproxy_sends_is_understood(version: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: scripts/peer makes a mount namespace")
    if not (ROOT / ".peers" / "haproxy" / ".unpacked").exists():
        pytest.skip("needs haproxy in .peers: run scripts/peers")

    async def play(listener: socket.socket, directory: Path) -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()
        server = await _serve(received)
        async with server:
            behind = server.sockets[0].getsockname()[1]
            port = listener.getsockname()[1]
            config = directory / "haproxy.cfg"
            config.write_text(
                "defaults\n mode tcp\n timeout connect 10s\n timeout client 30s\n timeout server 30s\n"
                " unique-id-format %pid-%rt\n"
                f"frontend in\n bind fd@{listener.fileno()}\n default_backend out\n"
                f"backend out\n server a 127.0.0.1:{behind} {version}\n"
            )
            words = [str(ROOT / "scripts" / "peer"), "haproxy", "haproxy", "-db", "-f", str(config)]
            haproxy = await asyncio.create_subprocess_exec(
                *words, pass_fds=[listener.fileno()], stderr=asyncio.subprocess.DEVNULL
            )
            try:
                octets, client_port = await _first_octets(received, port)
            finally:
                haproxy.terminate()
                await haproxy.wait()
        found = parse_proxy(octets)
        assert found == header(found.octets, "127.0.0.1", client_port, "127.0.0.1", port)  # type: ignore[union-attr]
        assert octets[found.octets :] == b"EHLO client.example\r\n"
        assert octets.startswith(SIGNATURE if "v2" in version else b"PROXY TCP4 ")

    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(play(listener, Path(directory)))
