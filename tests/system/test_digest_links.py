"""Links of a digest over real HTTP: the console under its own user, the relay behind it, the message at its host."""

from __future__ import annotations

import asyncio
import email
import email.policy
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from egressguard.quarantine.links import Grant, make_token
from tests.lab.gateway import GROUP_ID
from tests.smtp.fake_mx import FakeMx
from tests.system.console_alone import ConsoleAlone
from tests.system.relay_alone import RelayAlone
from tests.system.test_quarantine import ADMIN, BOB, SECRET, ids, send, started, told

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

NEVER = 2**40
"""Seconds since 1970 that no test lives to see."""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """That the roles' users may look into, as pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="eg-links-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def path_of(token: str) -> str:
    return f"/release/{token}"


def link_in(digest: bytes) -> str:
    """The path of the one link in a digest's plain text."""
    body = email.message_from_bytes(digest, policy=email.policy.default).get_body(("plain",))
    assert body is not None
    (path,) = set(re.findall(r"https://m\.example(/release/[A-Za-z0-9._-]+)", body.get_content()))
    return str(path)


def others(held: str) -> dict[str, str]:
    """Links that must not work, by what is wrong with them."""
    good = make_token(SECRET, Grant(held, BOB, BOB, NEVER))
    return {
        "expired": make_token(SECRET, Grant(held, BOB, BOB, 1)),
        "tampered": good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
        "another secret": make_token("x" * 32, Grant(held, BOB, BOB, NEVER)),
        "another owner": make_token(SECRET, Grant(held, "eve@one.example", "eve@one.example", NEVER)),
        "no administrator": make_token(SECRET, Grant(held, "*", "eve@one.example", NEVER)),
        "another message": make_token(SECRET, Grant("0MWSXUK70000DWBB", BOB, BOB, NEVER)),
        "too long": "x" * 5000,
        "nothing": "x",
    }


async def walk(relay: RelayAlone, console: ConsoleAlone, mx: FakeMx) -> None:
    await send(relay, "anna@two.example")
    (held,) = await ids(relay)
    await told(relay, "digest", "--now")
    await asyncio.to_thread(relay.drain)
    ((_, _, digest),) = mx.messages
    link = link_in(digest)

    for method in ("GET", "HEAD", "GET"):  # scanners of mail fetch links before people do
        status, page = await asyncio.to_thread(console.ask, method, link)
        assert (status, method == "HEAD" or "Release it" in page) == (200, True)
    for name, token in others(held).items():
        for method in ("GET", "POST"):
            assert (await asyncio.to_thread(console.ask, method, path_of(token)))[0] == 404, (name, method)
    assert (await asyncio.to_thread(console.ask, "PUT", link))[0] == 405
    assert (await ids(relay), len(mx.messages)) == ([held], 1)

    with ThreadPoolExecutor(5) as people:
        answers = sorted(status for status, _ in people.map(lambda _: console.ask("POST", link), range(5)))
    assert answers == [200, 404, 404, 404, 404]
    assert (await asyncio.to_thread(console.ask, "GET", link))[0] == 404
    await asyncio.to_thread(relay.drain)
    assert [paths for _, paths, _ in mx.messages] == [[ADMIN], [BOB]]

    await send(relay, "anna@two.example")
    (second,) = await ids(relay)
    owners = path_of(make_token(SECRET, Grant(second, BOB, BOB, NEVER)))
    await asyncio.to_thread(relay.kill)
    assert (await asyncio.to_thread(console.ask, "POST", owners))[0] == 503
    await asyncio.to_thread(relay.start)
    if os.geteuid() == 0:
        os.chown(relay.places.control("relay"), -1, GROUP_ID)
    assert (await asyncio.to_thread(console.ask, "POST", owners))[0] == 200
    await asyncio.to_thread(relay.drain)
    assert [paths for _, paths, _ in mx.messages] == [[ADMIN], [BOB], [BOB]]


def run(folder: Path, work: object) -> None:
    assert callable(work)

    async def running() -> None:
        mx = FakeMx()
        async with mx.listening():
            relay = await asyncio.to_thread(started, folder, mx.port)
            console = ConsoleAlone(folder, relay.places)
            try:
                await asyncio.to_thread(console.start)
                await work(relay, console, mx)
            finally:
                await asyncio.to_thread(console.close)
                await asyncio.to_thread(relay.close)

    asyncio.run(running())


def test_a_link_shows_and_releases_once_and_no_other_one_does(open_folder: Path) -> None:
    run(open_folder, walk)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a role with a user of its own")
def test_the_consoles_user_may_pass_links_on_and_order_nothing_else(open_folder: Path) -> None:
    async def work(relay: RelayAlone, console: ConsoleAlone, _mx: FakeMx) -> None:
        assert console.user() not in {0, os.geteuid()}
        await send(relay, "anna@two.example")
        (held,) = await ids(relay)
        code = (
            "import sys; from pathlib import Path; from egressguard.app.control import CommandError, ask\n"
            "try: ask(Path(sys.argv[1]), 'quarantine.act', 10, verb='release', message_id=sys.argv[2], by='x')\n"
            "except CommandError as wrong: print(wrong.kind)"
        )
        words = console.as_its_user("-c", code, str(relay.places.control("relay")), held)
        said = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=False)
        assert said.stdout.strip() == "permission", said.stderr
        assert await ids(relay) == [held]

    run(open_folder, work)
