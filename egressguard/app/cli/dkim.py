"""`egressguard dkim`: keys to sign mail with, and what DNS has to say of them."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from egressguard.app.children import SMTPD
from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import Exit, emit_one, emit_rows, fail
from egressguard.app.places import Places

_COLUMNS = ("signer", "domain", "selector", "algorithm", "sign", "state")
TXT_OCTETS = 255  # RFC 1035 s3.3: one string of a TXT record

Kind = Literal["rsa", "ed25519"]


@dataclass(frozen=True, slots=True)
class _Row:
    """A signer for one of its domains. `record` is what DNS should have; "" = the key cannot be read: `trouble`."""

    signer: str
    domain: str
    selector: str
    sign: bool
    algorithm: str = ""
    record: str = ""
    trouble: str = ""

    @property
    def name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"

    def shown(self, state: str) -> dict[str, Any]:
        return {
            "signer": self.signer,
            "domain": self.domain,
            "selector": self.selector,
            "algorithm": self.algorithm,
            "sign": self.sign,
            "name": self.name,
            "record": self.record,
            "state": state,
        }


@click.group("dkim")
def dkim_command() -> None:
    """Keys to sign mail with (DKIM): make them, show their DNS records, compare with DNS.

    \b
    Example:
      egressguard dkim make example.org
    """


@dkim_command.command("make")
@with_places
@click.argument("domain")
@click.option("--selector", help="Where in DNS: SELECTOR._domainkey.DOMAIN; left out = made of algorithm and month.")
@click.option("--algorithm", type=click.Choice(["rsa", "ed25519"]), default="rsa", help="rsa: every verifier knows it.")
@click.option("--bits", type=click.IntRange(2048, 4096), default=2048, help="Of an RSA key.", show_default=True)
@as_json
def make_command(places: Places, domain: str, selector: str | None, algorithm: Kind, bits: int, as_json: bool) -> None:
    """Make a key; print its DNS record, and what to write into site.yaml. A key that is there is never replaced.

    \b
    Example:
      egressguard dkim make example.org --algorithm ed25519
    Exit codes: 1 there is such a key, 2 no domain or no selector, 4 not allowed to write there.
    """
    from egressguard.policy.signing import SELECTOR_PATTERN
    from egressguard.policy.sitecheck import is_host
    from egressguard.senderauth.sign_keys import make_key

    domain = domain.lower()
    selector = selector or f"{'rsa' if algorithm == 'rsa' else 'ed'}{time.strftime('%Y%m', time.gmtime())}"
    if not is_host(domain):
        fail(f"{domain!r:.80} is no domain; expected one such as example.org", Exit.USAGE)
    if not re.fullmatch(SELECTOR_PATTERN, selector):
        fail(f"{selector!r:.80} is no selector; expected letters, digits and hyphens, such as rsa202611", Exit.USAGE)
    key = make_key(algorithm, bits)
    path = places.signing_keys / f"{selector}.{domain}.pem"
    _write_key(places, path, key.pem)
    row = _Row(f"{selector}-{domain.replace('.', '-')}"[:63], domain, selector, sign=False, record=key.record)
    if as_json:
        emit_one({"file": str(path), "name": row.name, "record": key.record}, as_json=True)
        return
    reference = f"file:{path.relative_to(places.secrets)}"
    click.echo(f"written: {path}\n\nInto the zone of {domain}:\n{zone_line(row)}\n")
    click.echo("Into site.yaml, with `sign: true` once `egressguard dkim check` finds it in DNS:")
    click.echo(f"  signing:\n    {row.signer}:\n      domains: {domain}\n      selector: {selector}")
    click.echo(f'      key: "{reference}"\n      sign: false')


@dkim_command.command("show")
@with_places
@as_json
def show_command(places: Places, as_json: bool) -> None:
    """Show the signers of the rules, and the DNS record that each of their domains needs.

    \b
    Example:
      egressguard dkim show
    Exit codes: 1 faults in the rules, or a key that cannot be read.
    """
    rows = list(_rows(places))
    shown = [row.shown(row.trouble or "key is here") for row in rows]
    emit_rows(shown, _COLUMNS, as_json=as_json, empty="no signers; make a key: egressguard dkim make DOMAIN")
    if not as_json:
        for row in rows:
            click.echo("" if row.trouble else f"\n{zone_line(row)}", nl=not row.trouble)
    if any(row.trouble for row in rows):
        raise SystemExit(Exit.FAILED)


@dkim_command.command("check")
@with_places
@as_json
def check_command(places: Places, as_json: bool) -> None:
    """Compare the keys of the rules' signers with what DNS has, staged ones (`sign: false`) too.

    \b
    Example:
      egressguard dkim check
    Exit codes: 1 DNS has no such key or another one, or a key cannot be read; 75 DNS does not answer.
    """
    import asyncio

    rows = list(_rows(places))
    states = asyncio.run(_states(places, rows))
    shown = [row.shown(state) for row, state in zip(rows, states, strict=True)]
    emit_rows(shown, _COLUMNS, as_json=as_json, empty="no signers; make a key: egressguard dkim make DOMAIN")
    if any(state not in {IN_DNS, NO_ANSWER} for state in states):
        raise SystemExit(Exit.FAILED)
    if NO_ANSWER in states:
        raise SystemExit(Exit.TEMPORARY)


IN_DNS, NO_ANSWER = "in DNS", "DNS does not answer"


async def _states(places: Places, rows: list[_Row]) -> list[str]:
    import asyncio

    from egressguard.senderauth.resolver import Resolver

    resolver = Resolver(_site(places).resolvers)
    return list(await asyncio.gather(*(_state(resolver, row) for row in rows)))


async def _state(resolver: Any, row: _Row) -> str:
    from egressguard.senderauth.key_record import parse_key
    from egressguard.senderauth.verdict import Refused

    if row.trouble:
        return row.trouble
    found = await resolver.ask(row.name, "TXT")
    if found.failed:
        return NO_ANSWER
    if not found.values:
        return "not in DNS"
    try:
        parse_key(found.values, row.algorithm.encode())
    except Refused as refused:
        return f"DNS has one that verifiers refuse: {refused.reason}"
    if len(found.values) > 1:
        return "DNS has several; expected this one alone"
    return IN_DNS if _public(found.values[0].decode("ascii", "replace")) == _public(row.record) else "DNS has another"


def _public(record: str) -> str:
    """p= of a key record."""
    tags = (tag.partition("=") for tag in record.split(";"))
    return "".join(next((value for name, _, value in tags if name.strip() == "p"), "").split())


def _rows(places: Places) -> Iterator[_Row]:
    from egressguard.senderauth.sign_keys import KeyRing, KeyTrouble, read_key

    ring = KeyRing(places.secrets)
    for name, signer in _site(places).signing.items():
        for domain in map(str.lower, signer.domains):
            try:
                key = read_key(ring.path(signer.key))
            except KeyTrouble as wrong:
                yield _Row(name, domain, signer.selector, signer.sign, trouble=str(wrong))
            else:
                yield _Row(name, domain, signer.selector, signer.sign, key.algorithm, key.record)


def _site(places: Places) -> Any:
    from egressguard.app.rules import read_rules

    loaded, _ = read_rules(places.rules, places.site)
    if loaded.policy is None:
        fail(f"{loaded.faults[0]}; `egressguard check` tells all faults")
    return loaded.policy.site


def zone_line(row: _Row) -> str:
    """A line of a zone file; the text in strings of at most TXT_OCTETS."""
    pieces = [row.record[at : at + TXT_OCTETS] for at in range(0, len(row.record), TXT_OCTETS)]
    return f"{row.name}. IN TXT " + " ".join(f'"{piece}"' for piece in pieces)


def _write_key(places: Places, path: Path, pem: bytes) -> None:
    """For the relay's user alone, where root makes it; never over another key."""
    try:
        for folder in (places.secrets, places.signing_keys):
            folder.mkdir(mode=0o2750, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{path} is there already; another selector makes another key")
    except PermissionError:
        fail(f"{path}: permission denied; run this as root", Exit.PERMISSION)
    with os.fdopen(descriptor, "wb") as file:
        if os.geteuid() == 0:
            _give_to_relay(descriptor)
        file.write(pem)
        file.flush()
        os.fsync(descriptor)


def _give_to_relay(descriptor: int) -> None:
    try:
        user = pwd.getpwnam(SMTPD.user)
    except KeyError:  # the gateway was never started as root here: root itself is who runs it
        return
    os.fchown(descriptor, user.pw_uid, user.pw_gid)
