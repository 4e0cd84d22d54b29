"""Options that every command shares, and the way to the daemon."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from egressguard.app.cli.output import KINDS, Exit, fail
from egressguard.app.places import Places

as_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of words (stable keys).")

as_markdown = click.option("--markdown", "as_markdown", is_flag=True, help="Markdown, for a merge request.")

_SPAN = re.compile(r"(\d{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def span_seconds(text: str, option: str) -> int:
    """ "10m" in seconds, or wrong usage of that option."""
    span = _SPAN.fullmatch(text)
    if not span:
        raise click.BadParameter("expected a number and s, m, h or d, such as 10m", param_hint=option)
    return int(span[1]) * _SECONDS[span[2]]


def default_places() -> Places:
    """Root: the system's directories; anybody else: below the home directory."""
    if os.geteuid() == 0:
        return Places(Path("/etc/egressguard/rules"), Path("/var/lib/egressguard"), Path("/run/egressguard"))
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "egressguard"
    return Places(Path("/etc/egressguard/rules"), home, home / "run")


def with_places(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give `command` the Places that --rules, --state, --runtime and --site (or the environment) name."""
    folder = click.Path(path_type=Path, file_okay=False)

    @click.option("--rules", type=folder, envvar="EGRESSGUARD_RULES", help="Directory of rule files.")
    @click.option("--state", type=folder, envvar="EGRESSGUARD_STATE", help="What survives a reboot.")
    @click.option("--runtime", type=folder, envvar="EGRESSGUARD_RUNTIME", help="Sockets and the like.")
    @click.option("--site", default="", envvar="EGRESSGUARD_SITE", help="Overlay of the rules: sites/SITE/ in them.")
    @wraps(command)
    def wrapped(rules: Path | None, state: Path | None, runtime: Path | None, site: str, **others: Any) -> Any:
        usual = default_places()
        rules, state, runtime = rules or usual.rules, state or usual.state, runtime or usual.runtime
        places = Places(rules.absolute(), state.absolute(), runtime.absolute(), site)
        return command(places=places, **others)

    return wrapped


def who() -> str:
    """Who gives an order, as far as we are told: sudo says for whom it works."""
    return os.environ.get("SUDO_USER") or getpass.getuser()


def ask_role(places: Places, role: str, command: str, timeout_seconds: float = 60, /, **arguments: Any) -> Any:
    """Ask a role, or end with a documented exit code and the next thing to try."""
    from egressguard.app.control import CommandError, DaemonUnreachable, ask  # asyncio: not for those who ask nobody

    path = places.control(role)
    try:
        return ask(path, command, timeout_seconds, **arguments)
    except CommandError as wrong:
        fail(str(wrong), KINDS.get(wrong.kind, Exit.FAILED))
    except DaemonUnreachable as wrong:
        if isinstance(wrong.__cause__, PermissionError):
            fail(f"{wrong}; run this as root or as the user who runs the gateway", Exit.PERMISSION)
        fail(
            f"the {role} role does not answer ({wrong}); is `egressguard run` running? "
            "If it keeps its files elsewhere, name them: --state DIR --runtime DIR",
            Exit.UNREACHABLE,
        )
