"""`egressguard scan`: look again at mail that is held or delivered, or at any mail that lies somewhere."""

from __future__ import annotations

import gc
import json
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import TYPE_CHECKING

import click

import egressguard
from egressguard.app.cli.options import as_json, default_places, span_seconds, with_places
from egressguard.app.cli.output import SCHEMA, Exit, colored, fail
from egressguard.app.places import Places
from egressguard.app.scan_settings import RulesChanged, ScanSettings
from egressguard.scan.again import ClamdAgain
from egressguard.scan.edition import but_for_clamd, edition_of
from egressguard.scan.memory import Memory
from egressguard.scan.rescan import Behind, Choice, Rescan, Row

if TYPE_CHECKING:
    from egressguard.app.incidents import Reporter
    from egressguard.policy.site import Scan
    from egressguard.scan.crew import Crew

INTERRUPTED = 130
"""As a shell says of a program that SIGINT ended."""
DEFAULT_JOBS = 2
_CLEAN, _ERROR = "clean", "error"
_SHIPPED_RULES = Path(egressguard.__file__).parents[1] / "rules"
_OBJECTS_BETWEEN_COLLECTIONS = 100_000
"""Hardly any cycles are made here: to look for them every 700 objects takes a twentieth of a run with nothing to do."""


@click.command("scan")
@with_places
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path(exists=True))
@click.option("--all", "everything", is_flag=True, help="Look at every message, whatever is remembered.")
@click.option("--new", "only_new", is_flag=True, help="Only what was never looked at, or has changed.")
@click.option("--since", metavar="WHEN", help="Only files changed since: 2h, 7d or 2026-11-26[T08:00] (UTC).")
@click.option("--jobs", type=click.IntRange(1, 64), default=DEFAULT_JOBS, show_default=True, help="Workers.")
@click.option("--memory", type=click.Path(path_type=Path, dir_okay=False), help="The file that remembers.")
@as_json
def scan_command(
    places: Places,
    paths: tuple[str, ...],
    everything: bool,
    only_new: bool,
    since: str | None,
    jobs: int,
    memory: Path | None,
    as_json: bool,
) -> None:
    """Look at the mail in PATH: a Maildir, Maildir++ or tree of them, an mbox, a folder of message files, a file.

    Without PATH: the quarantine and the mailboxes of this gateway. Nothing is changed there. Looked at is what is out
    of date: new or changed, or last seen by other signatures, settings or programs. Needs no daemon; interrupted, the
    same command goes on. --json has a line for every message, words only for what is not clean.

    Malware in mail that was let through before is an incident: in the journal, and counted. Held mail that is clean
    now is told, not released.

    \b
    Example:
      egressguard scan
      egressguard scan --json --since 7d /home/*/Maildir archive.mbox
    Exit codes: 0 all clean, 1 something found, 2 wrong usage, 4 permission denied, 5 no PATH and no mail here,
    75 nothing found, but could not look at some, 130 interrupted.
    """
    if everything and only_new:
        raise click.UsageError("--all and --new exclude each other")
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    choice = Choice(everything, only_new, _moment(since, time.time()) if since else None)
    chosen = [str(Path(path).absolute()) for path in paths] or _own_mail(places)
    tally: dict[str, int] = {}
    with (
        _incidents(places) as told,
        _rescan(memory or places.scan_memory, places, jobs, told) as rescan,
        _progress(chosen) as tick,
    ):
        for row in rescan.run(chosen, choice):
            tick(row)
            tally[row.verdict] = tally.get(row.verdict, 0) + 1
            _say(row, as_json=as_json)
    if not as_json:
        click.echo(_summary(tally), err=True)
    sys.exit(_exit_code(tally))


def _own_mail(places: Places) -> list[str]:
    found = [str(path) for path in (places.quarantine, places.mailboxes) if path.is_dir()]
    if not found:
        fail(f"no quarantine and no mailboxes below {places.state}; name a PATH to look at", Exit.NOT_FOUND)
    return found


def _moment(text: str, now: float) -> float:
    """Seconds since 1970."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return now - span_seconds(text, "--since")


def _rules(places: Places) -> Path:
    """Where the rules are; where this machine has none, the shipped ones."""
    is_asked_for = places.rules != default_places().rules
    return places.rules if is_asked_for or places.rules.is_dir() else _SHIPPED_RULES


def _read_settings(rules: Path, site: str) -> Scan:
    """What the rules say of scanning. Where they are read, something is out of date, as a rule: workers get ready."""
    from egressguard.scan.crew import prepare

    prepare()
    from egressguard.app.rules import read_rules
    from egressguard.policy.load import render_faults

    loaded, files = read_rules(rules, site)
    if loaded.policy is None:
        fail(f"these rules have faults, so nothing was looked at:\n{render_faults(loaded.faults, files)}", Exit.USAGE)
    return loaded.policy.site.scan


@contextmanager
def _rescan(memory_file: Path, places: Places, jobs: int, told: Callable[[Row], None]) -> Iterator[Rescan]:
    """The parts of a run; they end with it, however it ends."""
    rules = _rules(places)
    settings = ScanSettings(rules, places.site, partial(_read_settings, rules, places.site))
    try:
        with closing(Memory(memory_file)) as memory, ExitStack() as open_ones:

            def crew() -> Crew:
                from egressguard.scan.crew import Crew  # not loaded where nothing is out of date

                return open_ones.enter_context(closing(Crew(settings.settings, jobs, rules)))

            text = settings.text(memory)
            edition = edition_of(text, rules)
            behind = _behind(memory, edition, text)
            run = Rescan(memory, crew, memory.edition(edition), time.time, told, behind)
            yield open_ones.enter_context(closing(run))
    except RulesChanged:
        fail("the rules were changed meanwhile; the same command goes on with the new ones", Exit.TEMPORARY)
    except PermissionError as wrong:
        fail(f"{wrong.filename}: permission denied; name another file: --memory FILE", Exit.PERMISSION)
    except (sqlite3.Error, OSError) as wrong:
        fail(f"what was found cannot be remembered ({memory_file}: {wrong}); --memory FILE", Exit.TEMPORARY)
    except KeyboardInterrupt:
        click.echo("egressguard: interrupted; the same command goes on where it was", err=True)
        sys.exit(INTERRUPTED)


def _behind(memory: Memory, edition: str, settings: str) -> Behind | None:
    """None: nothing is remembered that clamd alone has news of, or it is too far away to be given descriptors."""
    others, clamd = but_for_clamd(edition), json.loads(settings)["clamd"]
    if clamd is None or not clamd["address"].startswith("unix:"):
        return None
    editions = [n for n, words in memory.editions().items() if words != edition and but_for_clamd(words) == others]
    if not editions:
        return None
    path = clamd["address"].removeprefix("unix:")
    return Behind(frozenset(editions), ClamdAgain(path, clamd["timeout_seconds"], clamd["max_octets"]))


@contextmanager
def _incidents(places: Places) -> Iterator[Callable[[Row], None]]:
    """Malware in mail that was let through is told to the journal, Prometheus and whoever watches."""
    with ExitStack() as open_ones:

        @cache
        def reporter() -> Reporter:
            from egressguard.app.incidents import Reporter  # not loaded where nothing is found

            return open_ones.enter_context(closing(Reporter(places)))

        def told(row: Row) -> None:
            if row.verdict == _CLEAN:
                return
            from egressguard.app.incidents import incidents_of

            for incident in incidents_of(row, places, time.time()):
                reporter().report(incident)
                click.echo(f"incident: {_printable(str(incident.fields['what']))}: {_printable(row.path)}", err=True)

        yield told


def _say(row: Row, *, as_json: bool) -> None:
    if as_json:
        verdict = _words_of(row.verdict, row.findings)
        where = "" if row.start is None else f'"start": {row.start}, '
        was = _words_of(row.was, row.remembered)
        sys.stdout.write(_LINE % (_quoted(row.path), *verdict, row.size, where, *was))
    elif row.verdict != _CLEAN:
        place = row.path if row.start is None else f"{row.path} at {row.start}"
        findings = ", ".join(row.findings)
        click.echo(f"{colored(row.verdict, 'red')}  {_printable(place)}  {_printable(findings)}")
    elif row.was not in {"", _CLEAN}:
        click.echo(f"{row.verdict}  {_printable(row.path)}  (was {row.was})")


_LINE = (
    f'{{"schema": {SCHEMA}, "path": %s, "verdict": %s, "findings": %s, "size_octets": %s, '
    '%s"was": %s, "remembered": %s}\n'
)
"""Filled in by hand: there may be a million of them, and all but the path are the same few words."""


@lru_cache(maxsize=1000)
def _words_of(*values: object) -> tuple[str, ...]:
    return tuple(map(json.dumps, values))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _summary(tally: dict[str, int]) -> str:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(tally.items()))
    return f"{sum(tally.values())} messages: {counts or 'none'}"


def _exit_code(tally: dict[str, int]) -> Exit:
    if any(verdict not in {_CLEAN, _ERROR} for verdict in tally):
        return Exit.FAILED
    return Exit.TEMPORARY if _ERROR in tally else Exit.OK


@contextmanager
def _progress(paths: list[str]) -> Iterator[Callable[[Row], None]]:
    """A bar by octets on a terminal's standard error."""
    if not sys.stderr.isatty():
        yield lambda _row: None
        return
    from rich.console import Console
    from rich.progress import Progress

    from egressguard.scan.sources import find_sources

    total = sum(source.status.size for path in paths for source in find_sources(path) if source.status)
    # Standard output is left alone: it may be a pipe that somebody reads JSON from.
    console = Console(stderr=True)
    with Progress(
        console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as bar:
        task = bar.add_task("scanning", total=total)
        shown_at = time.monotonic()

        def tick(row: Row) -> None:
            nonlocal shown_at
            bar.advance(task, row.size)
            if time.monotonic() - shown_at > 0.1:
                shown_at = time.monotonic()
                bar.refresh()

        yield tick
