"""The commands of the suppression list, against a queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from egressguard.app.cli.main import main
from egressguard.app.control import CommandError
from egressguard.app.roles.relay_commands import suppression_commands
from tests.app.test_suspension import queue


def test_an_address_is_put_on_the_list_shown_and_taken_off(tmp_path: Path) -> None:
    async def walk() -> None:
        async with queue(tmp_path) as here:
            commands = suppression_commands(here, lambda: 1000.0)
            row = {"address": "bob@x.example", "why": "a" * 400, "since": 1000.0, "until": 4600.0}
            add, delete = commands.changes["suppression.add"], commands.changes["suppression.delete"]
            assert await add("Bob@X.example", "a" * 1000, 3600.0, "anna") == row
            assert (await add("grün@x.example", "", 0.0, "anna"))["until"] == 0.0
            assert row in await commands.reads["suppression.list"]()
            assert await delete("bob@x.example", "anna") == {"deleted": "bob@x.example"}
            with pytest.raises(CommandError, match="not on the suppression list") as told:
                await delete("bob@x.example", "anna")
            assert told.value.kind == "not-found"

    asyncio.run(walk())


@pytest.mark.parametrize("words", ["", "bob", "@x.example", "bob@x..example", "a b@x.example", "<bob@x.example>"])
def test_what_is_no_address_is_refused(tmp_path: Path, words: str) -> None:
    async def walk() -> None:
        async with queue(tmp_path) as here:
            with pytest.raises(CommandError, match="no address") as told:
                await suppression_commands(here, lambda: 0.0).changes["suppression.add"](words, "", 0.0, "anna")
            assert told.value.kind == "refused"

    asyncio.run(walk())


def test_nothing_to_add_is_a_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["suppression", "add"])
    assert result.exit_code == 2
    assert "--from FILE" in result.output
