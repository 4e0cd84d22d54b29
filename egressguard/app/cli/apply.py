"""`egressguard apply`, `confirm`, `rollback`, `up`: a change of rules as a transaction."""

from __future__ import annotations

import asyncio
import os
import re
from typing import Any

import click

from egressguard.app.cli.options import as_json, ask_role, who, with_places
from egressguard.app.cli.output import Exit, emit_one, fail
from egressguard.app.keeping import KEEPER
from egressguard.app.places import Places

MAX_REASON = 400
_SPAN = re.compile(r"([0-9]{1,5})(s|m|h)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600}


class _Span(click.ParamType[int]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _SPAN.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r:.40} is no time; expected one such as 60s, 5m or 1h", param, ctx)
        return int(found[1]) * _SECONDS[found[2]]


@click.command("apply")
@with_places
@click.option(
    "--confirm-within",
    type=_Span(),
    help="Roll back unless `egressguard confirm` comes in this time (60s, 5m). Default: site.apply.",
)
@click.option("--force", is_flag=True, help="Take the rules although they break an expectation or an invariant.")
@click.option("--reason", default="", help="Why --force is right this time; it stands in the journal with your name.")
@as_json
def apply_command(places: Places, confirm_within: int | None, force: bool, reason: str, as_json: bool) -> None:
    """Check and test the rules directory, and let the gateway take it as one transaction.

    What the kernel, a role or a probe refuses is rolled back at once; what is not confirmed in time, too. Neither a
    crash nor a reboot keeps an unconfirmed change.

    \b
    Example:
      egressguard apply --confirm-within 60s
      egressguard confirm
    Exit codes: 0 applied, 1 refused or rolled back (the old rules are in force), 3 no gateway runs, 4 permission
    denied, 6 it takes signed rules only and these are not, or a management flow would be cut.
    """
    if force != bool(reason.strip()):
        raise click.UsageError("expected --force and --reason together: who goes past a promise says why")
    forced = {"reason": reason.strip()[:MAX_REASON], "by": who()} if force else None
    found = ask_role(places, KEEPER, "apply", confirm_within=confirm_within, forced=forced)
    if as_json:
        emit_one(found, as_json=True)
        return
    click.echo(f"revision {found['in_force']} is in force")
    if found["pending_seconds"] is not None:
        click.echo(f"it is rolled back in {found['pending_seconds']} s, unless you say: egressguard confirm")


@click.command("confirm")
@with_places
@as_json
def confirm_command(places: Places, as_json: bool) -> None:
    """Keep the rules that were applied with --confirm-within.

    \b
    Example:
      egressguard confirm
    Exit codes: 0 confirmed, 3 no gateway runs, 4 permission denied, 5 nothing waits to be confirmed.
    """
    _tell(ask_role(places, KEEPER, "confirm"), "confirmed", as_json=as_json)


@click.command("rollback")
@with_places
@as_json
def rollback_command(places: Places, as_json: bool) -> None:
    """Go back to the last confirmed rules; with nothing pending, to those confirmed before them.

    \b
    Example:
      egressguard rollback
    Exit codes: 0 rolled back, 1 refused, 3 no gateway runs, 4 permission denied, 5 there is nothing to go back to.
    """
    _tell(ask_role(places, KEEPER, "rollback"), "rolled back to", as_json=as_json)


def _tell(found: dict[str, Any], words: str, *, as_json: bool) -> None:
    if as_json:
        emit_one(found, as_json=True)
    else:
        click.echo(f"{words} revision {found['in_force']}")


@click.command("up")
@with_places
@as_json
def up_command(places: Places, as_json: bool) -> None:
    """Load the last confirmed wall into the kernel without the daemon: at boot, before the network is up.

    With none confirmed, or one that the kernel does not take, a built-in one: forwarded port 25 is closed.

    \b
    Example:
      egressguard up
    Exit codes: 0 a wall stands, 1 the kernel refused both, 4 not allowed.
    """
    from egressguard.app.generations import Generations
    from egressguard.firewall import nft
    from egressguard.firewall.render import render_closed

    generations = Generations(places.policy)
    confirmed = generations.confirmed()
    tries = [(confirmed.revision, generations.ruleset(confirmed.revision))] if confirmed else []
    for revision, text in [*tries, ("built in", render_closed())]:
        if not text:
            continue
        try:
            asyncio.run(nft.load(text, "none", 0))
        except nft.NftError as wrong:
            click.echo(f"egressguard: revision {revision}: {wrong}", err=True)
            continue
        emit_one({"revision": revision}, as_json=as_json)
        return
    fail(
        "no wall could be loaded: run this as root, with nft installed",
        Exit.PERMISSION if os.geteuid() else Exit.FAILED,
    )
