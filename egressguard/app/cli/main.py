"""The command group; each noun is imported only when it is used, so that `queue list` starts fast."""

from __future__ import annotations

import importlib
from typing import Any

import click

from egressguard import __version__

_WHERE = {
    "run": "daemon",
    "role": "daemon",
    "down": "daemon",
    "plan": "plan",
    "apply": "apply",
    "confirm": "apply",
    "rollback": "apply",
    "up": "apply",
    "sources": "sources",
    "sendmail": "sendmail",
    "mailq": "sendmail",
    "status": "daemon",
    "check": "check",
    "journal": "journal",
    "queue": "queue",
    "quarantine": "quarantine",
    "user": "user",
    "replay": "replay",
    "backtest": "backtest",
    "suggest": "suggest",
    "scan": "scan",
    "schema": "schema",
    "limits": "limits",
    "mailbox": "mailbox",
    "backup": "backup",
    "restore": "backup",
    "suppression": "suppression",
    "test": "test",
    "explain": "explain",
    "prove": "prove",
    "trace": "trace",
    "send-test": "trace",
    "dkim": "dkim",
    "diff": "diff",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        return sorted(_WHERE)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 -- click's signature
        if cmd_name not in _WHERE:
            return None
        module = importlib.import_module(f"egressguard.app.cli.{_WHERE[cmd_name]}")
        command: Any = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        assert isinstance(command, click.Command)
        return command


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="egressguard")
def main() -> None:
    """A mail egress gateway: keeps LAN hosts from speaking SMTP to the Internet, and relays their mail.

    \b
    Examples:
      egressguard check rules/            every fault in the rule files, with its line
      egressguard prove rules/            what holds for all packets, or a packet against it
      egressguard run --rules rules/      run the whole gateway
      egressguard apply --confirm-within 60s   take changed rules; back in a minute unless confirmed
      egressguard queue list              what waits for delivery
      egressguard trace ID                a message's whole life, with all that was said
      egressguard quarantine release ID   let a held message go
      egressguard scan ~/Maildir          look for malware in mail that lies anywhere

    \b
    Exit codes: 0 done, 1 failed or faults found, 2 wrong usage, 3 the daemon does not answer,
    4 permission denied, 5 not found, 6 refused by policy, 75 temporary trouble.
    """
