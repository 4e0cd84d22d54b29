"""`egressguard queue`: the messages that wait for delivery."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from egressguard.app.cli.options import as_json, ask_role, who, with_places
from egressguard.app.cli.output import Exit, emit_one, emit_rows, fail, timestamp
from egressguard.app.cli.selecting import Selected, with_selection
from egressguard.app.places import Places

SHOWN_MESSAGES = 1000
PAGE_MESSAGES = 500
ORDER_SECONDS = 600
"""For one step of an order: a database that is far away, a disk that is full of others' work."""

_RECIPIENT_COLUMNS = ("address", "state", "attempts", "next_try", "destination", "via", "delay_reason")

_why = click.option("--why", default="", help="Words for the journal; for `bounce` the sender reads them, too.")


def _before_it_is_done(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    return click.option("--dry-run", is_flag=True, help="Say what it would be done to, and do nothing.")(command)


@click.group("queue")
def queue_command() -> None:
    """The messages that wait for delivery.

    \b
    Example:
      egressguard queue list --json
    """


@queue_command.command("list")
@with_places
@with_selection(everything=False)
@click.option("--limit", type=click.IntRange(1), help="At most so many messages.  [default: 1000, with --json all]")
@as_json
def list_command(places: Places, selected: Selected, limit: int | None, as_json: bool) -> None:
    """List queued messages, in the order in which they came; with --json one object a line, however many there are.

    \b
    Example:
      egressguard queue list --queue deferred --destination example.org
      egressguard queue list --json | jq -r 'select(.sender == "") | .queue_id'
    """
    rows = _rows(places, selected, limit or (sys.maxsize if as_json else SHOWN_MESSAGES))
    if as_json:
        emit_rows(rows, (), as_json=True, empty="")
        return
    columns = ("queue_id", "queue", "arrival_time", "size_octets", "sender", "recipients", "next_try", "reason")
    shown = [_short(row) for row in rows]
    empty = "the queue is empty" if selected.says_nothing else "nothing like that waits"
    emit_rows(shown, columns, as_json=False, empty=empty)
    if limit is None and len(shown) == SHOWN_MESSAGES:
        click.echo(f"the first {SHOWN_MESSAGES}; there may be more: --limit", err=True)


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
    row = _full(ask_role(places, "relay", "queue.show", queue_id=queue_id))
    if as_json:
        emit_one(row, as_json=True)
        return
    recipients = row.pop("recipients")
    emit_one(row | {"arrival_time": timestamp(row["arrival_time"]), "sender": row["sender"] or "<>"}, as_json=False)
    click.echo()
    waits = [{**one, "next_try": timestamp(one["next_at"]) if one["state"] == "queued" else ""} for one in recipients]
    emit_rows(waits, _RECIPIENT_COLUMNS, as_json=False, empty="nobody")


@queue_command.command("retry")
@with_places
@with_selection(everything=True)
@as_json
def retry_command(places: Places, selected: Selected, as_json: bool) -> None:
    """Try messages (or --all) now.

    \b
    Example:
      egressguard queue retry --destination example.org
    Exit codes: 5 nothing like that waits.
    """
    _order(places, "retry", selected, as_json=as_json)


@queue_command.command("hold")
@with_places
@with_selection(everything=True)
@_why
@as_json
def hold_command(places: Places, selected: Selected, why: str, as_json: bool) -> None:
    """Keep messages in the queue: nobody tries them until they are released. What is being tried now is left alone.

    \b
    Example:
      egressguard queue hold --sender "*@example.org" --why "newsletter gone wild"
    Exit codes: 5 nothing like that waits, or all of it is being tried now.
    """
    _order(places, "hold", selected, why=why, as_json=as_json)


@queue_command.command("release")
@with_places
@with_selection(everything=True)
@_why
@as_json
def release_command(places: Places, selected: Selected, why: str, as_json: bool) -> None:
    """Let held messages go, now.

    \b
    Example:
      egressguard queue release 1A2B3C4D5E6F
    Exit codes: 5 nothing like that is held.
    """
    _order(places, "release", selected, why=why, as_json=as_json)


@queue_command.command("reroute")
@with_places
@with_selection(everything=True)
@click.option("--via", required=True, metavar="NAME[,NAME]|mx|default", help="The way out; default: by the routes.")
@_why
@as_json
def reroute_command(places: Places, selected: Selected, via: str, why: str, as_json: bool) -> None:
    """Send messages another way, now; held ones when they are released. What is being tried now is left alone.

    \b
    Example:
      egressguard queue reroute --destination provider --via backup
    Exit codes: 5 nothing like that waits, 6 no such way.
    """
    ways = [] if via == "default" else [way.strip() for way in via.split(",")]
    _order(places, "reroute", selected, why=why, as_json=as_json, via=ways)


@queue_command.command("bounce")
@with_places
@with_selection(everything=True)
@_why
@_before_it_is_done
@as_json
def bounce_command(places: Places, selected: Selected, why: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Give messages up now: their senders get a notice that says so, with the words of --why.

    What is being tried now is left alone. Nobody hears of a notice that is given up.

    \b
    Example:
      egressguard queue bounce --recipient "*@exampel.org" --why "no such domain, check the address"
    Exit codes: 5 nothing like that waits, 6 not confirmed.
    """
    if dry_run or not _confirmed(places, "bounce", selected, yes=yes):
        return _would(places, "bounce", selected, as_json=as_json)
    return _order(places, "bounce", selected, why=why, as_json=as_json)


@queue_command.command("delete")
@with_places
@with_selection(everything=True)
@_why
@_before_it_is_done
@as_json
def delete_command(places: Places, selected: Selected, why: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete messages from the queue, without a notice to their senders.

    With --recipient, --destination or --queue only those recipients are deleted. What is being tried now may be
    delivered yet.

    \b
    Example:
      egressguard queue delete --sender "<>" --older-than 2d --dry-run
    Exit codes: 5 no such message, 6 not confirmed.
    """
    if dry_run or not _confirmed(places, "delete", selected, yes=yes):
        return _would(places, "delete", selected, as_json=as_json)
    return _order(places, "delete", selected, why=why, as_json=as_json)


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
    arguments = {"destination": destination, "why": why, "by": who()}
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
    by = who()
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


def _rows(places: Places, selected: Selected, limit: int) -> Iterator[dict[str, Any]]:
    """Page by page: neither side ever has all of a long queue in memory."""
    after: int | None = 0
    while after is not None and limit > 0:
        most = min(limit, PAGE_MESSAGES)
        page = ask_role(places, "relay", "queue.page", selection=selected.arguments, after=after, limit=most)
        yield from (_full(row) for row in page["rows"])
        limit, after = limit - len(page["rows"]), page["after"]


def _full(row: dict[str, Any]) -> dict[str, Any]:
    """With the reason of a delay as `postqueue -j` has it."""
    recipients = [
        {**one, "delay_reason": " ".join(filter(None, (one["last_status"], one["last_reply"])))}
        for one in row["recipients"]
    ]
    return {**row, "recipients": recipients}


def _short(row: dict[str, Any]) -> dict[str, Any]:
    recipients = row["recipients"]
    reasons = [one["last_reply"] for one in recipients if one["last_reply"]]
    tries = [one["next_at"] for one in recipients if one["state"] == "queued"]
    return {
        **row,
        "queue": row["queue_name"],
        "arrival_time": timestamp(row["arrival_time"]),
        "sender": row["sender"] or "<>",
        "recipients": [one["address"] for one in recipients],
        "next_try": timestamp(min(tries, default=None)),
        "reason": reasons[-1] if reasons else "",
    }


# Orders.


def _order(
    places: Places, verb: str, selected: Selected, *, as_json: bool, why: str = "", via: Sequence[str] = ()
) -> None:
    """The relay works through a long selection step by step; what came later is not meant."""
    _refuse_nothing(selected)
    arguments: dict[str, Any] = {"verb": verb, "selection": selected.arguments, "by": who(), "why": why, "via": via}
    total = dict.fromkeys(("messages", "recipients", "being_tried", "skipped", "notices"), 0)
    after: int | None = 0
    until: int | None = None
    while after is not None:
        answer = ask_role(places, "relay", "queue.order", ORDER_SECONDS, after=after, until=until, **arguments)
        total = {key: count + answer[key] for key, count in total.items()}
        after, until = answer["after"], answer["until"]
        if after is not None and sys.stderr.isatty():
            click.echo(f"\r{total['messages']} messages", err=True, nl=False)
    if total["messages"] == 0:
        left = (
            f"; {total['skipped']} recipients are in no state for it, or are being tried now"
            if total["skipped"]
            else ""
        )
        fail(f"nothing to {verb} in the queue like that{left}", Exit.NOT_FOUND)
    emit_one(
        {"order": verb, **{key: count for key, count in total.items() if count or key == "messages"}}, as_json=as_json
    )


def _confirmed(places: Places, verb: str, selected: Selected, *, yes: bool) -> bool:
    """Many messages at once are not lost by a slip: on a terminal it is asked, elsewhere --yes has to say it."""
    _refuse_nothing(selected)
    if yes or not selected.is_bulk:
        return True
    counts = _counted(places, selected)
    if not counts["messages"]:
        fail(f"nothing to {verb} in the queue like that", Exit.NOT_FOUND)
    words = _would_words(verb, counts)
    if not sys.stdin.isatty():
        fail(f"{words}; nothing was done: --yes does it", Exit.REFUSED)
    click.confirm(f"{words}. Go on?", abort=True, err=True)
    return True


def _would(places: Places, verb: str, selected: Selected, *, as_json: bool) -> None:
    _refuse_nothing(selected)
    counts = _counted(places, selected)
    if as_json:
        emit_one({"order": verb, "dry_run": True, **counts}, as_json=True)
    else:
        click.echo(_would_words(verb, counts))


def _would_words(verb: str, counts: Mapping[str, Any]) -> str:
    words = f"{verb} means {counts['recipients']} recipients of {counts['messages']} messages"
    words += f" ({counts['size_octets']} octets)"
    words += f", {counts['being_tried']} of them being tried now" if counts["being_tried"] else ""
    return words + (f", such as {', '.join(counts['examples'])}" if counts["examples"] else "")


def _counted(places: Places, selected: Selected) -> dict[str, Any]:
    total: dict[str, Any] = {"messages": 0, "recipients": 0, "being_tried": 0, "size_octets": 0}
    examples: list[str] = []
    after: int | None = 0
    while after is not None:
        answer = ask_role(places, "relay", "queue.count", selection=selected.arguments, after=after)
        total = {key: count + answer[key] for key, count in total.items()}
        examples += answer["examples"]
        after = answer["after"]
    return total | {"examples": examples[:3]}


def _refuse_nothing(selected: Selected) -> None:
    if selected.says_nothing:
        raise click.UsageError("say which messages: QUEUE_IDs, options that select them, or --all")
