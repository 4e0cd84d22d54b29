"""`egressguard suggest`: rules that allow what was seen and nothing else, as a patch."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from egressguard.app.cli.options import as_json, span_seconds, with_places
from egressguard.app.cli.output import SCHEMA, Exit, fail
from egressguard.app.places import Places
from egressguard.app.rules import read_files, read_rules
from egressguard.policy.model import Policy

if TYPE_CHECKING:
    from egressguard.policy.recorded import RecordedFlow
    from egressguard.policy.suggest import Suggested


@click.command("suggest")
@with_places
@click.option("--since", default="30d", show_default=True, help="How far back: 30s, 10m, 2h, 7d.")
@click.option("--port", "ports", multiple=True, type=click.IntRange(1, 65535), help="Default: 465, 587, 2525.")
@click.option("--staged", is_flag=True, help="What was not seen is counted and journaled first, and passes.")
@as_json
def suggest_command(places: Places, since: str, ports: tuple[int, ...], staged: bool, as_json: bool) -> None:
    """Print a patch of the rule files: the hosts that were seen to submit mail may, to where they did, and no others.

    What was seen is what `site.journal.passed_flows` has journaled: let it run long enough to see the monthly report,
    too. Each suggested rule names hosts and destinations that belonged together; nothing that was seen is stopped by
    the new rules (they are tried on it first).

    \b
    Example:
      egressguard suggest --since 30d --staged >submission.patch
      cd /etc/egressguard/rules && git apply submission.patch
    Exit codes: 0 a patch, 1 nothing to suggest, or no place for it, 2 rules with faults, 4 permission denied.
    """
    from egressguard.observe.clock import local_moment
    from egressguard.policy.suggest import SUBMISSION_PORTS, suggest

    policy = _policy(places)
    passed = policy.site.journal.passed_flows
    if passed is None:
        fail("the rules do not journal what passes: set site.journal.passed_flows, apply, and wait some days")
    asked = set(ports or SUBMISSION_PORTS)
    seen_ports = sorted(asked & set(passed.port))
    if not seen_ports:
        fail(f"none of these ports is in site.journal.passed_flows: {', '.join(map(str, sorted(asked)))}")
    seen = list(_seen(places, time.time() - span_seconds(since, "--since")))
    found = suggest(policy, seen, local_moment, seen_ports, staged=staged)
    for name in found.too_many:
        click.echo(f"{name or 'flows that no rule names'}: too many hosts and destinations for a rule", err=True)
    if not found.suggestions:
        fail(f"nothing to suggest: {found.flows} connections to {', '.join(map(str, seen_ports))} were seen to pass")
    text = _patch(places, policy, found, seen)
    if as_json:
        rows = [{"before": each.before, "rules": each.rules, "flows": each.flows} for each in found.suggestions]
        click.echo(json.dumps({"schema": SCHEMA, "suggestions": rows, "flows": found.flows, "patch": text}))
    else:
        click.echo(text, nl=False)
    sys.exit(Exit.OK)


def _policy(places: Places) -> Policy:
    from egressguard.policy.load import render_faults

    loaded, files = read_rules(places.rules, places.site)
    if loaded.policy is None:
        fail(f"these rules have faults, so nothing is suggested:\n{render_faults(loaded.faults, files)}", Exit.USAGE)
    return loaded.policy


def _seen(places: Places, since: float) -> Iterator[RecordedFlow]:
    from egressguard.app.backtest import read_flows

    try:
        yield from read_flows(places, since)
    except PermissionError as wrong:
        fail(f"{wrong.filename}: permission denied; run this as root", Exit.PERMISSION)
    except sqlite3.Error as wrong:
        fail(f"the journal cannot be read: {wrong}", Exit.TEMPORARY)


def _patch(places: Places, policy: Policy, found: Suggested, seen: Sequence[RecordedFlow]) -> str:
    """The patch, tried on what was seen."""
    from egressguard.observe.clock import local_moment
    from egressguard.policy.backtest import FlowJudge, Tally, tally_flow
    from egressguard.policy.load import parse_rules
    from egressguard.policy.rule_patch import CannotPlace, patch, with_suggestions

    contents, _ = read_files(places.rules)
    files = {name: content.decode("utf-8", "replace") for name, content in contents.items()}
    try:
        after = with_suggestions(files, policy, found.suggestions)
    except CannotPlace as wrong:
        fail(f"{wrong}; --json has the rules")
    loaded = parse_rules(contents | {name: text.encode() for name, text in after.items()}, places.site)
    if loaded.policy is None:
        fail(f"the suggested rules have faults, so they are not told: {loaded.faults[0]}")
    tally, judges = Tally(), (FlowJudge(loaded.policy, local_moment), FlowJudge(policy, local_moment))
    for each in seen:
        tally_flow(tally, each, *judges)
    if not tally.is_same:
        fail("the suggested rules would change what was seen, so they are not told: name the rules' overlay (--site)?")
    return patch(files, after)
