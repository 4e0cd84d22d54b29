"""What the commands about an account's own files share: its rules and its Sieve script."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from egressguard.app.cli.output import Exit, fail
from egressguard.policy.document import Fault
from egressguard.policy.load import render_faults

account_argument = click.argument("account")
file_argument = click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))


def end_with_faults(shown: str, content: bytes, faults: Sequence[Fault]) -> None:
    """Say what is wrong with a file, and end; nothing where nothing is."""
    if faults:
        click.echo(render_faults(list(faults), {shown: content}), err=True)
        sys.exit(Exit.FAILED)


def denied(directory: Path) -> NoReturn:
    fail(f"{directory}: permission denied; run this as root", Exit.PERMISSION)
