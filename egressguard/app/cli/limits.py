"""`egressguard limits`: what limits have counted, and who is shut out by one."""

from __future__ import annotations

import click

from egressguard.app.cli.options import as_json, ask_role, with_places
from egressguard.app.cli.output import emit_one, emit_rows, timestamp
from egressguard.app.places import Places


@click.group("limits")
def limits_command() -> None:
    """What limits have counted, and which hosts are contained.

    \b
    Example:
      egressguard limits list
    """


@limits_command.command("list")
@with_places
@as_json
def list_command(places: Places, as_json: bool) -> None:
    """What is counted now for each host, device, user, domain or zone; the fullest first.

    \b
    Example:
      egressguard limits list --json
    """
    rows = ask_role(places, "relay", "limits.list")
    emit_rows(rows, ("limit", "key", "unit", "used", "most"), as_json=as_json, empty="nothing is counted now")


@limits_command.command("contained")
@with_places
@as_json
def contained_command(places: Places, as_json: bool) -> None:
    """Hosts that are shut out because they were above a limit with `above: contain`.

    \b
    Example:
      egressguard limits contained
    """
    rows = ask_role(places, "relay", "limits.contained")
    if not as_json:
        rows = [row | {"until": timestamp(row["until"])} for row in rows]
    emit_rows(rows, ("host", "until", "limit"), as_json=as_json, empty="no host is contained")


@limits_command.command("release")
@with_places
@click.argument("host")
@as_json
def release_command(places: Places, host: str, as_json: bool) -> None:
    """Let a contained host send again, now.

    \b
    Example:
      egressguard limits release 192.0.2.15
    Exit codes: 5 this host is not contained.
    """
    emit_one(ask_role(places, "relay", "limits.release", host=host), as_json=as_json)
