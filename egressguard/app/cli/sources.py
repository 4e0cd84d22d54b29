"""`egressguard sources`: who was stopped, and who asks for mail servers."""

from __future__ import annotations

from typing import Any

import click

from egressguard.app.cli.options import as_json, ask_role, with_places
from egressguard.app.cli.output import emit_rows, timestamp
from egressguard.app.places import Places

_WHAT = {
    "flow.blocked": "blocked by",
    "flow.redirected": "sent elsewhere by",
    "flow.would": "would meet",
    "dns.mx": "asks for MX",
}


@click.command("sources")
@with_places
@as_json
def sources_command(places: Places, as_json: bool) -> None:
    """Who was stopped since the gate started: since when, how often, where to; and who asks DNS for mail servers.

    `packets` is what the kernel counted of the source in the last hour, all rules together; the other numbers are of
    packets that were logged, which is a sample under a flood. A host that asks for mail servers and is none is
    probably a bot.

    \b
    Example:
      egressguard sources
    Exit codes: 0 done, 3 the gate does not answer, 4 permission denied.
    """
    found = ask_role(places, "gate", "sources")
    rows = [{**row, "packets": found["packets"].get(row["source"], 0)} for row in found["rows"]]
    rows += [
        {"kind": "flow.blocked", "rule": "", "source": source, "packets": packets}
        for source, packets in found["packets"].items()
        if source not in {row["source"] for row in rows}
    ]
    if as_json:
        emit_rows(rows, (), as_json=True, empty="")
        return
    columns = ("source", "mac", "zones", "what", "packets", "logged", "first", "last", "where_to")
    emit_rows(map(_words, rows), columns, as_json=False, empty="nobody was stopped")


def _words(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "what": f"{_WHAT.get(row['kind'], row['kind'])} {row['rule']}".strip(),
        "logged": row.get("count", ""),
        "first": timestamp(row.get("first")),
        "last": timestamp(row.get("last")),
        "where_to": row.get("places", ()),
    }
