"""`egressguard mailbox`: take mailboxes over from other servers, and write them for others."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import Exit, emit_rows, fail, progress
from egressguard.app.places import Places
from egressguard.mailbox.account_name import is_account_name
from egressguard.mailbox.accounts import Accounts
from egressguard.mailbox.takeover.importing import FORMATS, Asked, open_source, survey, take_over
from egressguard.mailbox.takeover.mbox import X_UIDL
from egressguard.mailbox.takeover.pop3_names import NONE, FormatError, check_format
from egressguard.mailbox.takeover.publish import InUse
from egressguard.mailbox.takeover.source import Problems, SourceError
from egressguard.mailbox.takeover.stage import Busy, Stage

USER = "%u"
SHOWN_PROBLEMS = 20
_COLUMNS = ("account", "state", "folders", "messages", "copied", "problems")
_path = click.Path(path_type=Path)


@click.group("mailbox")
def mailbox_command() -> None:
    """Mailboxes as a whole: take them over from another server, write them for another.

    \b
    Example:
      egressguard mailbox import /home/anna/Maildir --account anna --dry-run
    """


@mailbox_command.command("import")
@with_places
@click.argument("source", type=_path)
@click.option("--account", help="Whose mailbox it becomes here.")
@click.option("--inbox", type=_path, help="The mbox that is INBOX, where SOURCE is a directory of mboxes.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Whose files they are, if it does not show.")
@click.option("--pop3-uidl", "uidl", help="How POP3 called messages: a format as %08Xu%08Xv, x-uidl, or none.")
@click.option("--dry-run", is_flag=True, help="Only say what is there.")
@click.option("--prepare", is_flag=True, help="Copy, but put nothing in place yet: while the old server still runs.")
@click.option("--merge", is_flag=True, help="Also into a mailbox in use; messages get new UIDs there.")
@click.option("--verify", is_flag=True, help="Compare every message with the source, through IMAP too, if it runs.")
@as_json
def import_command(
    places: Places,
    source: Path,
    account: str | None,
    inbox: Path | None,
    form: str | None,
    uidl: str | None,
    dry_run: bool,
    prepare: bool,
    merge: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Take over the mail in SOURCE: a Maildir of Dovecot, Courier or qmail, an mbox, or a directory of mboxes.

    UIDs, UIDVALIDITY, flags, keywords, dates, subscriptions and POP3 UIDLs stay: no mail program downloads anything
    again. SOURCE is never changed. With %u in SOURCE (and --inbox) all accounts of this gateway that have mail there
    are taken over. Killed at any point: run it again; no message comes twice. Run it with --prepare as often as you
    like while the old server runs, then stop that, and run it without.

    \b
    Example:
      egressguard mailbox import '/home/%u/Maildir' --prepare
      egressguard mailbox import /home/anna/mail --inbox /var/mail/anna --account anna --verify
    Exit codes: 1 some messages could not be taken, or differ, 2 wrong usage, 4 permission denied, 5 no such account
    or source, 6 the mailbox is in use, 75 somebody works on it, or the disk does not.
    """
    if verify and (dry_run or prepare):
        raise click.UsageError("--verify is about what was put in place: not with --dry-run or --prepare")
    asked = Asked(source, inbox, form, _uidl_format(uidl))
    each = _accounts(places, asked, account)
    rows = []
    for name, one in each:
        with _progress(name, one) as tick, _troubles(name, asked=one):
            row = _survey(name, one) if dry_run else _import(places, name, one, prepare, merge, tick)
        if verify and not dry_run:
            row |= _verify(places, name, one)
        rows.append(row)
    emit_rows(rows, _COLUMNS, as_json=as_json, empty="nothing was taken over")
    sys.exit(Exit.FAILED if any(row["problems"] for row in rows) else Exit.OK)


@mailbox_command.command("export")
@with_places
@click.argument("account")
@click.argument("target", type=_path)
@click.option("--format", "form", type=click.Choice(("maildir", "mbox")), default="maildir", show_default=True)
@as_json
def export_command(places: Places, account: str, target: Path, form: str, as_json: bool) -> None:
    """Write ACCOUNT's mailbox to TARGET, a new directory: a Maildir++ with UIDs, or mboxes (mboxrd) with the same.

    It may be in use meanwhile.

    \b
    Example:
      egressguard mailbox export anna /tmp/anna --format mbox
    Exit codes: 1 some messages could not be written, 4 permission denied, 5 no such mailbox.
    """
    from egressguard.mailbox.takeover.exporting import export_maildir, export_mbox, own_mailbox

    place = places.mailboxes / account
    if not is_account_name(account) or not place.is_dir():
        fail(f"there is no mailbox of {account!r:.80} in {places.mailboxes}", Exit.NOT_FOUND)
    asked = Asked(place, form="dovecot")
    with _progress(account, asked) as tick, _troubles(account, asked):
        source = own_mailbox(place)
        tally = (export_maildir if form == "maildir" else export_mbox)(source, target.absolute(), tick)
    _tell(account, source.problems.told, source.problems.count)
    row = {"account": account, "folders": tally.folders, "messages": tally.messages, "octets": tally.octets}
    row |= {"target": str(target), "problems": source.problems.count}
    emit_rows([row], ("account", "folders", "messages", "octets", "target"), as_json=as_json, empty="")
    sys.exit(Exit.FAILED if tally.failed else Exit.OK)


def _uidl_format(text: str | None) -> str | None:
    if text is None or text == X_UIDL:
        return text
    try:
        return NONE if text == "none" else check_format(text)
    except FormatError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--pop3-uidl") from None


def _accounts(places: Places, asked: Asked, account: str | None) -> list[tuple[str, Asked]]:
    """Each account and where its mail is."""
    try:
        known = set(Accounts(places.accounts).names())
    except PermissionError:
        fail(f"{places.accounts}: permission denied; run this as root", Exit.PERMISSION)
    if USER in str(asked.path):
        if account is not None:
            raise click.UsageError(f"{USER} in SOURCE means all accounts; leave --account out")
        each = [(name, _of(asked, name)) for name in sorted(known)]
        found = [(name, one) for name, one in each if one.path.exists()]
        return found or fail(f"no account of this gateway has mail at {asked.path}", Exit.NOT_FOUND)
    if account is None:
        raise click.UsageError(f"name the --account that SOURCE is of, or put {USER} in its place")
    if account not in known:
        fail(f"there is no account {account!r:.80}; add it: egressguard user add NAME", Exit.NOT_FOUND)
    if not asked.path.exists():
        fail(f"{asked.path}: no such file or directory", Exit.NOT_FOUND)
    return [(account, _of(asked, account))]


def _of(asked: Asked, name: str) -> Asked:
    def filled(path: Path) -> Path:
        return Path(str(path).replace(USER, name)).absolute()

    return replace(asked, path=filled(asked.path), inbox=filled(asked.inbox) if asked.inbox else None)


def _survey(name: str, asked: Asked) -> dict[str, Any]:
    source = open_source(asked)
    tally = survey(source)
    _tell(name, source.problems.told, source.problems.count)
    row = {"account": name, "state": "dry run", "format": source.format, "folders": tally.folders}
    return row | {"messages": tally.messages, "copied": 0, "problems": source.problems.count}


def _import(
    places: Places, name: str, asked: Asked, prepare: bool, merge: bool, tick: Callable[[int], object]
) -> dict[str, Any]:
    source = open_source(asked)
    places.mailboxes.mkdir(parents=True, exist_ok=True)
    there = places.mailboxes.stat()
    owner = (there.st_uid, there.st_gid) if os.geteuid() == 0 else None
    stage = Stage(places.takeover / name, owner)
    try:
        outcome = take_over(source, stage, places.mailboxes / name, prepare=prepare, may_merge=merge, tick=tick)
    finally:
        stage.close()
        source.close()
    _tell(name, outcome.problems, outcome.problem_count)
    tally, published = outcome.tally, outcome.published
    state = "prepared" if published is None else "taken over" if published.with_uids else "added"
    row = {"account": name, "state": state, "format": source.format, "folders": tally.folders}
    row |= {"messages": tally.messages, "octets": tally.octets, "copied": tally.copied, "known": tally.known}
    return row | {"moved_over": published.moved_over if published else 0, "problems": tally.failed}


def _verify(places: Places, name: str, asked: Asked) -> dict[str, Any]:
    """Through the files, and through IMAP where Dovecot runs."""
    from egressguard.access.imap_reading import NoImap, compare_over_imap, session
    from egressguard.mailbox.takeover.verify import compare_files

    with _progress(f"{name}: compare", asked) as tick, _troubles(name, asked):
        stage = Stage(places.takeover / name)
        try:
            compared = compare_files(open_source(asked), stage.ledger, places.mailboxes / name, tick)
        finally:
            stage.close()
    differences: Problems = compared.differences
    seen = 0
    try:
        with session(places.dovecot_state / "access.conf", name) as client:
            seen = compare_over_imap(client, compared.folders, differences)
    except NoImap as wrong:
        click.echo(f"{name}: not compared through IMAP: {wrong}", err=True)
    _tell(name, differences.told, differences.count)
    row = {"compared": compared.messages, "compared_over_imap": seen, "differences": differences.count}
    return row | ({"problems": differences.count, "state": "differs"} if differences.count else {"state": "verified"})


def _tell(name: str, told: list[str], count: int) -> None:
    for words in told[:SHOWN_PROBLEMS]:
        click.echo(f"{name}: {words}", err=True)
    if count > SHOWN_PROBLEMS:
        click.echo(f"{name}: and {count - SHOWN_PROBLEMS} more", err=True)


@contextmanager
def _troubles(name: str, asked: Asked) -> Iterator[None]:
    try:
        yield
    except InUse as wrong:
        fail(f"{name}: {wrong}; nothing was changed. Add the messages as new ones: --merge", Exit.REFUSED)
    except Busy as wrong:
        fail(f"{name}: {wrong}", Exit.TEMPORARY)
    except SourceError as wrong:
        fail(f"{name}: {wrong}; nothing was put in place")
    except PermissionError as wrong:
        fail(f"{name}: {wrong.filename or asked.path}: permission denied; run this as root", Exit.PERMISSION)
    except (OSError, sqlite3.Error) as wrong:
        fail(f"{name}: {wrong}; what was copied is kept, the same command goes on", Exit.TEMPORARY)
    except KeyboardInterrupt:
        click.echo("egressguard: interrupted; the same command goes on where it was", err=True)
        sys.exit(130)


@contextmanager
def _progress(what: str, asked: Asked) -> Iterator[Callable[[int], object]]:
    """A bar by messages; they are counted before only where somebody sees it."""
    total = done = 0
    if sys.stderr.isatty():
        with _troubles(what, asked):
            total = survey(open_source(asked)).messages
    with progress(what, shown=total > 0) as show:

        def tick(_octets: int) -> None:
            nonlocal done
            done += 1
            if done % 50 == 0 or done >= total:
                show(done, max(total, done))

        yield tick
