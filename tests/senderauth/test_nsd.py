"""The same checks against nsd, a name server of other people's making."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import pytest

from egressguard.mail.header import split_header_section
from egressguard.policy.facts import Authentication
from egressguard.senderauth.blocklists import BlockLists, DnsblZone
from egressguard.senderauth.check import Checker
from egressguard.senderauth.resolver import Resolver
from tests.senderauth.signing import MESSAGE, arc_set, ed25519_key, rsa_key, signed, txt

ROOT = Path(__file__).parent.parent.parent
PEER = ROOT / ".peers" / "nsd" / ".unpacked"

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(not PEER.exists(), reason="nsd is not here: scripts/peers"),
    pytest.mark.skipif(os.geteuid() != 0, reason="nsd needs root: scripts/peer makes a mount namespace"),
]


def zones() -> dict[str, str]:
    heads = "@ 300 SOA ns hostmaster 1 3600 600 86400 60\n@ 300 NS ns\nns 300 A 127.0.0.1\n"
    return {
        "sender.example": heads
        + txt("sender.example", "v=spf1 include:_spf.sender.example ~all")
        + txt("_spf.sender.example", "v=spf1 ip4:192.0.2.0/24 -all")
        + txt("_dmarc.sender.example", "v=DMARC1; p=quarantine; adkim=s")
        + txt("s1._domainkey.sender.example", rsa_key()[1])
        + txt("ed._domainkey.sender.example", ed25519_key()[1]),
        "list.example": heads + txt("arc._domainkey.list.example", rsa_key()[1]),
        "bl.example": heads + "9.100.51.198 300 A 127.0.0.2\n" + txt("9.100.51.198.bl.example", "spam"),
    }


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        stream.bind(("127.0.0.1", 0))
        return int(stream.getsockname()[1])


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Until it answers, or has ended (the port may have been taken meanwhile)."""
    question = dns.message.make_query("sender.example", "SOA")
    for _ in range(100):
        if process.poll() is not None:
            return False
        with contextlib.suppress(OSError, dns.exception.DNSException):
            if dns.query.udp(question, "127.0.0.1", port=port, timeout=0.2).answer:
                return True
    return False


@pytest.fixture
def nsd(tmp_path: Path) -> Iterator[str]:
    """An endpoint."""
    listed = ""
    for name, text in zones().items():
        (tmp_path / name).write_text(f"$ORIGIN {name}.\n{text}")
        listed += f'zone:\n  name: "{name}"\n  zonefile: "{tmp_path / name}"\n'
    for _ in range(5):
        port = _free_port()
        server = (
            f'server:\n  ip-address: 127.0.0.1@{port}\n  username: ""\n  zonesdir: "{tmp_path}"\n  pidfile: ""\n'
            f'  database: ""\n  xfrdfile: "{tmp_path}/xfrd"\n  zonelistfile: "{tmp_path}/list"\n  server-count: 1\n'
            f'  xfrdir: "{tmp_path}"\nremote-control:\n  control-enable: no\n'
        )
        (tmp_path / "nsd.conf").write_text(server + listed)
        command = [str(ROOT / "scripts" / "peer"), "nsd", "nsd", "-d", "-c", str(tmp_path / "nsd.conf")]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        try:
            if _answers(port, process):
                yield f"127.0.0.1:{port}"
                return
        finally:
            process.terminate()
            process.wait(10)
    pytest.fail("nsd does not start")


def test_checks_against_nsd(nsd: str) -> None:
    content = arc_set(signed(signed(), algorithm="ed25519-sha256", selector="ed"), 1, domain="list.example")

    async def check(client: str, message: bytes) -> Authentication:
        resolver = Resolver([nsd])
        checker = Checker(resolver)
        section = split_header_section(message)[0]
        result = await checker.check(ip_address(client), "mail.example", "anna@sender.example", message, section)
        checker.close()
        assert result.arc.result == ("none" if message is MESSAGE else "pass" if message is content else "fail")
        assert result.disposition == "quarantine"
        return result.summary

    assert asyncio.run(check("192.0.2.10", content)) == Authentication("pass", "pass", "pass")
    assert asyncio.run(check("198.51.100.9", content)) == Authentication("softfail", "pass", "pass")
    assert asyncio.run(check("198.51.100.9", MESSAGE)) == Authentication("softfail", "none", "fail")
    assert asyncio.run(check("198.51.100.9", content + b"x\r\n")) == Authentication("softfail", "fail", "fail")


def test_block_lists_against_nsd(nsd: str) -> None:
    async def ask(client: str) -> list[tuple[tuple[str, ...], str]]:
        found = await BlockLists(Resolver([nsd])).listed(ip_address(client), [DnsblZone("bl.example")])
        return [(listing.codes, listing.reason) for listing in found]

    assert asyncio.run(ask("198.51.100.9")) == [(("127.0.0.2",), "spam")]
    assert asyncio.run(ask("198.51.100.10")) == []
