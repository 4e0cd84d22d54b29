"""`egressguard quarantine`: the messages that a rule holds."""

from __future__ import annotations

import getpass
from typing import Any

import click

from egressguard.app.cli.options import as_json, ask_role, with_places
from egressguard.app.cli.output import emit_one, emit_rows, timestamp
from egressguard.app.places import Places


@click.group("quarantine")
def quarantine_command() -> None:
    """The messages that a rule holds back.

    \b
    Example:
      egressguard quarantine list
    """


@quarantine_command.command("list")
@with_places
@as_json
def list_command(places: Places, as_json: bool) -> None:
    """List held messages: why, since when, from whom, to whom.

    \b
    Example:
      egressguard quarantine list --json
    """
    rows = ask_role(places, "relay", "quarantine.list")
    if not as_json:
        rows = [{**row, "held_at": _when(row.get("held_at"))} for row in rows]
    columns = ("id", "held_at", "folder", "rule", "sender", "recipients", "findings")
    emit_rows(rows, columns, as_json=as_json, empty="nothing is held")


@quarantine_command.command("show")
@with_places
@click.argument("message_id", metavar="ID")
@as_json
def show_command(places: Places, message_id: str, as_json: bool) -> None:
    """Show one held message: its envelope, the findings, the rule, its header section.

    \b
    Example:
      egressguard quarantine show 1A2B3C4D5E6F
    Exit codes: 5 no such message.
    """
    emit_one(ask_role(places, "relay", "quarantine.show", message_id=message_id), as_json=as_json)


def _act(places: Places, message_id: str, verb: str, *, as_json: bool) -> None:
    by = getpass.getuser()
    emit_one(ask_role(places, "relay", f"quarantine.{verb}", message_id=message_id, by=by), as_json=as_json)


@quarantine_command.command("release")
@with_places
@click.argument("message_id", metavar="ID")
@as_json
def release_command(places: Places, message_id: str, as_json: bool) -> None:
    """Send a held message on, exactly once, as it was received.

    \b
    Example:
      egressguard quarantine release 1A2B3C4D5E6F
    Exit codes: 5 no such message (released or deleted already?), 75 the spool cannot take it now.
    """
    _act(places, message_id, "release", as_json=as_json)


@quarantine_command.command("delete")
@with_places
@click.argument("message_id", metavar="ID")
@as_json
def delete_command(places: Places, message_id: str, as_json: bool) -> None:
    """Delete a held message for good.

    \b
    Example:
      egressguard quarantine delete 1A2B3C4D5E6F
    Exit codes: 5 no such message.
    """
    _act(places, message_id, "delete", as_json=as_json)


def _when(value: Any) -> str:
    return timestamp(value) if isinstance(value, float | int) else str(value)
