"""Every cell of the matrix with the relay's own code: `unshare --net python -m tests.tls.matrix`.

Prints JSON: by cell what became of the recipient and what the mail host saw; what the tlsrpt collector got; metrics.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry

from egressguard.mail.outcome import Outcome
from egressguard.policy.model import Policy
from egressguard.relay.attempt import MX, Means, Way, attempt
from egressguard.relay.dns import Resolver
from egressguard.relay.mta_sts import MtaSts
from egressguard.relay.tls_report import TlsReport
from egressguard.smtp.client import Patience, SmtpClient, Transaction
from egressguard.smtp.dial import Peer
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due
from tests.tls.cells import CELLS, Cell
from tests.tls.certificates import authority, issue
from tests.tls.internet import UNBOUND, address_of, addresses, dns, loopback, mail_host, second_host, second_of, web

CONTENT = Content.of(b"Subject: x\r\n\r\nhello\r\n")
GATEWAY = "gw.site.example"
AT_ONCE = 8


def policy_of(cell: Cell, folder: Path) -> Policy:
    rule: dict[str, Any] = dict(cell.rule)
    if "ca_file" in rule:
        rule["ca_file"] = str(folder / "ca.pem")
    if "client_certificate" in rule:
        rule["client_certificate"] = {"certificate": str(folder / "ours.pem"), "private_key": str(folder / "ours.key")}
    site = {
        "zones": {},
        "dnssec": True,
        "resolvers": UNBOUND,
        "relay": {
            "mta_sts": True,
            "mta_sts_ca_file": str(folder / "ca.pem"),
            "tlsrpt_socket": str(folder / "tlsrpt.sock"),
            "attempt_timeout_seconds": 10,
        },
    }
    return Policy.model_validate({"site": site, "tls": [{"name": "rule", **rule}] if rule else []})


def write_files(folder: Path) -> None:
    (folder / "ca.pem").write_bytes(authority().pem)
    ours = issue([GATEWAY], authority())
    (folder / "ours.pem").write_bytes(ours.pem)
    (folder / "ours.key").write_bytes(ours.key_pem)


class Matrix:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = CollectorRegistry()
        resolver = Resolver([UNBOUND])
        self.report = TlsReport(resolver, lambda: str(folder / "tlsrpt.sock"), self.registry)
        self.client = SmtpClient(self.report.observe)
        sts = MtaSts(resolver, folder / "mta-sts")
        sts.load()
        self.means = Means(
            resolver, GATEWAY, folder, send=self.client.send, sts=sts, told=self.report.refused, chance=lambda: 0.0
        )
        self.places = asyncio.Semaphore(AT_ONCE)

    async def run(self, cell: Cell) -> dict[str, Any]:
        async with self.places, contextlib.AsyncExitStack() as stack:
            host = mail_host(cell, self.folder / "ca.pem")
            await stack.enter_async_context(host.listening(address_of(cell)))
            hosts = [host]
            if cell.second:
                hosts.append(second_host(cell))
                await stack.enter_async_context(hosts[1].listening(second_of(cell)))
            if cell.broken_before:
                await self._break(cell)
                assert host.encrypted == [False], "the host was not plain before"
                host.encrypted.clear()
            path = f"b@{cell.domain}"
            claim = replace(
                Claim("0ABC", "a@site.example", 1.0, 100, False, False, (Due(path, 1),)), requiretls=cell.requiretls
            )
            way = Way((MX,), cell.domain, (path,))
            sent = await attempt(way, claim, CONTENT, policy_of(cell, self.folder), self.means)
            return _told(sent.outcomes[path], hosts)

    async def _break(self, cell: Cell) -> None:
        """The client learns that the host's TLS does not work."""
        before = Transaction("a@site.example", (f"b@{cell.domain}",), CONTENT)
        await self.client.send(before, Peer(cell.host, (address_of(cell),), 25), GATEWAY, Patience.of(10))


def _told(outcome: Outcome, hosts: list[Any]) -> dict[str, Any]:
    encrypted = [each for host in hosts for each in host.encrypted]
    return {
        "result": outcome.result.value,
        "status": outcome.status,
        "text": outcome.text,
        "saw": "nothing" if not encrypted else "tls" if all(encrypted) else "plain",
        "asked": [line for host in hosts for line in host.asked],
    }


async def main(folder: Path) -> dict[str, Any]:
    write_files(folder)
    collector = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    collector.bind(str(folder / "tlsrpt.sock"))
    collector.setblocking(False)
    heard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.add_reader(collector, lambda: heard.append(json.loads(collector.recv(65536))))
    async with dns(folder), web():
        matrix = Matrix(folder)
        results = await asyncio.gather(*(matrix.run(cell) for cell in CELLS))
        await matrix.report.settle()
        await matrix.client.close()
    while True:
        try:
            heard.append(json.loads(collector.recv(65536)))
        except BlockingIOError:
            break
    counted = [
        [sample.labels["policy"], sample.labels["result"], sample.value]
        for family in matrix.registry.collect()
        for sample in family.samples
        if sample.name == "egressguard_delivery_tls_sessions_total" and sample.value
    ]
    cells = {cell.name: result for cell, result in zip(CELLS, results, strict=True)}
    return {"cells": cells, "reports": heard, "counted": counted}


if __name__ == "__main__":
    loopback(addresses())
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with tempfile.TemporaryDirectory(prefix="eg-tls-") as name:
        Path(name).chmod(0o755)
        json.dump(asyncio.run(main(Path(name))), sys.stdout)
