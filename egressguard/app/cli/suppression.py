"""`egressguard suppression`: recipients that nobody writes to any more."""

from __future__ import annotations

import getpass
from typing import TextIO

import click

from egressguard.app.cli.options import as_json, ask_role, with_places
from egressguard.app.cli.output import emit_rows, timestamp
from egressguard.app.places import Places

DAY_SECONDS = 86400
COLUMNS = ("address", "since", "until", "why")


@click.group("suppression")
def suppression_command() -> None:
    """Recipients that nobody writes to any more: mail to them bounces without being sent.

    \b
    Example:
      egressguard suppression list --json
    """


@suppression_command.command("list")
@with_places
@as_json
def list_command(places: Places, as_json: bool) -> None:
    """List who is on it, since when and why.

    \b
    Example:
      egressguard suppression list
    """
    rows = ask_role(places, "relay", "suppression.list")
    emit_rows(rows if as_json else _shown(rows), COLUMNS, as_json=as_json, empty="the suppression list is empty")


@suppression_command.command("add")
@with_places
@click.argument("addresses", metavar="ADDRESS...", nargs=-1)
@click.option("--from", "file", type=click.File(encoding="utf-8"), help="A file with an address a line; - = stdin.")
@click.option("--why", default="", help="Words for whoever asks later; the sender reads them in the bounce.")
@click.option("--days", default=0, type=click.IntRange(0, 36500), help="For how long.  [default: for good]")
@as_json
def add_command(
    places: Places, addresses: tuple[str, ...], file: TextIO | None, why: str, days: int, as_json: bool
) -> None:
    """Put addresses on it. Who is on it already is from now on, with these words.

    \b
    Example:
      egressguard suppression add bob@example.net --why "asked not to be written to"
      egressguard suppression add --from unsubscribed.txt --days 365
    Exit codes: 6 no address, or the list is full; those before it are on the list.
    """
    named = [*addresses, *([line.strip() for line in file if line.strip()] if file else [])]
    if not named:
        raise click.UsageError("give an ADDRESS or --from FILE")
    facts = {"why": why, "seconds": float(days * DAY_SECONDS), "by": getpass.getuser()}
    rows = [ask_role(places, "relay", "suppression.add", address=address, **facts) for address in named]
    emit_rows(rows if as_json else _shown(rows), COLUMNS, as_json=as_json, empty="")


@suppression_command.command("delete")
@with_places
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@as_json
def delete_command(places: Places, addresses: tuple[str, ...], as_json: bool) -> None:
    """Take addresses off it.

    \b
    Example:
      egressguard suppression delete bob@example.net
    Exit codes: 5 it is not on the list; those before it are off.
    """
    by = getpass.getuser()
    rows = [ask_role(places, "relay", "suppression.delete", address=address, by=by) for address in addresses]
    emit_rows(rows, ("deleted",), as_json=as_json, empty="")


def _shown(rows: list[dict[str, float]]) -> list[dict[str, object]]:
    return [
        {**row, "since": timestamp(row["since"]), "until": timestamp(row["until"]) if row["until"] else "for good"}
        for row in rows
    ]
