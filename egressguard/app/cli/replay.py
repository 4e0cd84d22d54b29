"""`egressguard replay`: a capture through the rules."""

from __future__ import annotations

from pathlib import Path

import click

from egressguard.app.cli.options import as_json, with_places
from egressguard.app.cli.output import emit_rows, fail, progress
from egressguard.app.places import Places
from egressguard.app.rules import read_rules


@click.command("replay")
@click.argument("capture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@with_places
@click.option("--interface", default="", help="As if it arrived there; left out = zones by their networks only.")
@as_json
def replay_command(capture: Path, places: Places, interface: str, as_json: bool) -> None:
    """Show what the rules would have done with the flows of a pcap or pcapng file, host by host, and which rule.

    SMTP on any port is recognised by what its client says first, as the kernel does; hours are those of the packets.

    \b
    Example:
      egressguard replay monday.pcap --rules rules/
    Exit codes: 0 done, 1 faults in the rules, or not a capture.
    """
    from egressguard.firewall.replay import NotACapture, replay
    from egressguard.policy.flows import Surroundings

    loaded, _ = read_rules(places.rules, places.site)
    if loaded.policy is None:
        fail("\n".join(str(fault) for fault in loaded.faults))
    try:
        with progress("packets", shown=not as_json) as tick:
            result = replay(capture, loaded.policy, Surroundings(), interface=interface, tick=tick)
    except NotACapture as wrong:
        fail(str(wrong))
    columns = ("source", "action", "rule", "at", "to", "flows")
    emit_rows(result.rows(), columns, as_json=as_json, empty="no flow begins in this capture")
    click.echo(f"{result.packets} packets read, {result.malformed} malformed", err=True)
