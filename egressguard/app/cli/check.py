"""`egressguard check`: every fault of the rule files at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from egressguard.app.cli.options import as_json, default_places
from egressguard.app.cli.output import SCHEMA, Exit
from egressguard.app.provenance import provenance_of
from egressguard.app.rules import read_rules
from egressguard.policy.load import Loaded, render_faults


@click.command("check")
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--site", default="", envvar="EGRESSGUARD_SITE", help="Overlay of the rules: sites/SITE/ in them.")
@as_json
def check_command(directory: Path | None, site: str, as_json: bool) -> None:
    """Check the rule files of DIRECTORY (default: the installed rules). Needs no root.

    \b
    Example:
      egressguard check rules/
    Exit codes: 0 no fault, 1 faults (each as file:line:column: what, and what was expected).
    """
    where = directory or default_places().rules
    loaded, files = read_rules(where, site)
    if as_json:
        click.echo(json.dumps(_as_json(loaded)))
    elif loaded.policy is not None:
        click.echo(f"{where}: {_summary(loaded)}, {provenance_of(where)}")
    else:
        click.echo(render_faults(loaded.faults, files), err=True)
        click.echo(f"{len(loaded.faults)} fault(s); nothing was changed", err=True)
    sys.exit(Exit.OK if loaded.policy is not None else Exit.FAILED)


def _summary(loaded: Loaded) -> str:
    assert loaded.policy is not None
    policy = loaded.policy
    counts = [
        (len(policy.flows), "flow rules"),
        (len(policy.mail), "mail rules"),
        (len(policy.routes), "routes"),
        (len(policy.devices), "devices"),
    ]
    return f"ok: {', '.join(f'{n} {what}' for n, what in counts)}; revision {policy.revision}"


def _as_json(loaded: Loaded) -> dict[str, object]:
    faults = [{"file": f.file, "line": f.line, "column": f.column, "message": f.message} for f in loaded.faults]
    revision = loaded.policy.revision if loaded.policy else None
    return {"schema": SCHEMA, "ok": loaded.policy is not None, "revision": revision, "faults": faults}
