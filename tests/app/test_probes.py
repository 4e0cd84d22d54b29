"""Probes: what still works is no veto, what does not says so."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from egressguard.app.probes import dns_answers, management_faults, relay_fault
from egressguard.policy.model import Policy
from tests.firewall.conftest import local_program


def policy(flows: list[dict[str, Any]] | None = None, **site: Any) -> Policy:
    zones = {"zones": {"lan": {"networks": "10.0.0.0/8"}}}
    listeners = {
        "relay": {"listeners": {"lan": {"kind": "smtp", "port": 25}, "tls": {"kind": "submissions", "port": 1}}}
    }
    return Policy.model_validate({"site": {**zones, **listeners, **site}, "flows": flows or []})


BLOCK = {"name": "block", "from": "lan", "port": 22, "action": "drop"}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (BLOCK, "meets drop, by rule 'block'"),
        ({**BLOCK, "destination_host": "mx.a.example", "decide": "queue"}, "cannot be decided, by rule 'block'"),
        ({**BLOCK, "port": 25}, ""),
    ],
)
def test_a_management_flow_must_be_allowed(rule: dict[str, Any], words: str) -> None:
    apply = {"management": [{"from": "10.0.0.1", "to": "192.0.2.1"}]}
    faults = list(management_faults(policy([rule], apply=apply), frozenset(), now=0.0))
    assert bool(faults) == bool(words)
    assert all(fault.endswith(words) for fault in faults)


@pytest.mark.parametrize(
    ("greeting", "fault"), [(b"220 hello\r\n", ""), (b"554 no\r\n", "it says b'554 no"), (b"", "it says b''")]
)
def test_a_listener_must_greet(tmp_path: Path, greeting: bytes, fault: str) -> None:
    async def run() -> str:
        async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            writer.close()

        server = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        listening = tmp_path / "listening.json"
        listening.write_text(json.dumps({"lan": [["0.0.0.0", port]], "tls": [["127.0.0.1", port]]}))
        async with server:
            return await relay_fault(policy(), listening)

    found = asyncio.run(run())
    assert fault in found and bool(found) == bool(fault)


def test_dns_answers_or_not() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind(("127.0.0.1", 0))
        silent = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert not asyncio.run(dns_answers(policy(resolvers=silent)))
    server = local_program("tests.firewall.run_names", "127.0.0.1", "0", "mx.a.example", "192.0.2.1", "2001:db8::1")
    try:
        assert asyncio.run(dns_answers(policy(resolvers=f"127.0.0.1:{server.wait('ready')}")))
    finally:
        server.end()
