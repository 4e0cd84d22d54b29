"""Every limit is a key of the rules, shows in the metrics, and is counted under its name when it stops somebody."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from dataclasses import fields

import pytest

from egressguard.mail.reply import Reply
from egressguard.policy.relaying import Listener, Relay
from egressguard.policy.session_limits import SessionLimits
from egressguard.smtp.settings import LIMITS, SmtpSettings
from tests.smtp.conftest import Client, Running, Stand
from tests.smtp.test_server import WRONG, until


async def say_all(client: Client, *lines: str) -> None:
    for line in lines:
        await client.say(line)


async def two_connections(running: Running, stand: Stand) -> None:
    async with stand.client(running), stand.client(running, greeted=False) as second:
        assert (await second.rest()).startswith("421 4.7.0 ")


def of_one_client(*said: str) -> Callable[[Running, Stand], object]:
    async def walk(running: Running, stand: Stand) -> None:
        async with stand.client(running) as client:
            await say_all(client, *said)
            await client.send(b"QUIT\r\n")
            await client.rest()

    return walk


async def silence(running: Running, stand: Stand) -> None:
    async with stand.client(running) as client:
        assert (await client.rest()).startswith("421 4.4.2 ")


async def silence_in_data(running: Running, stand: Stand) -> None:
    async with stand.client(running) as client:
        await say_all(client, "HELO a.example", "MAIL FROM:<>", "RCPT TO:<anna@example.org>", "DATA")
        assert (await client.rest()).startswith("421 4.4.2 ")


async def dripping_data(running: Running, stand: Stand) -> None:
    async with stand.client(running) as client:
        await say_all(client, "HELO a.example", "MAIL FROM:<>", "RCPT TO:<anna@example.org>", "DATA")
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(10):
                while not client.reader.at_eof() and running.counted("limit_hits_total", limit="data_seconds") == 0:
                    client.writer.write(b"x")
                    await asyncio.sleep(0.01)


async def silence_in_tls(running: Running, stand: Stand) -> None:
    reader, writer = await asyncio.open_connection(*running.places["submissions"])
    assert await reader.read() == b""
    writer.close()
    await until(lambda: running.counted("active_connections") == 0)


async def wrong_password(running: Running, stand: Stand) -> None:
    async with stand.client(running, "submissions") as client:
        await say_all(client, "EHLO a.example")
        assert (await client.say(f"AUTH PLAIN {WRONG}")).startswith("421 4.7.0 ")


MESSAGE = ("HELO a.example", "MAIL FROM:<>", "RCPT TO:<anna@example.org>")


@pytest.mark.parametrize(
    ("limit", "changes", "walk"),
    [
        ("max_connections", {"max_connections": 1}, two_connections),
        ("max_connections_per_client", {"max_connections_per_client": 1}, two_connections),
        ("max_errors", {"max_errors": 1}, of_one_client("BOGUS", "BOGUS")),
        ("max_idle_commands", {"max_idle_commands": 1}, of_one_client("NOOP", "NOOP")),
        ("max_excess_recipients", {"max_excess_recipients": 1}, of_one_client(*MESSAGE, MESSAGE[2], MESSAGE[2])),
        ("max_recipients", {"max_recipients": 1}, of_one_client(*MESSAGE, "RCPT TO:<bert@example.org>")),
        ("max_message_octets", {"max_message_octets": 2000}, of_one_client("EHLO a.example", "MAIL FROM:<> SIZE=2001")),
        ("max_auth_failures", {"max_auth_failures": 1}, wrong_password),
        ("tls_handshake_seconds", {"tls_handshake_seconds": 0.05}, silence_in_tls),
        ("command_seconds", {"command_seconds": 0.05}, silence),
        ("session_seconds", {"session_seconds": -1}, of_one_client("NOOP")),
        ("data_chunk_seconds", {"data_chunk_seconds": 0.05}, silence_in_data),
        ("data_seconds", {"data_seconds": 0.2}, dripping_data),
    ],
)
def test_who_is_stopped_by_a_limit_is_counted_under_its_name(
    limit: str, changes: dict[str, float], walk: Callable[[Running, Stand], object], stand: Stand
) -> None:
    async def dialog() -> None:
        async with stand.serve(**changes) as running:
            await walk(running, stand)  # type: ignore[misc]
            assert running.counted("limit", limit=limit) == changes[limit]
            hits = {name: running.counted("limit_hits_total", limit=name) for name in LIMITS}
            assert {name for name, count in hits.items() if count} == {limit}

    asyncio.run(dialog())


def test_our_own_look_at_a_recipient_or_a_message_has_an_end_too(stand: Stand) -> None:
    async def never() -> Reply:
        await asyncio.Event().wait()
        raise AssertionError

    async def dialog() -> None:
        async with stand.serve(recipient_hook_seconds=0.05, message_hook_seconds=0.05) as running:
            async with stand.client(running) as client:
                await say_all(client, *MESSAGE)
                gate = asyncio.Event()
                running.hooks.before_message = gate.wait  # type: ignore[assignment]
                await client.say("DATA")
                assert (await client.say("."))[:3] == "451"
                gate.set()
            running.hooks.on_recipient = lambda *_: never()  # type: ignore[method-assign]
            async with stand.client(running) as client:
                await say_all(client, *MESSAGE[:2])
                assert (await client.say(MESSAGE[2]))[:3] == "451"
            for limit in ("recipient_hook_seconds", "message_hook_seconds"):
                assert running.counted("limit_hits_total", limit=limit) == 1

    asyncio.run(dialog())


def test_every_limit_of_the_rules_is_the_servers() -> None:
    changed = {name: 7 + number for number, name in enumerate(SessionLimits.model_fields)}
    settings = SmtpSettings.of(Relay(sessions=SessionLimits(**changed)), "gateway.example.org")
    assert {name: settings.limits[name] for name in changed} == changed
    assert SmtpSettings.of(Relay(), "gateway.example.org") == SmtpSettings("gateway.example.org"), (
        "two sets of defaults"
    )
    numbers = {field.name for field in fields(SmtpSettings) if field.type in {"int", "float"}}
    assert numbers == set(LIMITS), "a limit that the rules do not have"


def test_who_talks_before_the_greeting_is_refused_where_it_pauses(stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running:
            sock = socket.create_server(("127.0.0.1", 0))
            running.places["smtp"] = sock.getsockname()[:2]
            await running.server.start("world", Listener(kind="smtp", port=0, greeting_pause_seconds=1), [sock])
            async with stand.client(running, greeted=False) as early:
                await early.send(b"EHLO spammer.example\r\n")
                assert (await early.rest()).startswith("554 5.5.1 ")
            async with stand.client(running) as patient:  # the greeting comes in the end
                assert (await patient.say("HELO a.example"))[:3] == "250"
            assert running.counted("early_talkers_total", listener="world", result="refused") == 1
            assert [stage for stage, _, _ in running.hooks.refused] == ["other"]

    asyncio.run(dialog())


def test_a_pause_is_for_servers_only() -> None:
    with pytest.raises(ValueError, match="greeting_pause_seconds with kind submission"):
        Listener(kind="submission", port=0, greeting_pause_seconds=1)
