"""`egressguard trace`: a message's whole life, with all that was said to other hosts, from the journals."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from egressguard.app.children import SMTPD
from egressguard.app.cli.options import as_json, ask_role, span_seconds, who, with_places
from egressguard.app.cli.output import Exit, emit_rows, fail, timestamp
from egressguard.app.control import CommandError, DaemonUnreachable, ask
from egressguard.app.places import Places
from egressguard.smtp.transcript import lines_of
from egressguard.store.journal import DIALOGUE, find_messages, read_life

SHOWN_MESSAGES = 10
LOOK_SECONDS = 0.2
NOTICES = 50
"""DSNs about one message that are followed, and messages that it became (aliases, forwards)."""


@click.command("trace")
@with_places
@click.argument("queue_id", required=False)
@click.option("--message-id", default="", help="By the Message-ID of its header, with < and >.")
@click.option("--sender", default="", metavar="ADDRESS", help="By its envelope sender.")
@click.option("--recipient", default="", metavar="ADDRESS", help="By one of its first recipients.")
@click.option("--since", default="7d", show_default=True, help="How far back to look for them: 30s, 10m, 2h, 7d.")
@click.option("--limit", default=SHOWN_MESSAGES, show_default=True, type=click.IntRange(1, 1000))
@as_json
def trace_command(
    places: Places,
    queue_id: str | None,
    message_id: str,
    sender: str,
    recipient: str,
    since: str,
    limit: int,
    as_json: bool,
) -> None:
    """Show a message's whole life, also after it has left: who gave it to us, which rule decided, every attempt with
    all that was said, what people did with it, notices about it.

    Content is never shown, passwords are never kept. In a dialogue > is what we said, < what the host said, * what
    happened; before them the seconds since it began.

    \b
    Example:
      egressguard trace 1A2B3C4D5E6F
      egressguard trace --recipient bert@example.net --since 2h
    Exit codes: 4 permission denied, 5 nothing is known of such a message.
    """
    named = {"sender": sender, "recipient": recipient, "message_id": message_id}
    if bool(queue_id) == any(named.values()):
        raise click.UsageError("give a QUEUE_ID, or some of --message-id, --sender and --recipient")
    journals = [places.journal(SMTPD.name), places.journal("relay")]
    start = time.time() - span_seconds(since, "--since")
    try:
        ids = [queue_id] if queue_id else find_messages(journals, **named, since=start, limit=limit)
        lives = [life for one in reversed(ids) if (life := _life(places, journals, one)) is not None]
    except PermissionError as wrong:
        fail(f"{wrong.filename}: permission denied; run this as root", Exit.PERMISSION)
    if not lives:
        fail("nothing is known of such a message (any more); see egressguard journal", Exit.NOT_FOUND)
    if as_json:
        emit_rows(lives, (), as_json=True, empty="")
        return
    click.echo("\n\n".join("\n".join(_words(life)) for life in lives))


@click.command("send-test")
@with_places
@click.option("--to", "recipient", required=True, metavar="ADDRESS", help="Who gets it.")
@click.option("--from", "sender", default="", metavar="ADDRESS", help="Its sender.  [default: postmaster@ our name]")
@click.option("--via", default="", metavar="NAME[,NAME]|mx", help="The way out.  [default: by the routes]")
@click.option("--wait", default="60s", show_default=True, help="How long to watch: 30s, 10m.")
def send_test_command(places: Places, recipient: str, sender: str, via: str, wait: str) -> None:
    """Send a short letter, by the rules' way or another, and show all that is said.

    What cannot be delivered now stays in the queue like any other mail.

    \b
    Example:
      egressguard send-test --to anna@example.net --via provider
    Exit codes: 1 refused for good, 6 no such way or address, 75 put off, or nothing is known yet.
    """
    ways = [way.strip() for way in via.split(",")] if via else []
    arguments = {"recipient": recipient, "sender": sender, "via": ways, "by": who()}
    queue_id = ask_role(places, "relay", "queue.test", **arguments)["queue_id"]
    click.echo(f"message {queue_id}")
    last = _watch([places.journal("relay")], queue_id, time.monotonic() + span_seconds(wait, "--wait"))
    if last != "delivery.delivered":
        waits = last in {"", "delivery.transient"}
        words = "it waits in the queue" if waits else "it is given up"
        fail(f"not delivered: {words}; see egressguard trace {queue_id}", Exit.TEMPORARY if waits else Exit.FAILED)


def _watch(journals: Sequence[Path], queue_id: str, until: float) -> str:
    """Show what happens, until an attempt has ended; return what it came to, "" = nothing yet."""
    shown = 0
    while time.monotonic() < until:
        events = [_event(event) for event in read_life(journals, queue_id)]
        for line in _events(events[shown:]):
            click.echo(line)
        shown = len(events)
        ended = [event["kind"] for event in events if event["kind"].startswith("delivery.") and "recipient" in event]
        if ended:
            return str(ended[-1])
        time.sleep(LOOK_SECONDS)
    return ""


def _life(places: Places, journals: Sequence[Path], queue_id: str) -> dict[str, Any] | None:
    events = [_event(event) for event in read_life(journals, queue_id)]
    queued = _queued(places, queue_id)
    if not events and not isinstance(queued, dict):
        return None
    about, onward = (_lives(journals, events, key) for key in ("dsn", "as"))
    return {"queue_id": queue_id, "events": events, "notices": about, "sent_on": onward, "queued": queued}


def _lives(journals: Sequence[Path], events: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    """Those of the messages that `key` of the events names."""
    ids = list(dict.fromkeys(str(event[key]) for event in events if event.get(key)))[:NOTICES]
    return {one: [_event(event) for event in read_life(journals, one)] for one in ids}


def _event(event: dict[str, Any]) -> dict[str, Any]:
    """A dialogue as people read it."""
    if event["kind"] != DIALOGUE:
        return event
    lines = list(lines_of(event.get("said", ())))
    return {**{key: value for key, value in event.items() if key != "said"}, "lines": lines}


def _queued(places: Places, queue_id: str) -> dict[str, Any] | str:
    """What the queue has of it now, or why it has nothing."""
    try:
        row: dict[str, Any] = ask(places.control("relay"), "queue.show", 5, queue_id=queue_id)
    except CommandError as wrong:
        return "not in the queue" if wrong.kind == "not-found" else str(wrong)
    except DaemonUnreachable:
        return "the relay does not answer, so whether it is in the queue is not known"
    return row


# Words.


def _words(life: Mapping[str, Any]) -> Iterator[str]:
    yield f"message {life['queue_id']}"
    yield from _events(life["events"])
    for notice, events in life["notices"].items():
        yield f"  notice {notice} to the sender"
        yield from (f"  {line}" for line in _events(events))
    for one, events in life["sent_on"].items():
        yield f"  sent on as {one}"
        yield from (f"  {line}" for line in _events(events))
    queued = life["queued"]
    if isinstance(queued, str):
        yield f"  now: {queued}"
        return
    for one in queued["recipients"]:
        waits = f", next try {timestamp(one['next_at'])}" if one["state"] == "queued" else ""
        where = f", to {one['destination']}" if one["destination"] else ""
        yield f"  now: <{_seen(one['address'])}> {one['state']}{where}{waits}, attempts so far: {one['attempts']}"


def _events(events: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for event in events:
        room, _, what = event["kind"].partition(".")
        words = {"mail": _taken, "delivery": _delivery}.get(room, _done)(event)
        name = "dialogue" if event["kind"] == DIALOGUE else what if room in {"mail", "delivery"} else event["kind"]
        yield f"  {_moment(event['began'] if 'began' in event else event['at'])}  {name:<12} {_seen(words)}"
        yield from (f"      {_seen(line)}" for line in event.get("lines", ()))


def _taken(event: Mapping[str, Any]) -> str:
    recipients = list(event.get("recipients") or ())
    further = int(event.get("recipient_count") or 0) - len(recipients)
    words = [
        f"from <{event.get('sender', '')}> to {', '.join(f'<{one}>' for one in recipients)}"
        + (f" and {further} more" if further > 0 else ""),
        f"{event.get('size_octets')} octets",
        f"client {event.get('client')} ({event.get('helo') or 'no HELO'}), listener {event.get('listener')}",
        f"TLS {event['tls']}" if event.get("tls") else "no TLS",
        f"user {event['user']}" if event.get("user") else "",
        f"rule {event.get('rule') or '-'}" + (f" ({event['reason']})" if event.get("reason") else ""),
        f"reply {event['reply']}" if event.get("reply") else "",
        f"Message-ID {event['message_id']}" if event.get("message_id") else "",
    ]
    return "; ".join(filter(None, words))


def _delivery(event: Mapping[str, Any]) -> str:
    if event["kind"] == DIALOGUE:
        address = f"[{event.get('address')}] port {event.get('port')}"
        verified = "certificate verified" if event.get("verified") else "certificate not verified"
        words = [
            f"{event.get('host')} {address}",
            f"{event['tls']}, {verified}" if event.get("tls") else "no TLS",
            f"transaction {event.get('transaction')} on this connection",
        ]
        return ", ".join(words)
    host = event.get("host") or "ourselves"
    words = [
        f"<{event.get('recipient')}> by {event.get('transport')}, attempt {event.get('attempt')}",
        f"{host} said {event.get('status')} {event.get('reply')}",
        f"notice {event['dsn']}" if event.get("dsn") else "",
    ]
    return "; ".join(filter(None, words))


def _done(event: Mapping[str, Any]) -> str:
    """What people did, and whatever else there is."""
    left = {"at", "kind", "queue_id", "queue_ids"}
    return ", ".join(
        f"{key} {value}" for key, value in event.items() if key not in left and value not in ("", None, [])
    )


def _moment(seconds: float) -> str:
    return f"{timestamp(seconds)[:-1]}.{int(seconds * 1000) % 1000:03d}Z"


def _seen(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
