"""`egressguard queue`: the messages that wait for delivery."""

from __future__ import annotations

import getpass

import click

from egressguard.app.cli.options import as_json, ask_role, with_places
from egressguard.app.cli.output import emit_one, emit_rows, timestamp
from egressguard.app.places import Places


@click.group("queue")
def queue_command() -> None:
    """The messages that wait for delivery.

    \b
    Example:
      egressguard queue list --json
    """


@queue_command.command("list")
@with_places
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 1_000_000))
@as_json
def list_command(places: Places, limit: int, as_json: bool) -> None:
    """List queued messages, the oldest first.

    \b
    Example:
      egressguard queue list
    """
    rows = ask_role(places, "relay", "queue.list", limit=limit)
    if not as_json:
        rows = [_short(row) for row in rows]
    columns = ("queue_id", "arrival_time", "size_octets", "sender", "recipients", "reason")
    emit_rows(rows, columns, as_json=as_json, empty="the queue is empty")


@queue_command.command("show")
@with_places
@click.argument("queue_id")
@as_json
def show_command(places: Places, queue_id: str, as_json: bool) -> None:
    """Show one message: envelope, each recipient's state, last reply and next attempt.

    \b
    Example:
      egressguard queue show 1A2B3C4D5E6F
    Exit codes: 5 no such message.
    """
    emit_one(ask_role(places, "relay", "queue.show", queue_id=queue_id), as_json=as_json)


@queue_command.command("retry")
@with_places
@click.argument("queue_id", required=False)
@click.option("--all", "everything", is_flag=True, help="Every queued message.")
@as_json
def retry_command(places: Places, queue_id: str | None, everything: bool, as_json: bool) -> None:
    """Try a message (or --all) now.

    \b
    Example:
      egressguard queue retry --all
    Exit codes: 5 no such message.
    """
    if (queue_id is None) == (not everything):
        raise click.UsageError("give a QUEUE_ID or --all")
    emit_one(ask_role(places, "relay", "queue.retry", queue_id=queue_id), as_json=as_json)


@queue_command.command("hold")
@with_places
@click.argument("queue_id")
@as_json
def hold_command(places: Places, queue_id: str, as_json: bool) -> None:
    """Keep a message in the queue: nobody tries it until it is released.

    \b
    Example:
      egressguard queue hold 1A2B3C4D5E6F
    Exit codes: 5 no such message, or all its recipients are being tried now.
    """
    emit_one(ask_role(places, "relay", "queue.hold", queue_id=queue_id), as_json=as_json)


@queue_command.command("release")
@with_places
@click.argument("queue_id")
@as_json
def release_command(places: Places, queue_id: str, as_json: bool) -> None:
    """Let a held message go, now.

    \b
    Example:
      egressguard queue release 1A2B3C4D5E6F
    Exit codes: 5 no such held message.
    """
    emit_one(ask_role(places, "relay", "queue.release", queue_id=queue_id), as_json=as_json)


@queue_command.command("delete")
@with_places
@click.argument("queue_id")
@as_json
def delete_command(places: Places, queue_id: str, as_json: bool) -> None:
    """Delete a message from the queue, without a notice to its sender.

    \b
    Example:
      egressguard queue delete 1A2B3C4D5E6F
    Exit codes: 5 no such message.
    """
    emit_one(ask_role(places, "relay", "queue.delete", queue_id=queue_id), as_json=as_json)


@queue_command.command("suspend")
@with_places
@click.argument("destination")
@click.option("--why", default="", help="Words for whoever asks later.")
@as_json
def suspend_command(places: Places, destination: str, why: str, as_json: bool) -> None:
    """Leave a destination alone until `resume`, also over a restart. What is being sent there now ends.

    DESTINATION is a recipient domain, the name of a smart host (ways that have another go over that), several names
    of smart hosts with commas between as `via` has them, or "local".

    \b
    Example:
      egressguard queue suspend example.org --why "their relay is being moved"
    """
    arguments = {"destination": destination, "why": why, "by": getpass.getuser()}
    emit_one(ask_role(places, "relay", "queue.suspend", **arguments), as_json=as_json)


@queue_command.command("resume")
@with_places
@click.argument("destination")
@as_json
def resume_command(places: Places, destination: str, as_json: bool) -> None:
    """Let mail go to a suspended destination again.

    \b
    Example:
      egressguard queue resume example.org
    Exit codes: 5 it is not suspended.
    """
    by = getpass.getuser()
    emit_one(ask_role(places, "relay", "queue.resume", destination=destination, by=by), as_json=as_json)


@queue_command.command("suspended")
@with_places
@as_json
def suspended_command(places: Places, as_json: bool) -> None:
    """List what is suspended, by whom, and why.

    \b
    Example:
      egressguard queue suspended --json
    """
    rows = ask_role(places, "relay", "queue.suspended")
    if not as_json:
        rows = [{**row, "since": timestamp(row["since"])} for row in rows]
    emit_rows(rows, ("destination", "since", "ordered_by", "why"), as_json=as_json, empty="nothing is suspended")


def _short(row: dict[str, object]) -> dict[str, object]:
    recipients = row["recipients"]
    assert isinstance(recipients, list)
    reasons = [r.get("last_reply") for r in recipients if r.get("last_reply")]
    arrival = row.get("arrival_time")
    return {
        **row,
        "arrival_time": timestamp(arrival) if isinstance(arrival, float | int) else arrival,
        "sender": row["sender"] or "<>",
        "recipients": [r["address"] for r in recipients],
        "reason": reasons[-1] if reasons else "",
    }
