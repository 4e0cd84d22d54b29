"""`egressguard run`, `role`, `status`, `down`: the gateway as a running thing."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from dataclasses import asdict
from typing import Any

import click

from egressguard.app.children import ROLES, SMTPD
from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import Exit, emit_one, fail
from egressguard.app.control import CommandError, DaemonUnreachable, ask
from egressguard.app.keeping import KEEPER
from egressguard.app.places import Places
from egressguard.observe.log import set_up_logging

_high_ports = click.option(
    "--high-ports", is_flag=True, help="Listen on loopback, at port + 10000. Implied without root."
)


@click.command("run")
@with_places
@_high_ports
@click.option(
    "--only-signed",
    is_flag=True,
    envvar="EGRESSGUARD_ONLY_SIGNED",
    help="Take rules only from a git commit whose signature this machine trusts, unchanged.",
)
@click.option("--apply", "take_rules", is_flag=True, help="Begin with the rules directory as it is now.")
def run_command(places: Places, high_ports: bool, only_signed: bool, take_rules: bool) -> None:
    """Run the whole gateway: packet plane, relay, scanner, IMAP/POP3 and metrics. Ctrl-C stops it.

    It begins with the rules that were confirmed last; with those of the rules directory when there are none yet, or
    with --apply. Later changes come by `egressguard apply`.

    As root, each role runs as its own user and the rules are loaded into the kernel. As an ordinary user it
    listens on loopback high ports, and the packet plane only plans.

    \b
    Example:
      egressguard run --rules rules/ --state /var/lib/egressguard
    Exit codes: 0 stopped as asked, 1 faults in the rules, or a port or user that is missing.
    """
    from egressguard.app.gateway import CannotRun, run_gateway

    set_up_logging("run")
    try:
        sys.exit(
            run_gateway(
                places,
                high_ports=high_ports or os.geteuid() != 0,
                say=click.echo,
                only_signed=only_signed,
                take_rules=take_rules,
            )
        )
    except CannotRun as wrong:
        fail(str(wrong))


@click.command("role")
@click.argument("name", type=click.Choice([*(role.name for role in ROLES), SMTPD.name, KEEPER]))
@with_places
@_high_ports
def role_command(name: str, places: Places, high_ports: bool) -> None:
    """Run one role of the gateway in this process, as `egressguard run` and the systemd units do.

    \b
    Example:
      egressguard role relay --rules /etc/egressguard/rules
    """
    import uvloop

    set_up_logging(name)
    module = importlib.import_module(f"egressguard.app.roles.{name}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(module.run(places, high_ports=high_ports))


@click.command("status")
@with_places
@as_json
def status_command(places: Places, as_json: bool) -> None:
    """One screen: which roles answer, what the packet plane enforces, what waits, what is held.

    \b
    Example:
      egressguard status
    Exit codes: 0 all roles answer, 3 one or more do not.
    """
    from egressguard.app.provenance import read_provenance

    answers = {name: _status_of(places, name) for name in (*(role.name for role in ROLES), KEEPER)}
    answers[KEEPER]["summary"] = _kept(answers[KEEPER])
    origin = read_provenance(places.provenance, places.rules)
    revision = answers["gate"].get("revision", "not known")
    if as_json:
        emit_one(answers | {"policy": {"revision": revision, **asdict(origin)}}, as_json=True)
    else:
        lines = {name: _one_line(answer) for name, answer in answers.items()}
        emit_one(lines | {"policy": f"revision {revision}, {origin}"}, as_json=False)
    if any("error" in answer for answer in answers.values()):
        sys.exit(Exit.UNREACHABLE)


def _kept(answer: dict[str, Any]) -> str:
    """What the keeper says of the policy, in words."""
    words = [f"revision {answer.get('confirmed') or 'none'} is confirmed"]
    if (left := answer.get("pending_seconds")) is not None:
        words.append(f"{answer['in_force']} is tried, and rolled back in {left} s unless confirmed")
    elif answer.get("changed"):
        words.append(f"the rules directory ({answer['rules_directory']}) is not applied")
    return "; ".join(filter(None, [*words, answer.get("last_rollback", "")]))


def _one_line(answer: dict[str, Any]) -> str:
    if "error" in answer:
        return f"DOWN  {answer['error']}"
    return "; ".join([f"up    {answer.get('summary', '')}", *answer.get("reasons", [])])


def _status_of(places: Places, role: str) -> dict[str, Any]:
    try:
        return {"up": True, **ask(places.control(role), "status", 10)}
    except (DaemonUnreachable, CommandError) as wrong:
        return {"up": False, "error": str(wrong)}


@click.command("down")
@with_places
@as_json
def down_command(places: Places, as_json: bool) -> None:
    """Take the wall down: remove the table `inet egressguard` from the kernel. Nothing else is touched.

    A gateway that runs leaves it down until `egressguard apply`, or until it is started again.

    \b
    Example:
      egressguard down
    Exit codes: 0 removed (or there was none), 1 the kernel refused, 4 not allowed.
    """
    from egressguard.firewall.gate import take_down
    from egressguard.firewall.nft import NftError

    try:
        try:
            removed = ask(places.control("gate"), "down", 30)
        except DaemonUnreachable:
            removed = asyncio.run(take_down())
    except (NftError, CommandError) as wrong:
        fail(f"{wrong}; run this as root", Exit.PERMISSION if os.geteuid() else Exit.FAILED)
    emit_one({"removed": bool(removed)}, as_json=as_json)
