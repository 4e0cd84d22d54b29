"""`egressguard diff`: what other rules change, in packets and messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from egressguard.app.cli.changes import changes_json, changes_lines, changes_markdown
from egressguard.app.cli.options import as_json, as_markdown, default_places
from egressguard.app.cli.output import SCHEMA, Exit, fail, progress
from egressguard.app.revisions import Unreadable, rules_at
from egressguard.app.rules import read_rules
from egressguard.policy.load import render_faults
from egressguard.policy.model import Policy


@click.command("diff")
@click.argument("old")
@click.argument("new", required=False)
@click.option("--rules", type=click.Path(path_type=Path, file_okay=False), envvar="EGRESSGUARD_RULES")
@click.option("--site", default="", envvar="EGRESSGUARD_SITE", help="Overlay of the rules: sites/SITE/ in them.")
@as_json
@as_markdown
def diff_command(old: str, new: str | None, rules: Path | None, site: str, as_json: bool, as_markdown: bool) -> None:
    """Which packets and messages are decided otherwise by NEW than by OLD, each with one that shows it.

    OLD and NEW are directories of rules, or revisions of the git repository that they are in: REV (the rules directory
    as that commit has it) or REV:PATH. NEW left out is the rules directory (--rules, else the installed one). What
    only moves, splits or renames rules and sets changes nothing and is not told. What is told can be tried:
    `egressguard explain given '...' --rules OLD`.

    \b
    Example:
      egressguard diff HEAD~1 rules/
      egressguard diff origin/main HEAD --rules rules/ --markdown
    Exit codes: 0 nothing changes, 1 something does, 2 rules that cannot be read, or wrong usage.
    """
    where = next((Path(text) for text in (new, old) if text and Path(text).is_dir()), rules or default_places().rules)
    before, after = read_policy(old, where, site), read_policy(new or str(rules or default_places().rules), where, site)
    from egressguard.policy.difference.whole import compare

    with progress("comparing", shown=not (as_json or as_markdown)) as tick:
        found = compare(before, after, tick)
    if as_json:
        told = {"schema": SCHEMA, "same": not found, "old": before.revision, "new": after.revision}
        click.echo(json.dumps({**told, **changes_json(found)}))
    else:
        for line in changes_markdown(found) if as_markdown else changes_lines(found):
            click.echo(line)
    sys.exit(Exit.FAILED if found else Exit.OK)


def read_policy(text: str, beside: Path, site: str) -> Policy:
    """The policy of a directory or revision, or an end with exit code 2."""
    try:
        with rules_at(text, beside) as directory:
            return policy_in(directory, text, site)
    except Unreadable as wrong:
        fail(str(wrong), Exit.USAGE)


def policy_in(directory: Path, text: str, site: str) -> Policy:
    """The policy in a directory, which was asked for as `text`, or an end with exit code 2."""
    loaded, files = read_rules(directory, site, compiles=False)
    if loaded.policy is None:
        click.echo(render_faults(loaded.faults, files), err=True)
        fail(f"{text}: the rules have faults; nothing was compared", Exit.USAGE)
    return loaded.policy
