"""`egressguard test`: run the expectations that lie beside the rules; find rules that no expectation watches."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import click

from egressguard.app.cli.options import as_json, default_places
from egressguard.app.cli.output import SCHEMA, Exit, colored, progress
from egressguard.app.expectations import difference, load_expectations
from egressguard.app.rules import read_rules
from egressguard.policy.load import render_faults
from egressguard.policy.model import Policy
from egressguard.policy.mutate import Mutant, mutate
from egressguard.policy.trial import Result, Trial, run_trials


@click.command("test")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--site", default="", envvar="EGRESSGUARD_SITE", help="Overlay of the rules: sites/SITE/ in them.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write the results as JUnit XML too.")
@click.option("--mutate", "mutated", is_flag=True, help="Also break each rule in turn: does an expectation notice?")
@click.option("--min-score", default=100.0, show_default=True, type=click.FloatRange(0, 100), help="With --mutate.")
@as_json
def test_command(
    directory: Path | None, site: str, junit: Path | None, mutated: bool, min_score: float, as_json: bool
) -> None:
    """Run the expectations of DIRECTORY (default: the installed rules): DIRECTORY/expect/*.yaml. Needs no root.

    With --mutate each rule, limit, route and device is taken away or turned round, one at a time; what no
    expectation notices is named, with its place.

    \b
    Example:
      egressguard test rules/
      egressguard test rules/ --mutate
    Exit codes: 0 all as expected, 1 something is not (or rules nobody watches), or faults in the files.
    """
    where = directory or default_places().rules
    policy = _policy(where, site)
    loaded = load_expectations(where, policy, site)
    if loaded.faults:
        click.echo("\n".join(map(str, loaded.faults)), err=True)
        sys.exit(Exit.FAILED)
    results = list(run_trials(policy, loaded.trials))
    if junit is not None:
        junit.write_bytes(_junit(results))
    red = [result for result in results if not result.is_green]
    told: dict[str, object] = {"schema": SCHEMA, "ok": not red, "cases": len(results), "red": [_row(r) for r in red]}
    if not as_json:
        _say(results, red, where)
    score_is_low = False
    if mutated and not red:
        score_is_low = _mutate(policy, loaded.trials, min_score, told, as_json=as_json)
    if as_json:
        click.echo(json.dumps(told))
    sys.exit(Exit.FAILED if red or score_is_low else Exit.OK)


def _policy(where: Path, site: str) -> Policy:
    loaded, files = read_rules(where, site)
    if loaded.policy is None:
        click.echo(render_faults(loaded.faults, files), err=True)
        sys.exit(Exit.FAILED)
    return loaded.policy


def _say(results: Sequence[Result], red: Sequence[Result], where: Path) -> None:
    for result in red:
        first, *rest = difference(result)
        click.echo(colored(first, "red"))
        click.echo("\n".join(rest))
    if not results:
        click.echo(f"{where}: no expectations; write some into {where / 'expect'}/*.yaml")
    elif red:
        click.echo(f"{len(red)} of {len(results)} expectations are red")
    else:
        click.echo(f"{where}: ok: {len(results)} expectations")


def _mutate(
    policy: Policy, cases: Sequence[Trial], min_score: float, told: dict[str, object], *, as_json: bool
) -> bool:
    """Tell how many mutants are noticed; True when they are too few."""
    with progress("mutants", shown=not as_json) as tick:
        found = mutate(policy, cases, tick)
    told["mutants"] = found.total
    told["score_percent"] = round(found.percent, 2)
    told["survivors"] = [_survivor(mutant) for mutant in found.survivors]
    if not as_json:
        for mutant in found.survivors:
            click.echo(f"{mutant.at}: nobody notices: {mutant.section} '{mutant.rule}' {mutant.change}")
        click.echo(f"mutation score {found.percent:.1f} % ({found.total - len(found.survivors)} of {found.total})")
    return found.percent < min_score


def _survivor(mutant: Mutant) -> dict[str, str]:
    return {"section": mutant.section, "name": mutant.rule, "at": mutant.at, "change": mutant.change}


def _row(result: Result) -> dict[str, object]:
    return {
        "section": result.section,
        "name": result.name,
        "at": result.at,
        "expected": result.expected,
        "found": {key: result.found.get(key) for key in result.expected},
        "reason": result.reason,
    }


def _junit(results: Sequence[Result]) -> bytes:
    red = sum(not result.is_green for result in results)
    counts = {"tests": str(len(results)), "failures": str(red), "errors": "0"}
    top = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(top, "testsuite", {"name": "expectations", **counts})
    for result in results:
        names = {"classname": _clean(result.at), "name": _clean(result.name)}
        case = ElementTree.SubElement(suite, "testcase", names)
        if not result.is_green:
            first, *rest = difference(result)
            failure = ElementTree.SubElement(case, "failure", {"message": _clean("; ".join(map(str.strip, rest)))})
            failure.text = _clean("\n".join([first, *rest]))
    return bytes(ElementTree.tostring(top, encoding="utf-8", xml_declaration=True))


def _clean(text: str) -> str:
    """XML 1.0 has no way to say a control character."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
