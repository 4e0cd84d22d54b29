"""An Internet on this machine's loopback: nsd with signed zones, a validating unbound, web servers, mail hosts.

To be run in a network namespace of its own (tests.tls.matrix): it takes addresses, and the ports that the RFCs name.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from egressguard.relay.dns import Resolver
from egressguard.relay.route import Answer
from tests.smtp.fake_mx import FakeMx
from tests.tls.cells import CELLS, Cell
from tests.tls.certificates import Certificate, authority, issue

ROOT = Path(__file__).parent.parent.parent
ZONES = ("signed.example", "bogus.example", "open.example")
NAME_SERVER, UNBOUND = "192.0.2.53", "127.0.0.1"
WEB = {"good": "192.0.2.80", "redirect": "192.0.2.80", "gone": "192.0.2.80", "mismatched": "192.0.2.81"}
NUMBERS = {cell.name: number for number, cell in enumerate(CELLS, start=1)}
SECONDS = 20


def address_of(cell: Cell) -> str:
    return f"203.0.113.{NUMBERS[cell.name]}"


def second_of(cell: Cell) -> str:
    return f"198.51.100.{NUMBERS[cell.name]}"


def addresses() -> list[str]:
    hosts = [at for cell in CELLS for at in (address_of(cell), *([second_of(cell)] if cell.second else []))]
    return [NAME_SERVER, *sorted(set(WEB.values())), *hosts]


@functools.cache
def certificate_of(cell: Cell) -> Certificate:
    ours = authority()
    match cell.certificate:
        case "expired":
            return issue([cell.host], ours, days=(-30, -1))
        case "mismatched":
            return issue(["elsewhere.example"], ours)
        case "self-signed":
            return issue([cell.host])
        case "next-hop":
            return issue([cell.domain], ours)
        case "no-anchor":
            found = issue([cell.host], ours)
            return Certificate(found.own, found.key)
    return issue([cell.host], ours)


def records_of(cell: Cell, word: str) -> str:
    """The TLSA record that a cell's word stands for; "bogus" is broken after it was signed."""
    if word == "bogus":
        return certificate_of(cell).tlsa(3, 1, 1)
    whose, *numbers = word.split()
    usage, selector, matching = (int(number) for number in numbers)
    certificates = {"authority": authority(), "other-authority": authority("other"), "other": authority("other")}
    return certificates.get(whose, certificate_of(cell)).tlsa(usage, selector, matching)


def zone_lines(cell: Cell) -> Iterator[str]:
    host, target = cell.host, f"target.{cell.host}"
    yield f"{cell.domain}. 300 IN MX 10 {host}."
    yield f'_smtp._tls.{cell.domain}. 300 IN TXT "v=TLSRPTv1; rua=mailto:reports@{cell.domain}"'
    if cell.alias:
        yield f"{host}. 300 IN CNAME {target}."
    yield f"{target if cell.alias else host}. 300 IN A {address_of(cell)}"
    for word in cell.tlsa:
        base = target if cell.alias == "target" else host
        yield f"_25._tcp.{base}. 300 IN TLSA {records_of(cell, word)}"
    if cell.second:
        yield f"{cell.domain}. 300 IN MX 20 mx2.{cell.domain}."
        yield f"mx2.{cell.domain}. 300 IN A {second_of(cell)}"
    if cell.sts:
        yield f'_mta-sts.{cell.domain}. 300 IN TXT "v=STSv1; id=1;"'
        yield f"mta-sts.{cell.domain}. 300 IN A {WEB[cell.web]}"


def write_zones(folder: Path) -> None:
    for zone in ZONES:
        head = f"{zone}. 300 IN SOA ns.{zone}. admin.{zone}. 1 3600 600 86400 60\n{zone}. 300 IN NS ns.{zone}.\n"
        lines = [line for cell in CELLS for line in zone_lines(cell) if line.split()[0].endswith(f".{zone}.")]
        (folder / zone).write_text(f"{head}ns.{zone}. 300 IN A {NAME_SERVER}\n" + "".join(f"{x}\n" for x in lines))
        if zone == "open.example":
            (folder / f"{zone}.signed").write_bytes((folder / zone).read_bytes())
        else:
            _sign(folder, zone)
    _spoil(folder / "bogus.example.signed", lambda name, kind: kind == "MX")
    bogus = {f"_25._tcp.{cell.host}." for cell in CELLS if "bogus" in cell.tlsa}
    _spoil(folder / "signed.example.signed", lambda name, kind: kind == "TLSA" and name in bogus)


def _peer(*words: str) -> list[str]:
    return [str(ROOT / "scripts" / "peer"), *words]


def _sign(folder: Path, zone: str) -> None:
    run = functools.partial(subprocess.run, cwd=folder, check=True, capture_output=True, text=True)
    key = run(_peer("unbound", "ldns-keygen", "-a", "ECDSAP256SHA256", "-r", "/dev/urandom", "-k", zone)).stdout.strip()
    run(_peer("unbound", "ldns-signzone", "-o", zone, zone, key))
    (folder / f"{zone}.anchor").write_bytes((folder / f"{key}.key").read_bytes())


def _spoil(path: Path, chosen: object) -> None:
    """Change what is said, not its signature."""
    lines = []
    for line in path.read_text().splitlines():
        words = line.split("\t") if "\t" in line else line.split()
        if len(words) > 4 and chosen(words[0], words[3]):  # type: ignore[operator]
            words[4] = words[4].replace("10", "11", 1) if words[3] == "MX" else f"{words[4][:-4]}beef"
        lines.append("\t".join(words))
    path.write_text("\n".join(lines) + "\n")


@contextlib.asynccontextmanager
async def dns(folder: Path) -> AsyncIterator[None]:
    """nsd and unbound, as long as they are needed."""
    write_zones(folder)
    zones = "".join(f'zone:\n  name: "{z}"\n  zonefile: "{folder}/{z}.signed"\n' for z in ZONES)
    (folder / "nsd.conf").write_text(
        f'server:\n  ip-address: {NAME_SERVER}\n  username: ""\n  zonesdir: "{folder}"\n  pidfile: ""\n  database: ""\n'
        f'  xfrdfile: "{folder}/xfrd"\n  zonelistfile: "{folder}/list"\n  server-count: 1\n  xfrdir: "{folder}"\n'
        f"remote-control:\n  control-enable: no\n{zones}"
    )
    anchors = "".join(f'  trust-anchor-file: "{folder}/{z}.anchor"\n' for z in ZONES[:2])
    stubs = "".join(f'stub-zone:\n  name: "{z}"\n  stub-addr: {NAME_SERVER}\n' for z in ZONES)
    (folder / "unbound.conf").write_text(
        f'server:\n  interface: {UNBOUND}\n  do-daemonize: no\n  username: ""\n  chroot: ""\n  directory: "{folder}"\n'
        f'  pidfile: ""\n  use-syslog: no\n  do-ip6: no\n  num-threads: 1\n  module-config: "validator iterator"\n'
        f"{anchors}{stubs}remote-control:\n  control-enable: no\n"
    )
    commands = (
        _peer("nsd", "nsd", "-d", "-c", str(folder / "nsd.conf")),
        _peer("unbound", "unbound", "-d", "-c", str(folder / "unbound.conf")),
    )
    running = [_started(command, folder / f"{command[2]}.log") for command in commands]
    try:
        await _until_answers()
        yield
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(10)


def _started(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)


async def _until_answers() -> None:
    async with asyncio.timeout(SECONDS):
        while (await Resolver([UNBOUND], lifetime_seconds=1).resolve_addresses(CELLS[0].host)).answer is Answer.FAILED:
            await asyncio.sleep(0.05)


@dataclass
class MailHost(FakeMx):
    """`encrypted`: for each MAIL, whether TLS was on; `asked`: what it said."""

    encrypted: list[bool] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def _mail(self, line: str, taking: object, _reader: object, writer: asyncio.StreamWriter) -> bool:
        self.encrypted.append(writer.get_extra_info("sslcontext") is not None)
        self.asked.append(line)
        return await super()._mail(line, taking, _reader, writer)  # type: ignore[arg-type]


def mail_host(cell: Cell, ca: Path) -> MailHost:
    extensions = ("8BITMIME", *(("REQUIRETLS",) if cell.offers_requiretls else ()))
    if cell.starttls == "stripped":
        return MailHost(extensions=extensions, port=25)
    if cell.starttls == "broken":
        return MailHost(extensions=(*extensions, "STARTTLS"), port=25)
    asks = ca if cell.asks_for_certificate else None
    context = certificate_of(cell).server_context(tls_1_0=cell.starttls == "tls-1.0", asks=asks)
    return MailHost(extensions=extensions, starttls=context, port=25)


def second_host(cell: Cell) -> MailHost:
    context = issue([f"mx2.{cell.domain}"], authority()).server_context()
    return MailHost(extensions=("8BITMIME", "REQUIRETLS"), starttls=context, port=25)


@contextlib.asynccontextmanager
async def web() -> AsyncIterator[None]:
    """The policy files of all domains."""
    cells = [cell for cell in CELLS if cell.sts]
    served = {f"mta-sts.{cell.domain}": cell for cell in cells}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            host = next(line[6:] for line in lines if line.lower().startswith("host: "))
            writer.write(_response(served[host], lines[0]))
            await writer.drain()
        writer.close()

    names = issue(list(served), authority()).server_context()
    other = issue(["elsewhere.example"], authority()).server_context()
    async with contextlib.AsyncExitStack() as stack:
        for address, context in ((WEB["good"], names), (WEB["mismatched"], other)):
            await stack.enter_async_context(await asyncio.start_server(serve, address, 443, ssl=context))
        yield


def _response(cell: Cell, line: str) -> bytes:
    mx = cell.host if cell.listed else "mx.elsewhere.example"
    body = f"version: STSv1\r\nmode: {cell.sts}\r\nmx: {mx}\r\nmax_age: 86400\r\n"
    known = line == "GET /.well-known/mta-sts.txt HTTP/1.1" and cell.web == "good"
    status = "200 OK" if known else "301 Moved" if cell.web == "redirect" else "404 Not Found"
    moved = "Location: https://elsewhere.example/\r\n" if cell.web == "redirect" else ""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n{moved}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


def loopback(at: Sequence[str]) -> None:
    """Bring the addresses up in this namespace."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    lines = "".join(f"address add {address}/32 dev lo\n" for address in at)
    subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
