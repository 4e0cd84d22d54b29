"""`egressguard journal`: what the gateway decided and did, newest last."""

from __future__ import annotations

import time

import click

from egressguard.app.children import ROLES, SMTPD
from egressguard.app.cli.options import as_json, span_seconds, with_places
from egressguard.app.cli.output import Exit, emit_rows, fail, timestamp
from egressguard.app.incidents import JOURNAL
from egressguard.app.keeping import KEEPER
from egressguard.app.places import Places
from egressguard.store.journal import read_journal


@click.command("journal")
@with_places
@click.option("--since", default="1d", show_default=True, help="How far back: 30s, 10m, 2h, 7d.")
@click.option("--kind", help="Only this kind, such as flow.blocked or mail.quarantined.")
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(1, 1_000_000))
@as_json
def journal_command(places: Places, since: str, kind: str | None, limit: int, as_json: bool) -> None:
    """Show blocked flows, decisions on messages, deliveries and releases.

    \b
    Example:
      egressguard journal --since 10m --kind flow.blocked
    Exit codes: 0 done, 4 permission denied.
    """
    start = time.time() - span_seconds(since, "--since")
    paths = [places.journal(name) for name in (*(role.name for role in ROLES), SMTPD.name, KEEPER, JOURNAL)]
    try:
        rows = read_journal(paths, since=start, kind=kind, limit=limit)
    except PermissionError as wrong:
        fail(f"{wrong.filename}: permission denied; run this as root", Exit.PERMISSION)
    if as_json:
        emit_rows(rows, (), as_json=True, empty="")
        return
    words = [{"at": timestamp(r["at"]), "kind": r["kind"], "what": _rest(r)} for r in rows]
    emit_rows(words, ("at", "kind", "what"), as_json=False, empty=f"nothing in the journal since {since}")


def _rest(row: dict[str, object]) -> dict[str, object]:
    """What is not empty, moments as people write them."""
    kept = {key: value for key, value in row.items() if key not in {"at", "kind"} and value not in ("", None, [])}
    return {
        key: timestamp(value) if key in _MOMENTS and isinstance(value, float) else value for key, value in kept.items()
    }


_MOMENTS = frozenset({"first", "last"})
"""Fields that are seconds since 1970."""
