"""`egressguard prove`: whether invariants hold of all packets, by the ruleset in the kernel or the one rendered."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egressguard.app.cli.options import as_json, default_places
from egressguard.app.cli.output import SCHEMA, Exit, colored, fail
from egressguard.app.rules import read_rules
from egressguard.policy.load import render_faults

if TYPE_CHECKING:
    from egressguard.firewall.host import Host
    from egressguard.firewall.listing import Listing
    from egressguard.policy.model import Policy
    from egressguard.policy.proof import Idle, Proof
    from egressguard.policy.space.witness import Witness

SOME_UID, SOME_PORT = 990, 2525
"""Of a ruleset that is never loaded: the relay's user and port."""


@click.command("prove")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--site", default="", envvar="EGRESSGUARD_SITE", help="Overlay of the rules: sites/SITE/ in them.")
@click.option("--kernel", "where", flag_value="kernel", help="Prove it of the table in the kernel. Needs root.")
@click.option("--rendered", "where", flag_value="rendered", default=True, help="Of what the rules become (default).")
@as_json
def prove_command(directory: Path | None, site: str, where: str, as_json: bool) -> None:
    """Prove for all packets what the rules of DIRECTORY (default: the installed rules) must never or always do.

    What is proven: `invariants` of the rules, and what holds at every site. The ruleset is read back from nft, not
    trusted to be what was written. Of what does not hold a packet is shown, and of it the command that explains it.
    Flow rules that do nothing are named.

    \b
    Example:
      egressguard prove rules/
      sudo egressguard prove --kernel
    Exit codes: 0 everything holds, 1 something does not, faults in the rules, or a ruleset that is not understood,
    4 permission denied (--kernel), 5 no table is loaded.
    """
    from egressguard.policy.proof import idle_rules
    from egressguard.policy.space.flows import FlowRegions
    from egressguard.policy.space.region import Space

    rules = directory or default_places().rules
    loaded, files = read_rules(rules, site)
    if loaded.policy is None:
        click.echo(render_faults(loaded.faults, files), err=True)
        sys.exit(Exit.FAILED)
    policy = loaded.policy
    host = _this_host(policy) if where == "kernel" else _some_host(policy)
    proofs = _proofs(policy, host, where)
    idle = list(idle_rules(FlowRegions(Space(), policy, host.inside_interfaces)))
    if as_json:
        click.echo(json.dumps(_as_json(policy, host, where, proofs, idle)))
    else:
        _tell(host, rules, site, proofs, idle)
    sys.exit(Exit.OK if all(proof.holds for proof in proofs) else Exit.FAILED)


def _proofs(policy: Policy, host: Host, where: str) -> Sequence[Proof]:
    from egressguard.firewall.listing import NotUnderstood
    from egressguard.firewall.nft import NftError
    from egressguard.firewall.proof import prove_listing

    try:
        listing = asyncio.run(_kernel() if where == "kernel" else _rendered(policy, host))
        return prove_listing(policy, host, listing)
    except NftError as wrong:
        fail(f"the ruleset cannot be read: {wrong}")
    except NotUnderstood as wrong:
        fail(f"nothing is proven: {wrong}")


async def _kernel() -> Listing:
    from egressguard.firewall import nft
    from egressguard.firewall.listing import parse_listing
    from egressguard.firewall.table import TABLE

    found = await nft.probe()
    if not found.may_change:
        fail(found.why, Exit.PERMISSION)
    if not await nft.exists():
        fail(f"no table inet {TABLE} is loaded; `egressguard run` or `egressguard up` loads it", Exit.NOT_FOUND)
    return parse_listing(await nft.list_table(), TABLE)


async def _rendered(policy: Policy, host: Host) -> Listing:
    from egressguard.firewall import nft
    from egressguard.firewall.listing import parse_listing, with_queue_rules
    from egressguard.firewall.render import render_ruleset
    from egressguard.firewall.table import TABLE

    listing = parse_listing(await nft.list_apart(render_ruleset(policy, host)), TABLE)
    return with_queue_rules(listing)


def _some_host(policy: Policy) -> Host:
    """Any machine: "@inside" is one interface of a name of its own, as in `explain`."""
    from egressguard.firewall.host import Host
    from egressguard.policy.space.flows import IN_SIDE

    relay = policy.site.relay
    tarpit = SOME_PORT + 1 if relay.tarpit_port is not None else None
    return Host(frozenset([IN_SIDE]), SOME_PORT if relay.redirect_to else None, SOME_UID, "xt", tarpit)


def _this_host(policy: Policy) -> Host:
    """This machine, less what only the gate knows: which port it redirects to is no matter."""
    from dataclasses import replace

    from egressguard.firewall.host import read_inside_interfaces
    from egressguard.observe.clock import utc_offset_minutes

    try:
        inside = read_inside_interfaces()
    except OSError as wrong:
        fail(f"the interfaces cannot be read: {wrong.strerror}")
    offset = utc_offset_minutes(time.time())
    return replace(_some_host(policy), inside_interfaces=inside, relay_uid=_relay_uid(), utc_offset_minutes=offset)


def _relay_uid() -> int | None:
    import pwd

    from egressguard.app.children import ROLES

    try:
        return pwd.getpwnam(next(role.user for role in ROLES if role.name == "relay")).pw_uid
    except KeyError:
        return None


def _tell(host: Host, rules: Path, site: str, proofs: Sequence[Proof], idle: Sequence[Idle]) -> None:
    from egressguard.policy.space.witness import packet_in_words

    for proof in proofs:
        mark = colored("proven", "green") if proof.holds else colored("BROKEN", "red")
        click.echo(f"{mark}  {proof.name} at {proof.at}: {proof.says}")
        if proof.witness is not None:
            click.echo(f"        by the packet {packet_in_words(proof.witness)}")
            for words in proof.words:
                click.echo(f"        among {words}")
            if (command := explain_command_of(proof.witness, host)) is not None:
                more = ["--rules", str(rules), *(["--site", site] if site else [])]
                click.echo(f"        see: {shlex.join([*command, *more])}")
    for rule in idle:
        click.echo(f"{colored('note', 'yellow')}    {rule}")
    broken = sum(not proof.holds for proof in proofs)
    click.echo(f"{len(proofs)} invariants, {broken or 'none'} broken; {len(idle) or 'no'} rules that do nothing")


def explain_command_of(packet: Witness, host: Host) -> list[str] | None:
    """The command that says what the rules decide about the packet; None for one that no rule can name."""
    from egressguard.net.flow import TUNNELS
    from egressguard.policy.fields import WEEKDAYS

    if (flow := packet.flow) is None:
        return None
    command = ["egressguard", "explain", "flow", "--from", str(flow.source), "--to", str(flow.destination)]
    command += ["--protocol", flow.protocol.value]
    if flow.protocol not in TUNNELS:
        command += ["--port", str(flow.destination_port)]
    if flow.interface and not flow.interface.startswith("(any"):
        command += ["--interface", flow.interface]
    if flow.source_mac:
        command += ["--mac", flow.source_mac]
    if flow.speaks:
        command += ["--speaks", flow.speaks]
    day, minute = divmod(packet.local_minute(host.utc_offset_minutes), 24 * 60)
    return [*command, "--at", f"{WEEKDAYS[day]} {minute // 60:02}:{minute % 60:02}"]


def _as_json(
    policy: Policy, host: Host, where: str, proofs: Sequence[Proof], idle: Sequence[Idle]
) -> Mapping[str, Any]:
    rows = [
        {"name": p.name, "at": p.at, "says": p.says, "holds": p.holds, "among": list(p.words), **_packet(p, host)}
        for p in proofs
    ]
    idle_rows = [{"rule": each.rule, "at": each.at, "why": each.why, "by": list(each.by)} for each in idle]
    return {
        "schema": SCHEMA,
        "ok": all(proof.holds for proof in proofs),
        "of": where,
        "revision": policy.revision,
        "proofs": rows,
        "idle": idle_rows,
    }


def _packet(proof: Proof, host: Host) -> Mapping[str, Any]:
    from egressguard.policy.space.witness import packet_in_words

    if proof.witness is None:
        return {"packet": None, "explain": None}
    return {"packet": packet_in_words(proof.witness), "explain": explain_command_of(proof.witness, host)}
