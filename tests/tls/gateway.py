"""The whole gateway, an ordinary user's, against some hosts of the matrix: `unshare --net python -m tests.tls.gateway`.

Prints JSON: what the mail hosts saw, what waits in the queue and why, the page of metrics, the domains that the tlsrpt
collector heard of and those whose MTA-STS policies are on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import smtplib
import socket
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from egressguard.app.control import ask
from tests.app.test_gateway import Running, running_in, until
from tests.tls.cells import CELLS
from tests.tls.certificates import authority
from tests.tls.internet import MailHost, address_of, addresses, dns, loopback, mail_host, web

NAMES = ("ee-key", "wrong-tlsa", "tlsa-servfail", "sts", "sts-stripped", "nothing-stripped")
CHOSEN = {cell.name: cell for cell in CELLS if cell.name in NAMES}
SITE = """
site:
  zones: {{lan: {{networks: 127.0.0.0/8}}}}
  resolvers: 127.0.0.1
  dnssec: true
  relay:
    hostname: gw.test.example
    listeners: {{lan: {{kind: smtp, port: 0}}}}
    mta_sts: true
    mta_sts_ca_file: {ca}
    tlsrpt_socket: {collector}
  metrics: {{port: 0}}
mail:
  - {{name: everybody-here, match: {{client: lan}}, action: accept}}
"""


def send(gateway: Running) -> None:
    with smtplib.SMTP("127.0.0.1", gateway.port("lan"), timeout=20) as client:
        for cell in CHOSEN.values():
            client.sendmail("a@test.example", [f"b@{cell.domain}"], "Subject: x\r\n\r\nhello\r\n")


def waiting(gateway: Running) -> dict[str, str]:
    """Status by recipient, of those that were tried."""
    rows = ask(gateway.runtime / "relay" / "control.sock", "queue.list", limit=50)
    return {one["address"]: one["last_status"] for row in rows for one in row["recipients"]}


def drive(folder: Path, site: str, hosts: dict[str, MailHost]) -> dict[str, Any]:
    """Blocks: the mail hosts live on the loop meanwhile."""
    with contextlib.contextmanager(running_in)(folder, site) as gateway:
        send(gateway)
        good = [cell.name for cell in CHOSEN.values() if cell.result == "delivered"]
        bad = {f"b@{cell.domain}" for cell in CHOSEN.values() if cell.result != "delivered"}
        until(lambda: all(hosts[name].messages for name in good))
        until(lambda: set(waiting(gateway)) == bad and all(waiting(gateway).values()))
        place = f"http://127.0.0.1:{gateway.port('metrics')}/metrics"
        page = urllib.request.urlopen(place, timeout=20).read().decode()
        kept = [json.loads(p.read_text())["domain"] for p in (folder / "state" / "spool" / "mta-sts").iterdir()]
        return {"waiting": waiting(gateway), "page": page, "kept": sorted(kept)}


async def main(folder: Path) -> dict[str, Any]:
    (folder / "ca.pem").write_bytes(authority().pem)
    (folder / "gateway").mkdir()
    collector = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    collector.bind(str(folder / "tlsrpt.sock"))
    (folder / "tlsrpt.sock").chmod(0o666)
    heard: list[str] = []
    asyncio.get_running_loop().add_reader(collector, lambda: heard.append(json.loads(collector.recv(65536))["d"]))
    site = SITE.format(ca=folder / "ca.pem", collector=folder / "tlsrpt.sock")
    async with dns(folder), web(), contextlib.AsyncExitStack() as stack:
        hosts: dict[str, MailHost] = {}
        for name, cell in CHOSEN.items():
            hosts[name] = mail_host(cell, folder / "ca.pem")
            await stack.enter_async_context(hosts[name].listening(address_of(cell)))
        told = await asyncio.to_thread(drive, folder / "gateway", site, hosts)
    return told | {"heard": sorted(set(heard)), "saw": {name: saw(host) for name, host in hosts.items()}}


def saw(host: MailHost) -> str:
    return "nothing" if not host.encrypted else "tls" if all(host.encrypted) else "plain"


if __name__ == "__main__":
    loopback(addresses())
    with tempfile.TemporaryDirectory(prefix="eg-tls-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)  # noqa: PTH101
        json.dump(asyncio.run(main(Path(name))), sys.stdout)
