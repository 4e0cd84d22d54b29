"""Options that say which held messages are meant: the same for every command that takes many."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from egressguard.app.cli.options import span_seconds
from egressguard.app.cli.selecting import Selected


def with_held_selection(*, everything: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command what its options select; `everything`: it has to be said by --all."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("ids", nargs=-1, metavar="[ID]...")
        @click.option("--sender", "--from", "sender", metavar="ADDRESS", help='From it, "*@example.org", or "<>".')
        @click.option("--recipient", metavar="ADDRESS", help='For this address, or "*@example.org".')
        @click.option("--rule", help="Held by this rule.")
        @click.option("--verdict", help="With this verdict of the scan, such as infected or denied.")
        @click.option("--folder", help="In this folder, such as Infected.")
        @click.option("--older-than", metavar="AGE", help="Held longer ago than 30s, 10m, 2h, 7d.")
        @click.option("--newer-than", metavar="AGE", help="Held no longer ago than that.")
        @wraps(command)
        def wrapped(
            ids: tuple[str, ...],
            sender: str | None,
            recipient: str | None,
            rule: str | None,
            verdict: str | None,
            folder: str | None,
            older_than: str | None,
            newer_than: str | None,
            *,
            take_all: bool = False,
            **others: Any,
        ) -> Any:
            now = time.time()
            told: dict[str, Any] = {
                "sender": "" if sender == "<>" else sender,
                "recipient": recipient,
                "rule": rule,
                "verdict": verdict,
                "folder": folder,
                "held_before": None if older_than is None else now - span_seconds(older_than, "--older-than"),
                "held_after": None if newer_than is None else now - span_seconds(newer_than, "--newer-than"),
            }
            arguments = {key: value for key, value in told.items() if value is not None}
            is_bulk = not ids or len(ids) > 1 or bool(arguments)
            says_nothing = not ids and not arguments and not take_all
            if ids:
                arguments["ids"] = list(dict.fromkeys(ids))
            if take_all and arguments:
                raise click.UsageError("--all takes no other selection")
            return command(selected=Selected(arguments, is_bulk, says_nothing), **others)

        if everything:
            return click.option("--all", "take_all", is_flag=True, help="Every message that is held.")(wrapped)
        return wrapped

    return decorate
