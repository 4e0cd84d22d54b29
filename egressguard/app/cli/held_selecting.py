"""Options that say which held messages are meant: the same for every command that takes many."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from egressguard.app.cli.selecting import moment, selected


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
                "held_before": moment(older_than, "--older-than", now),
                "held_after": moment(newer_than, "--newer-than", now),
            }
            chosen = selected(told, "ids", ids, take_all=take_all, several_are_bulk=True)
            return command(selected=chosen, **others)

        if everything:
            return click.option("--all", "take_all", is_flag=True, help="Every message that is held.")(wrapped)
        return wrapped

    return decorate
