"""`egressguard quarantine`: the messages that a rule holds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from egressguard.app.cli.held_selecting import with_held_selection
from egressguard.app.cli.options import as_json, ask_role, who, with_places
from egressguard.app.cli.output import KINDS, Exit, emit_one, emit_rows, fail, timestamp
from egressguard.app.cli.selecting import Selected
from egressguard.app.places import Places

SHOWN_MESSAGES = 1000
PAGE_MESSAGES = 1000
ORDER_SECONDS = 600
"""For one step of an order: a disk that is full of others' work."""

_why = click.option("--why", default="", help="Words for the journal; for `reject` the sender reads them, too.")


def _before_it_is_done(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--yes", is_flag=True, help="Do not ask.")(command)
    return click.option("--dry-run", is_flag=True, help="Say what it would be done to, and do nothing.")(command)


@click.group("quarantine")
def quarantine_command() -> None:
    """The messages that a rule holds back.

    \b
    Example:
      egressguard quarantine list
    """


@quarantine_command.command("list")
@with_places
@with_held_selection(everything=False)
@click.option("--limit", type=click.IntRange(1), help="At most so many messages.  [default: 1000, with --json all]")
@as_json
def list_command(places: Places, selected: Selected, limit: int | None, as_json: bool) -> None:
    """List held messages: why, since when, from whom, to whom.

    \b
    Example:
      egressguard quarantine list --verdict denied --older-than 2d
      egressguard quarantine list --json | jq -r .id
    """
    rows = _rows(places, selected, limit or (sys.maxsize if as_json else SHOWN_MESSAGES))
    if not as_json:
        rows = ({**row, "held_at": timestamp(row["held_at"]), "sender": row["sender"] or "<>"} for row in rows)
    columns = ("id", "held_at", "folder", "rule", "sender", "recipients", "findings")
    empty = "nothing is held" if selected.says_nothing else "nothing like that is held"
    emit_rows(rows, columns, as_json=as_json, empty=empty)


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


@quarantine_command.command("release")
@with_places
@with_held_selection(everything=True)
@click.option("--to", multiple=True, metavar="ADDRESS", help="To this address instead of its recipients; repeatable.")
@_why
@_before_it_is_done
@as_json
def release_command(
    places: Places, selected: Selected, to: tuple[str, ...], why: str, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Send held messages on, exactly once, as they were received. No rule looks at them again.

    \b
    Example:
      egressguard quarantine release 1A2B3C4D5E6F
      egressguard quarantine release --rule attachments --from "*@partner.example" --why "their invoices" --dry-run
    Exit codes: 5 nothing like that is held (released or deleted already?), 6 not confirmed, 75 the spool cannot take it
    now: how many were released before is said, the others stay held.
    """
    _order(places, "release", selected, why=why, to=to, yes=yes, dry_run=dry_run, as_json=as_json)


@quarantine_command.command("reject")
@with_places
@with_held_selection(everything=True)
@_why
@_before_it_is_done
@as_json
def reject_command(places: Places, selected: Selected, why: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete held messages, and tell those senders whom we know that they are refused (5.7.1, with the words of --why).

    Told is who logged in, and addresses of the site's domains that wrote from the site's zones. Nobody else: the
    address may be forged.

    \b
    Example:
      egressguard quarantine reject 1A2B3C4D5E6F --why "no programs by mail, please"
    Exit codes: 5 nothing like that is held, 6 not confirmed, 75 the spool cannot take the notice now.
    """
    _order(places, "reject", selected, why=why, to=(), yes=yes, dry_run=dry_run, as_json=as_json)


@quarantine_command.command("delete")
@with_places
@with_held_selection(everything=True)
@_why
@_before_it_is_done
@as_json
def delete_command(places: Places, selected: Selected, why: str, yes: bool, dry_run: bool, as_json: bool) -> None:
    """Delete held messages for good. Nobody is told.

    \b
    Example:
      egressguard quarantine delete 1A2B3C4D5E6F
      egressguard quarantine delete --verdict infected --older-than 30d --yes
    Exit codes: 5 nothing like that is held, 6 not confirmed.
    """
    _order(places, "delete", selected, why=why, to=(), yes=yes, dry_run=dry_run, as_json=as_json)


@quarantine_command.command("learn")
@with_places
@with_held_selection(everything=True)
@click.argument("kind", type=click.Choice(["spam", "ham"]))
@_why
@_before_it_is_done
@as_json
def learn_command(
    places: Places, selected: Selected, kind: str, why: str, yes: bool, dry_run: bool, as_json: bool
) -> None:
    """Show held messages to the spam filters that learn, as spam or as ham. They stay held.

    Who is taught, the rules say: site.scan.rspamd.controller, site.scan.spamd.learns. A message that a filter has
    learned is shown to it again only as the other kind.

    \b
    Example:
      egressguard quarantine learn 1A2B3C4D5E6F ham
      egressguard quarantine learn --rule spam --older-than 2d --yes spam
    Exit codes: 1 a filter refuses, 5 no such message, 6 no filter learns, or not confirmed, 75 a filter does not
    answer.
    """
    _order(places, f"learn-{kind}", selected, why=why, to=(), yes=yes, dry_run=dry_run, as_json=as_json)


@quarantine_command.command("allow")
@with_places
@click.argument("message_id", metavar="ID")
def allow_command(places: Places, message_id: str) -> None:
    """Print a rule that lets pass what is like this message: same sender, same way in, same verdict.

    It changes nothing: put it into mail.yaml before the rule that holds such mail, then `check`, `test`, `apply`.

    \b
    Example:
      egressguard quarantine allow 1A2B3C4D5E6F
    Exit codes: 5 no such message.
    """
    click.echo(allowing_rule(ask_role(places, "relay", "quarantine.show", message_id=message_id)))


@quarantine_command.command("reindex")
@with_places
@as_json
def reindex_command(places: Places, as_json: bool) -> None:
    """Bring the index up to date with what the Maildir holds: after a restore, or when files were moved by hand.

    The gateway does so itself at every start and now and then; the index may be deleted while it is stopped.

    \b
    Example:
      egressguard quarantine reindex
    """
    emit_one(ask_role(places, "relay", "quarantine.reindex", ORDER_SECONDS), as_json=as_json)


@quarantine_command.command("digest")
@with_places
@click.option("--now", is_flag=True, help="Send it, about the last 24 hours.")
@click.option("--dry-run", is_flag=True, help="Say who would hear of how many messages, and send nothing.")
@as_json
def digest_command(places: Places, now: bool, dry_run: bool, as_json: bool) -> None:
    """Send the daily digest (site.quarantine.digest) now, beside the one of the day, or say who would get it.

    \b
    Example:
      egressguard quarantine digest --dry-run
    Exit codes: 5 the rules know no digest, 75 the spool cannot take it now.
    """
    if now == dry_run:
        raise click.UsageError("say --now or --dry-run")
    rows = ask_role(places, "relay", "quarantine.digest", ORDER_SECONDS, dry_run=dry_run)
    emit_rows(rows, ("to", "messages"), as_json=as_json, empty="nothing new is held: nobody hears of it")


def allowing_rule(row: Mapping[str, Any]) -> str:
    """A rule in YAML; JSON's strings are YAML's."""
    match: dict[str, Any] = {"sender": row["sender"] or "<>"}
    match |= {"user": row["user"]} if row["user"] else {}
    match |= {"verdict": row["verdict"]} if row["verdict"] else {}
    told = json.dumps(f"{', '.join(map(str, row['findings'])) or 'held'} by {row['rule']}", ensure_ascii=True)
    lines = [
        f"# Before the rule {json.dumps(row['rule'])}; it was: {told}",
        f"- name: allow-{row['id'].lower()}",
        f"  match: {json.dumps(match)}",
        "  action: accept",
    ]
    if not row["user"]:
        lines.insert(1, "# Anybody can write under this sender's name: add `zone`, `dmarc` or the like where you can.")
    return "\n".join(lines)


def _rows(places: Places, selected: Selected, limit: int) -> Iterator[dict[str, Any]]:
    """Page by page: neither side ever has all of it in memory."""
    after: int | None = 0
    while after is not None and limit > 0:
        most = min(limit, PAGE_MESSAGES)
        page = ask_role(places, "relay", "quarantine.page", selection=selected.arguments, after=after, limit=most)
        yield from page["rows"]
        limit, after = limit - len(page["rows"]), page["after"]


def _order(
    places: Places,
    verb: str,
    selected: Selected,
    *,
    why: str,
    to: Sequence[str],
    yes: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    if selected.says_nothing:
        raise click.UsageError("say which messages: IDs, options that select them, or --all")
    order = {"verb": verb, "by": who(), "why": why, "to": list(to)}
    if not selected.is_bulk and not dry_run:
        (message_id,) = selected.arguments["ids"]
        answer = ask_role(places, "relay", "quarantine.act", ORDER_SECONDS, message_id=message_id, **order)
        return emit_one(answer, as_json=as_json)
    counts = ask_role(places, "relay", "quarantine.count", selection=selected.arguments)
    words = _would_words(verb, counts)
    if dry_run:
        if as_json:
            return emit_one({"order": verb, "dry_run": True, **counts}, as_json=True)
        return click.echo(words)
    if not counts["messages"]:
        fail(f"nothing to {_words_of(verb)} like that is held", Exit.NOT_FOUND)
    if not yes:
        if not sys.stdin.isatty():
            fail(f"{words}; nothing was done: --yes does it", Exit.REFUSED)
        click.confirm(f"{words}. Go on?", abort=True, err=True)
    return _carry_out(places, {**order, "selection": selected.arguments, "until": counts["until"]}, as_json=as_json)


def _carry_out(places: Places, order: Mapping[str, Any], *, as_json: bool) -> None:
    """Step by step; what is held later is not meant."""
    counts = dict.fromkeys(("messages", "skipped", "failed"), 0)
    after: int | None = 0
    stopped: dict[str, str] = {}
    while after is not None:
        answer = ask_role(places, "relay", "quarantine.order", ORDER_SECONDS, after=after, **order)
        counts = {key: count + answer[key] for key, count in counts.items()}
        after = answer["after"]
        stopped = {key: answer[key] for key in ("stopped", "kind") if key in answer}
        if after is not None and sys.stderr.isatty():
            click.echo(f"\r{counts['messages']} messages", err=True, nl=False)
    if not (counts["messages"] or counts["failed"] or stopped):
        fail(f"nothing was left to {_words_of(order['verb'])}", Exit.NOT_FOUND)
    told = {key: count for key, count in counts.items() if count or key == "messages"}
    emit_one({"order": order["verb"], **told, **stopped}, as_json=as_json)
    if stopped:
        words = f"{stopped['stopped']}; {counts['messages']} messages were done before, the others stay held"
        fail(words, KINDS.get(stopped["kind"], Exit.FAILED))
    if counts["failed"]:
        fail(f"{counts['failed']} messages were refused; each by itself says why", Exit.FAILED)


def _words_of(verb: str) -> str:
    """ "release"; "learn as spam"."""
    return verb.replace("-", " as ")


def _would_words(verb: str, counts: Mapping[str, Any]) -> str:
    words = f"{_words_of(verb)} means {counts['messages']} messages ({counts['size_octets']} octets)"
    return words + (f", such as {', '.join(counts['examples'])}" if counts["examples"] else "")
