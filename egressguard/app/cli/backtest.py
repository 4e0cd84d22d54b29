"""`egressguard backtest`: past decisions taken again under other rules."""

from __future__ import annotations

import email.utils
import json
import sys
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egressguard.app.cli.options import as_json, span_seconds, with_places
from egressguard.app.cli.output import SCHEMA, Exit, emit_rows, fail, progress, timestamp
from egressguard.app.places import Places
from egressguard.app.rules import read_rules
from egressguard.policy.model import Policy

if TYPE_CHECKING:
    from egressguard.net.flow import IPAddress
    from egressguard.policy.backtest import Tally
    from egressguard.policy.recorded import RecordedMail

MAX_MESSAGE_OCTETS = 256 * 1024 * 1024
COLUMNS = ("change", "plane", "host", "user", "before", "after", "count", "last", "examples")


@click.command("backtest")
@click.argument("new", type=click.Path(path_type=Path, exists=True, file_okay=False))
@with_places
@click.option("--since", default="7d", show_default=True, help="How far back: 30s, 10m, 2h, 7d.")
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Compare with what these rules would have decided. Left out: with what was recorded; with --pcap and "
    "--mbox: the rules in --rules.",
)
@click.option("--pcap", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Flows of this capture.")
@click.option("--interface", default="", help="With --pcap: as if it arrived there.")
@click.option("--mbox", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Messages of this mbox.")
@click.option("--from", "client", help="With --mbox: as if this address had given them.")
@click.option("--user", help="With --mbox: who logged in; left out = nobody.")
@click.option("--listener", default="", help="With --mbox: the listener's name; left out = the first one.")
@click.option("--markdown", is_flag=True, help="A table for a merge request.")
@as_json
def backtest_command(
    new: Path,
    places: Places,
    since: str,
    against: Path | None,
    pcap: Path | None,
    interface: str,
    mbox: Path | None,
    client: str | None,
    user: str | None,
    listener: str,
    markdown: bool,
    as_json: bool,
) -> None:
    """Take past decisions again under the rules in NEW, and tell what would be stopped or let through that was not.

    The journal is read (docs/operate.md: what is recorded), and held messages are looked into again. What hangs on a
    fact that was not recorded is "unknown". Needs no daemon, and changes nothing.

    \b
    Example:
      egressguard backtest rules/ --since 7d
      egressguard backtest rules/ --pcap monday.pcap --rules /etc/egressguard/rules
    Exit codes: 0 all would be as it was, 1 something would change or cannot be told, 2 wrong usage, or rules that
    cannot be read, 4 permission denied.
    """
    policy = _policy(new, places.site)
    if mbox is not None:
        address = _address(client)
    if pcap is None and mbox is None:
        tally = _past(policy, places, time.time() - span_seconds(since, "--since"), against, shown=not as_json)
    else:
        old = _policy(against or places.rules, places.site)
        if pcap is not None:
            tally = _capture(policy, old, pcap, interface, shown=not as_json)
        elif mbox is not None:
            tally = _mailbox(policy, old, mbox, address, user, listener)
    _tell(tally, as_json=as_json, markdown=markdown)
    sys.exit(Exit.OK if tally.is_same else Exit.FAILED)


def _policy(where: Path, site: str) -> Policy:
    from egressguard.policy.load import render_faults

    loaded, files = read_rules(where, site)
    if loaded.policy is None:
        fail(
            f"these rules have faults, so nothing was decided by them:\n{render_faults(loaded.faults, files)}",
            Exit.USAGE,
        )
    return loaded.policy


def _past(new: Policy, places: Places, since: float, against: Path | None, *, shown: bool) -> Tally:
    import sqlite3

    from egressguard.app.backtest import backtest

    old = None if against is None else _policy(against, places.site)
    try:
        with progress("decisions", shown=shown) as tick:
            return backtest(new, places, since=since, old=old, tick=tick)
    except PermissionError as wrong:
        fail(f"{wrong.filename}: permission denied; run this as root", Exit.PERMISSION)
    except sqlite3.Error as wrong:
        fail(f"the journal cannot be read ({wrong}); `egressguard journal` names the file", Exit.TEMPORARY)


def _capture(new: Policy, old: Policy, path: Path, interface: str, *, shown: bool) -> Tally:
    from egressguard.app.backtest import backtest_capture
    from egressguard.firewall.replay import NotACapture

    try:
        with progress("packets", shown=shown) as tick:
            return backtest_capture(new, old, path, interface=interface, tick=tick)
    except NotACapture as wrong:
        fail(str(wrong), Exit.USAGE)


def _mailbox(new: Policy, old: Policy, path: Path, client: IPAddress, user: str | None, listener: str) -> Tally:
    from egressguard.app.backtest import backtest_messages

    listener = listener or next(iter(new.site.relay.listeners), "")
    try:
        return backtest_messages(new, old, _messages(path, client, user, listener))
    except OSError as wrong:
        fail(f"{path}: {wrong.strerror or wrong}", Exit.USAGE)


def _address(client: str | None) -> IPAddress:
    if client is None:
        raise click.UsageError("an mbox does not say who gave its messages; give --from ADDRESS")
    try:
        return ip_address(client)
    except ValueError as wrong:
        words = f"{client!r:.60} is no address; expected one such as 192.0.2.7 or 2001:db8::7"
        raise click.BadParameter(words, param_hint="--from") from wrong


def _messages(path: Path, client: IPAddress, user: str | None, listener: str) -> Iterator[tuple[RecordedMail, bytes]]:
    """Envelopes as the header sections have them: Return-Path, Sender or From; To and Cc."""
    from egressguard.mail.header import header_section
    from egressguard.policy.recorded import RecordedMail
    from egressguard.relay.facts import header_facts
    from egressguard.scan.mbox import split_mbox

    with path.open("rb") as file:
        for start, size in split_mbox(file.fileno()):
            file.seek(start)
            content = file.read(min(size, MAX_MESSAGE_OCTETS))
            content = content if b"\r\n" in content else content.replace(b"\n", b"\r\n")
            headers = header_facts(header_section(content))
            paths = tuple(_addresses(headers, "to", "cc"))
            if not paths:
                continue
            recorded = RecordedMail(
                at=_date(headers),
                client=client,
                listener=listener,
                helo="",
                tls=False,
                user=user,
                is_redirected=False,
                reverse_path=next(_addresses(headers, "return-path", "sender", "from"), ""),
                forward_paths=paths,
                recipient_count=len(paths),
                size_octets=len(content),
                is_whole=True,
                action="",
                rule="(mbox)",
                queue_id=next(iter(headers.get("message-id", ())), f"at {start}"),
            )
            yield recorded, content


def _addresses(headers: Mapping[str, tuple[str, ...]], *names: str) -> Iterator[str]:
    for name in names:
        yield from (address for _, address in email.utils.getaddresses(list(headers.get(name, ()))) if address)


def _date(headers: Mapping[str, tuple[str, ...]]) -> float:
    """When the message says that it was written, as seconds since 1970; now, where it does not say."""
    try:
        return email.utils.parsedate_to_datetime(headers["date"][0]).timestamp()
    except (KeyError, IndexError, ValueError, TypeError, OverflowError):
        return time.time()


def _tell(tally: Tally, *, as_json: bool, markdown: bool) -> None:
    from egressguard.policy.backtest import totals

    summary = tally.summary()
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **summary, "found": list(tally.found())}))
        return
    rows = table_rows(tally)
    if markdown:
        click.echo(markdown_table(rows))
    else:
        emit_rows(rows, COLUMNS, as_json=False, empty="nothing would change")
    click.echo(totals(summary), err=not markdown)
    for key, words in _NOTES.items():
        if summary[key]:
            click.echo(f"{summary[key]} {words}", err=not markdown)


_NOTES = {
    "beside_the_rules": "decisions have nothing to do with rules: they stay as they are",
    "odd_rows": "rows of the journal make no sense to this program",
    "left_out": "changes are left out of the table: it would be too long",
}


def _row(found: Mapping[str, Any]) -> dict[str, Any]:
    """For a person: what was decided beside who decided it."""
    row = dict(found)
    for key in ("before", "after"):
        row[key] = f"{found[key]} ({found[f'{key}_rule'] or 'no rule'})"
    return row | {"last": timestamp(found["last"]), "examples": found["examples"][:1]}


def table_rows(tally: Tally) -> list[dict[str, Any]]:
    """What a table has, for a person."""
    return [_row(found) for found in tally.found()]


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows for a merge request."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    lines += ["| " + " | ".join(_cell(row[column]) for column in COLUMNS) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(f"\\{c}" if c in "|\\`<>*_[]" else c if c.isprintable() else "?" for c in text)
