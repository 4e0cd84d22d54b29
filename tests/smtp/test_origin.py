"""Where a redirected connection was meant to go, asked of a real kernel in a namespace of its own."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.smtp.origin import original_destination, parse_sockaddr_in, parse_sockaddr_in6, render_endpoint

INSIDE = """
import asyncio, json, socket, subprocess, sys
from prometheus_client import CollectorRegistry
from egressguard.policy.relaying import Listener
from egressguard.smtp.server import SmtpServer
from egressguard.smtp.settings import SmtpSettings

RULES = '''
table inet t {
  chain o {
    type nat hook output priority -100;
    tcp dport 25 redirect to :3000
  }
}
'''

class Hooks:
    def has_room(self, size_octets):
        return True

    async def on_recipient(self, session, reverse_path, forward_path, size_octets):
        print(json.dumps([str(session.client), session.redirected, session.original_destination]))
        from egressguard.mail.reply import Reply
        return Reply(250, "2.1.5", "OK")
    def on_refused(self, *_):
        pass

async def visit(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"HELO a\\r\\nMAIL FROM:<>\\r\\nRCPT TO:<a@b.example>\\r\\nQUIT\\r\\n")
    await reader.read()
    writer.close()

async def main():
    for command in ("link set lo up", "addr add 192.0.2.1/32 dev lo", "addr add 2001:db8::1/128 dev lo nodad"):
        subprocess.run(["ip", *command.split()], check=True)
    subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
    settings = SmtpSettings("gateway.example.org", redirect_to="lan")
    server = SmtpServer(Hooks(), settings, None, None, CollectorRegistry(), lambda: None)
    sockets = [socket.create_server(("0.0.0.0", 3000))]
    sockets.append(socket.create_server(("::", 3000), family=socket.AF_INET6))
    sockets.append(socket.create_server(("::", 3001), family=socket.AF_INET6, dualstack_ipv6=True))
    await server.start("lan", Listener(kind="smtp", port=0), sockets)
    for port in (25, 3000):
        await visit("192.0.2.1", port)
        await visit("2001:db8::1", port)
    await visit("192.0.2.1", 3001)
    await server.drain(5)

asyncio.run(main())
"""


@pytest.mark.system
def test_a_redirected_connection_knows_where_it_was_going() -> None:
    for program in ("unshare", "ip", "nft"):
        if shutil.which(program) is None:
            pytest.skip(f"needs a program: {program} is not installed")
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs root: a network namespace cannot be made here")
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", INSIDE],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if "Could not process rule" in done.stderr:
        pytest.skip("needs a kernel part: nat redirect is not there")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        '["192.0.2.1", true, "192.0.2.1:25"]',
        '["2001:db8::1", true, "[2001:db8::1]:25"]',
        '["192.0.2.1", false, null]',
        '["2001:db8::1", false, null]',
        '["192.0.2.1", false, null]',
    ]


def test_a_connection_without_conntrack_is_not_redirected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as _client:
        accepted, _ = server.accept()
        with accepted:
            assert original_destination(accepted) is None


def test_sockaddr() -> None:
    octets = b"\x02\x00\x00\x19\xc6\x33\x64\x07" + bytes(8)
    assert parse_sockaddr_in(octets) == (ipaddress.IPv4Address("198.51.100.7"), 25)
    octets = b"\x0a\x00\x00\x19" + bytes(4) + ipaddress.IPv6Address("2001:db8::1").packed + bytes(4)
    assert parse_sockaddr_in6(octets) == (ipaddress.IPv6Address("2001:db8::1"), 25)
    assert render_endpoint(parse_sockaddr_in6(octets)) == "[2001:db8::1]:25"
