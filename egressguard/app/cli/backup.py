"""`egressguard backup` and `egressguard restore`: mailboxes, quarantine, accounts, journal, queue, while all runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click

from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import Exit, emit_one, emit_rows, fail, progress
from egressguard.app.places import Places
from egressguard.app.rules import read_rules
from egressguard.mailbox.account_name import is_account_name
from egressguard.mailbox.backup.backups import Backups, Tick
from egressguard.mailbox.backup.manifest import BackupError
from egressguard.mailbox.backup.restore import Occupied, restore_all, restore_mailbox, restore_message

SHOWN_PROBLEMS = 20
_directory = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))


@click.command("backup")
@with_places
@_directory
@click.option("--keep", type=click.IntRange(1, 10_000), help="Remove all but so many of the newest backups.")
@click.option("--verify", is_flag=True, help="Take none: read all backups, and compare each file with its digest.")
@as_json
def backup_command(places: Places, directory: Path, keep: int | None, verify: bool, as_json: bool) -> None:
    """Take a backup into DIRECTORY: mailboxes, quarantine, accounts, secrets, journal and queue, while all runs.

    Octets that an earlier backup has are not copied again; messages that are not new are not even read. Killed, it
    has taken none, and the next goes on. DIRECTORY is best on another disk, and as secret as the mail: it has
    passwords, too. The rules have a history of their own (git), and a queue in PostgreSQL is not in it.

    \b
    Example:
      egressguard backup /mnt/backup/egressguard --keep 14
    Exit codes: 1 something could not be read, or is damaged (--verify), 4 permission denied, 75 no space, or another
    backup works there.
    """
    with _troubles(directory), closing(Backups(directory, make=not verify)) as backups:
        if verify:
            _verify(backups, as_json=as_json)
            return
        if not places.state.is_dir():
            fail(f"{places.state}: no such directory; name it: --state DIR", Exit.NOT_FOUND)
        with _progress("backup", 0) as tick:
            taken = backups.take(places.state, time.time(), keep, tick)
    for words in taken.problems[:SHOWN_PROBLEMS]:
        click.echo(f"not in the backup: {_printable(words)}", err=True)
    row = {"backup": taken.name, "files": taken.files, "octets": taken.octets, "new_files": taken.new_files}
    row |= {"new_octets": taken.new_octets, "removed": taken.removed, "problems": len(taken.problems)}
    if queue_elsewhere := _queue_is_elsewhere(places):
        click.echo("the queue is in PostgreSQL (site.relay.spool), not in this backup: pg_dump that database", err=True)
    emit_one(row | {"queue": "elsewhere" if queue_elsewhere else "here"}, as_json=as_json)
    sys.exit(Exit.FAILED if taken.problems else Exit.OK)


@click.command("restore")
@with_places
@_directory
@click.option("--list", "listing", is_flag=True, help="The backups there are; with --account, its messages in one.")
@click.option("--at", "name", help="Which backup; without it, the newest.")
@click.option("--all", "everything", is_flag=True, help="Everything, into a state directory that has none of it.")
@click.option("--with-spool", is_flag=True, help="With --all: the queue, too. What was sent since is sent again.")
@click.option("--account", help="This account's mailbox: what it lacks of it.")
@click.option("--message", help="One message: its file's name, or the queue id, also of a held one.")
@as_json
def restore_command(
    places: Places,
    directory: Path,
    listing: bool,
    name: str | None,
    everything: bool,
    with_spool: bool,
    account: str | None,
    message: str | None,
    as_json: bool,
) -> None:
    """Bring back from the backups in DIRECTORY: everything (stop the gateway before), a mailbox, or a message.

    Nothing that is there is replaced or removed. A mailbox that is gone comes back with its UIDs; into one that is
    there, the messages that it lacks come as new ones, and people may read it meanwhile.

    \b
    Example:
      egressguard restore /mnt/backup/egressguard --account anna --at 20261126T030000Z
    Exit codes: 1 the backup is damaged or has no such thing, 4 permission denied, 6 the place is not empty, 75 no
    space.
    """
    if account is not None and not is_account_name(account):
        raise click.BadParameter(f"no account name: {account!r:.80}", param_hint="--account")
    if not (listing or everything or account or message) or (everything and (account or message)):
        raise click.UsageError("say what: --all, --account NAME, --message NAME or --list")
    with _troubles(directory), closing(Backups(directory)) as backups:
        if listing:
            _list(backups, name, account, as_json=as_json)
            return
        chosen = backups.chosen(name)
        total = sum(1 for _ in backups.entries(chosen)) if sys.stderr.isatty() and not message else 0
        with _progress("restore", total) as tick:
            entries, state = backups.entries(chosen), places.state.absolute()
            if message:
                restored = restore_message(backups.objects, entries, state, message, tick, account)
            elif account:
                restored = restore_mailbox(backups.objects, entries, state, account, tick)
            else:
                restored = restore_all(backups.objects, entries, state, tick, with_spool=with_spool)
    row: dict[str, Any] = {"backup": chosen, "files": restored.files, "octets": restored.octets}
    row |= {"messages_with_uids": restored.with_uids, "messages_as_new": restored.as_new}
    emit_one(row | {"messages_there_already": restored.there}, as_json=as_json)


def _queue_is_elsewhere(places: Places) -> bool:
    """Rules that cannot be read say nothing of it."""
    policy = read_rules(places.rules, places.site, compiles=False)[0].policy
    return policy is not None and policy.site.relay.spool is not None


def _verify(backups: Backups, *, as_json: bool) -> None:
    with _progress("verify", 0) as tick:
        rows = [{"backup": name, "damaged": path} for name, path in backups.damaged(tick)]
    names = backups.manifests.names()
    emit_rows(rows, ("backup", "damaged"), as_json=as_json, empty=f"{len(names)} backups, all whole")
    sys.exit(Exit.FAILED if rows else Exit.OK)


def _list(backups: Backups, name: str | None, account: str | None, *, as_json: bool) -> None:
    if account is None:
        emit_rows(_summaries(backups), ("backup", "files", "octets"), as_json=as_json, empty="there is no backup yet")
        return
    top = f"mailboxes/{account}/"
    files = (entry for entry in backups.entries(backups.chosen(name)) if entry.digest and entry.path.startswith(top))
    rows = [{"message": one.path.removeprefix(top), "octets": one.size} for one in files if _is_message(one.path)]
    emit_rows(rows, ("message", "octets"), as_json=as_json, empty="no message of it is in this backup")


def _is_message(path: str) -> bool:
    return path.split("/")[-2:-1] in (["new"], ["cur"])


def _summaries(backups: Backups) -> Iterator[dict[str, Any]]:
    for name in backups.manifests.names():
        sizes = [entry.size for entry in backups.entries(name) if entry.digest]
        yield {"backup": name, "files": len(sizes), "octets": sum(sizes)}


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


@contextmanager
def _troubles(directory: Path) -> Iterator[None]:
    try:
        yield
    except Occupied as wrong:
        fail(f"{wrong}; nothing was changed. Name another place (--state DIR), or move it away", Exit.REFUSED)
    except BackupError as wrong:
        fail(str(wrong))
    except PermissionError as wrong:
        fail(f"{wrong.filename or directory}: permission denied; run this as root", Exit.PERMISSION)
    except OSError as wrong:
        fail(f"{wrong.filename or directory}: {wrong.strerror or wrong}", Exit.TEMPORARY)
    except KeyboardInterrupt:
        click.echo("egressguard: interrupted; nothing counts that is not whole", err=True)
        sys.exit(130)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Tick]:
    """A bar by files. How many a backup will have is known after it only: it grows."""
    done = 0
    with progress(what, shown=True) as show:

        def tick(_octets: int) -> None:
            nonlocal done
            done += 1
            if done % 100 == 0:
                show(done, max(total, done + 100))

        yield tick
        show(done, max(done, 1))
