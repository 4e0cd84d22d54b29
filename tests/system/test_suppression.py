"""The suppression list from the command line to the bounce, with the relay as its supervisor starts it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiosmtplib
import pytest
from click.testing import CliRunner

from egressguard.app.cli.main import main
from tests.smtp.fake_mx import FakeMx
from tests.system.relay_alone import RelayAlone

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

BOB = "bob@one.example"


async def command(relay: RelayAlone, *words: str) -> list[dict[str, object]]:
    places = relay.places
    where = ("--rules", str(places.rules), "--state", str(places.state), "--runtime", str(places.runtime))
    result = await asyncio.to_thread(CliRunner().invoke, main, ["suppression", *words, "--json", *where])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


async def deliver(relay: RelayAlone, *recipients: str) -> None:
    message = b"Subject: x\r\n\r\nhello\r\n"
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=relay.port, start_tls=False) as client:
        await client.sendmail("anna@two.example", list(recipients), message)
    await asyncio.to_thread(relay.drain)


def test_who_is_on_the_list_is_not_written_to_until_taken_off_it(tmp_path: Path) -> None:
    async def walk() -> None:
        mx = FakeMx()
        async with mx.listening():
            relay = RelayAlone(tmp_path, mx.port)
            try:
                await asyncio.to_thread(relay.start)
                (tmp_path / "list").write_text(f"{BOB}\n\ncarol@one.example\n")
                added = await command(relay, "add", "--from", str(tmp_path / "list"), "--why", "they asked for it")
                assert [row["address"] for row in added] == [BOB, "carol@one.example"]
                await deliver(relay, BOB, "dora@one.example")
                assert [paths for sender, paths, _ in mx.messages if "<>" not in sender] == [["dora@one.example"]]
                (notice,) = [content for sender, _, content in mx.messages if "<>" in sender]
                assert b"Status: 5.7.1" in notice
                assert b"they asked for it" in notice
                assert await command(relay, "delete", BOB) == [{"schema": 1, "deleted": BOB}]
                assert [row["address"] for row in await command(relay, "list")] == ["carol@one.example"]
                mx.messages.clear()
                await deliver(relay, BOB)
                assert [paths for _, paths, _ in mx.messages] == [[BOB]]
            finally:
                await asyncio.to_thread(relay.close)

    asyncio.run(walk())
