"""Take one account's mailbox over: source -> staging tree -> its place.

Contract
    The source is never changed. Nothing of the account's mailbox changes before everything is staged and durable.
    `prepare` only stages, as often as one likes, while the old server runs; the last run, without it, is short.
    What could not be taken is told, by name and reason, and counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from egressguard.mailbox.takeover import maildir, mbox
from egressguard.mailbox.takeover.directory import Directory
from egressguard.mailbox.takeover.maildir import MaildirSource
from egressguard.mailbox.takeover.mbox import MboxSource
from egressguard.mailbox.takeover.publish import Published, finish, publish
from egressguard.mailbox.takeover.source import INBOX, Source, SourceError
from egressguard.mailbox.takeover.stage import Stage, Tally

FORMATS = (*maildir.FORMATS, *mbox.FORMATS)


@dataclass(frozen=True, slots=True)
class Asked:
    """Where an account's mail is now. `form`, `uidl_format` None: as it looks."""

    path: Path
    inbox: Path | None = None
    form: str | None = None
    uidl_format: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    tally: Tally
    published: Published | None
    problems: list[str]
    problem_count: int


def open_source(asked: Asked) -> MaildirSource | MboxSource:
    """Raises OSError, SourceError."""
    form = asked.form
    if form is None:
        form = _looks_like(asked.path)
    if form in maildir.FORMATS:
        if asked.inbox is not None:
            raise SourceError(f"{asked.path} is a Maildir with an INBOX of its own; take {asked.inbox} over by itself")
        return MaildirSource(asked.path, form, asked.uidl_format)
    return MboxSource(asked.path, asked.inbox, form, asked.uidl_format)


def _looks_like(path: Path) -> str:
    if not path.is_dir():
        return mbox.MBOX
    with Directory.opened(path) as directory:
        return maildir.told_format(directory) if maildir.looks_like_maildir(directory) else mbox.MBOX


def survey(source: Source) -> Tally:
    """What is there, without taking anything. Raises OSError, SourceError."""
    tally = Tally()
    for reader in source.folders():
        tally.folders += 1
        tally.messages += len(reader.folder.messages)
        tally.names.append(reader.folder.name)
        reader.close()
    return tally


def take_over(
    source: Source, stage: Stage, mailbox: Path, *, prepare: bool, may_merge: bool, tick: Callable[[int], object]
) -> Outcome:
    """Raises OSError (here), SourceError, publish.InUse, sqlite3.Error."""
    tally = Tally()
    finish(stage, mailbox)
    is_published = bool(stage.ledger.note("published"))
    for reader in source.folders():
        try:
            if not (is_published and stage.has_all(reader.folder)):
                stage.sync(reader, source.problems, tally, tick)
            else:
                tally.known += len(reader.folder.messages)
        finally:
            reader.close()
    if not is_published:
        stage.make_folder(INBOX)
        stage.keep_only(tally.names)
        stage.write_subscriptions(source.subscriptions())
    stage.settle()
    published = None if prepare else publish(stage, mailbox, may_merge=may_merge)
    return Outcome(tally, published, source.problems.told, source.problems.count)
