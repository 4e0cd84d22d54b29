"""`egressguard plan`: one page for whoever reviews a change of rules."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from egressguard.app.cli.options import as_json, as_markdown, ask_role, span_seconds, with_places
from egressguard.app.cli.output import SCHEMA, Exit, colored, fail, progress
from egressguard.app.places import Places

if TYPE_CHECKING:
    from egressguard.app.review import Review

SHOWN_ROWS = 20
_COLORS = {"+": "green", "-": "red"}
_FENCE = "~~~~"


@click.command("plan")
@click.argument("new", required=False)
@with_places
@click.option("--against", default="HEAD", show_default=True, help="With NEW: the rules it is compared with.")
@click.option("--since", default="7d", show_default=True, help="With NEW: how far back decisions are taken again.")
@click.option("--exit-code", is_flag=True, help="With NEW: exit code 1 also where something changes.")
@click.option("--nft/--no-nft", default=True, show_default=True, help="Without NEW: the kernel's table as a diff too.")
@as_json
@as_markdown
def plan_command(
    new: str | None,
    places: Places,
    against: str,
    since: str,
    exit_code: bool,
    nft: bool,
    as_json: bool,
    as_markdown: bool,
) -> None:
    """What a change of rules does, on one page. Changes nothing.

    With NEW (a directory, or a revision as in `diff`), for a git hook, CI and a merge request: which packets and
    messages come to another end than --against, what the decisions of the last days would have been, and the
    expectations and invariants that do not hold. Needs no daemon and no root; past decisions only where their
    journal can be read.

    Without NEW: what `apply` would change of what is in force, in the kernel's table as well; the kernel is asked
    whether it would take it.

    \b
    Example:
      egressguard plan
      egressguard plan rules/ --against origin/main --markdown
    Exit codes: 0 it could be applied, 1 faults, a broken promise, or the kernel would not take it (with --exit-code:
    or something changes), 2 wrong usage, or rules that cannot be read, 3 no gateway runs, 4 permission denied, 6 it
    takes signed rules only, and these are not.
    """
    if new is not None:
        seconds = span_seconds(since, "--since")
        found = _reviewed(new, against, places, seconds, shown=not (as_json or as_markdown))
        lines = iter((json.dumps(_as_json(found)),)) if as_json else _markdown(found) if as_markdown else _lines(found)
        for line in lines:
            click.echo(line)
        sys.exit(Exit.FAILED if not found.is_green or (exit_code and found.difference) else Exit.OK)
    if as_markdown:
        raise click.UsageError("--markdown is for a page about NEW; expected a directory or a revision before it")
    _against_the_gateway(places, nft=nft, as_json=as_json)


def _reviewed(new: str, against: str, places: Places, seconds: int, *, shown: bool) -> Review:
    from egressguard.app.cli.diff import policy_in, read_policy
    from egressguard.app.review import review
    from egressguard.app.revisions import Unreadable, rules_at

    before = read_policy(against, Path(new) if Path(new).is_dir() else places.rules, places.site)
    try:
        with rules_at(new, places.rules) as directory, progress("comparing", shown=shown) as tick:
            after = policy_in(directory, new, places.site)
            return review(before, after, directory, places, since=time.time() - seconds, tick=tick)
    except Unreadable as wrong:
        fail(str(wrong), Exit.USAGE)


def _as_json(found: Review) -> dict[str, Any]:
    from egressguard.app.cli.changes import changes_json

    past = None if found.past is None else {**found.past.summary(), "found": list(found.past.found())}
    kept = {"red": found.kept.broken, "noted": found.kept.noted, "proven": found.kept.proven}
    told = {"schema": SCHEMA, "ok": found.is_green, "same": not found.difference}
    return {**told, **changes_json(found.difference), "past": past, "not_judged": found.not_judged, **kept}


def _lines(found: Review) -> Iterator[str]:
    from egressguard.app.cli.changes import changes_lines
    from egressguard.policy.backtest import totals

    yield from changes_lines(found.difference)
    if found.past is None:
        yield _printable(f"past decisions: {found.not_judged}")
    else:
        yield f"past decisions: {totals(found.past.summary())}"
        yield from _past_rows(list(found.past.found()))
    for words in found.kept.broken:
        yield colored(words, "red")
    for words in found.kept.noted:
        yield colored(words, "yellow")
    held = f"{found.kept.proven} invariants proven"
    yield f"promises: broken, `apply` would refuse; {held}" if found.kept.broken else f"promises: all kept; {held}"


def _past_rows(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows[:SHOWN_ROWS]:
        who = " ".join(filter(None, (row["host"], row["user"])))
        sides = (f"{row[side]} by {row[f'{side}_rule'] or 'no rule'}" for side in ("before", "after"))
        yield _printable(f"  {row['change']}: {row['count']} {row['plane']}s of {who}: {' -> '.join(sides)}")
    if len(rows) > SHOWN_ROWS:
        yield f"  and {len(rows) - SHOWN_ROWS} more: egressguard backtest"


def _markdown(found: Review) -> Iterator[str]:
    from egressguard.app.cli.backtest import markdown_table, table_rows
    from egressguard.app.cli.changes import changes_markdown
    from egressguard.policy.backtest import totals

    yield from changes_markdown(found.difference)
    yield "## What past decisions would have been"
    yield ""
    if found.past is None:
        yield f"Not judged: {_printable(found.not_judged)}."
    else:
        if rows := table_rows(found.past):
            yield markdown_table(rows[:SHOWN_ROWS])
            yield ""
        yield f"{totals(found.past.summary())}."
    yield ""
    yield "## Expectations and invariants"
    yield ""
    if found.is_green:
        yield f"All are kept; {found.kept.proven} invariants are proven for all packets."
    else:
        yield "Broken: `apply` would refuse."
    yield ""
    if told := [*found.kept.broken, *found.kept.noted]:
        yield _FENCE
        yield from (_printable(line).replace(_FENCE, "~") for words in told for line in words.splitlines())
        yield _FENCE


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _against_the_gateway(places: Places, *, nft: bool, as_json: bool) -> None:
    from egressguard.app.cli.changes import changes_lines
    from egressguard.app.keeping import KEEPER
    from egressguard.firewall.textdiff import ruleset_diff
    from egressguard.policy.difference.change import Change
    from egressguard.policy.difference.whole import Difference

    found = ask_role(places, KEEPER, "plan")
    diff = ruleset_diff(found.pop("before"), found.pop("after"))
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, **found, "nft": diff}))
    else:
        if found["changes"] is None:
            click.echo("nothing is in force: all of it is new")
        else:
            changes = Difference(tuple(map(Change.of, found["changes"])), tuple(found["not_compared"]))
            for line in changes_lines(changes):
                click.echo(line)
        for line in diff if nft else ():
            click.echo(colored(line, _COLORS.get(line[:1], "white")))
        for words in found["red"]:
            click.echo(words, err=True)
        click.echo(f"revision {found['revision']}")
    if found["red"]:
        fail("promises are broken: `apply` would refuse (mend them, or --force with a --reason)")
