"""Options that say which messages of the queue are meant: the same for every command that takes many."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import click

from egressguard.app.cli.options import span_seconds
from egressguard.store.selection import STATES


@dataclass(frozen=True, slots=True)
class Selected:
    """`arguments`: as the relay takes them. `is_bulk`: others than by queue ids; `says_nothing`: not even --all."""

    arguments: dict[str, Any]
    is_bulk: bool
    says_nothing: bool


def selected(
    told: Mapping[str, Any], name: str, ids: Sequence[str], *, take_all: bool, several_are_bulk: bool = False
) -> Selected:
    """What the options say (None: not given), with `ids` under their name. Raises click.UsageError."""
    arguments = {key: value for key, value in told.items() if value is not None}
    is_bulk = not ids or (several_are_bulk and (len(ids) > 1 or bool(arguments)))
    says_nothing = not ids and not arguments and not take_all
    if ids:
        arguments[name] = list(dict.fromkeys(ids))
    if take_all and arguments:
        raise click.UsageError("--all takes no other selection")
    return Selected(arguments, is_bulk, says_nothing)


def moment(age: str | None, option: str, now: float) -> float | None:
    """When it was so long ago; None: the option was not given. Raises click.UsageError."""
    return None if age is None else now - span_seconds(age, option)


def with_selection(*, everything: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command what its options select; `everything`: it has to be said by --all."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("queue_ids", nargs=-1, metavar="[QUEUE_ID]...")
        @click.option("--sender", metavar="ADDRESS", help='From this address, "*@example.org", or "<>".')
        @click.option("--recipient", metavar="ADDRESS", help='Recipients with this address, or "*@example.org".')
        @click.option(
            "--destination", metavar="NAME", help="Recipients that go there: as `queue show` says, or a domain."
        )
        @click.option("--queue", type=click.Choice(STATES), help="Never tried, tried before, being tried, held.")
        @click.option("--older-than", metavar="AGE", help="Taken longer ago than 30s, 10m, 2h, 7d.")
        @click.option("--newer-than", metavar="AGE", help="Taken no longer ago than that.")
        @wraps(command)
        def wrapped(
            queue_ids: tuple[str, ...],
            sender: str | None,
            recipient: str | None,
            destination: str | None,
            queue: str | None,
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
                "destination": destination,
                "state": queue,
                "received_before": moment(older_than, "--older-than", now),
                "received_after": moment(newer_than, "--newer-than", now),
            }
            return command(selected=selected(told, "queue_ids", queue_ids, take_all=take_all), **others)

        if everything:
            return click.option("--all", "take_all", is_flag=True, help="Every message in the queue.")(wrapped)
        return wrapped

    return decorate
