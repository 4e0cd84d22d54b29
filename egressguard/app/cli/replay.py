"""`egressguard replay`: a capture through the rules."""

from __future__ import annotations

from pathlib import Path

import click

from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import emit_rows, fail
from egressguard.app.places import Places
from egressguard.app.rules import read_rules


@click.command("replay")
@click.argument("capture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@with_places
@as_json
def replay_command(capture: Path, places: Places, as_json: bool) -> None:
    """Show what the rules would have done with the flows of a pcap or pcapng file, host by host.

    \b
    Example:
      egressguard replay monday.pcap --rules rules/
    Exit codes: 0 done, 1 faults in the rules, or not a capture.
    """
    from egressguard.firewall.replay import NotACapture, replay
    from egressguard.policy.flows import Surroundings

    loaded, _ = read_rules(places.rules)
    if loaded.policy is None:
        fail("\n".join(str(fault) for fault in loaded.faults))
    try:
        result = replay(capture, loaded.policy, Surroundings())
    except NotACapture as wrong:
        fail(str(wrong))
    columns = ("source", "action", "rule", "port", "flows")
    emit_rows(result.rows(), columns, as_json=as_json, empty="no flow begins in this capture")
    click.echo(f"{result.packets} packets read, {result.malformed} malformed", err=True)
