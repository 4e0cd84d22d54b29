"""The quarantine from the command line to the next host, with the relay as its supervisor starts it, and kills it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
from click.testing import CliRunner

from egressguard.app.cli.main import main
from egressguard.app.control import CommandError, ask
from egressguard.policy.load import parse_rules
from egressguard.quarantine.links import Grant, make_token
from tests.scan.daemons import rspamd_that_learns
from tests.smtp.fake_mx import FakeMx
from tests.system.relay_alone import RelayAlone

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

SECRET = "0123456789abcdef0123456789abcdef"
BOB, ADMIN = "bob@one.example", "admin@one.example"
CONTENT = b"Subject: held\r\n\r\nhello \xff\r\n"
WATCHES = (
    b"Subject: watches\r\n\r\nbuy these golden watches now or never again, dear customer, the offer ends tonight\r\n"
)
HOLDING = {"name": "suspicious", "match": {"sender": "*@two.example"}, "action": "quarantine", "folder": "Held"}
LINKS = {"url": "https://m.example", "secret": "file:quarantine.secret"}
DIGEST = {"daily_at": "07:00", "owners": False, "admins": ADMIN, "links": LINKS}


def started(folder: Path, port: int, **site: Any) -> RelayAlone:
    relay = RelayAlone(folder, port)
    path = relay.places.snapshot / "site.yaml"
    rules = json.loads(path.read_text())
    rules["site"] |= {"quarantine": {"digest": DIGEST}, "domains": "two.example", **site}
    rules["mail"].insert(0, HOLDING)
    path.write_text(json.dumps(rules))
    (relay.places.secrets / "quarantine.secret").write_text(SECRET + "\n")
    relay.start()
    return relay


def run(relay: RelayAlone, *words: str, status: int = 0) -> list[dict[str, object]]:
    places = relay.places
    where = ("--rules", str(places.rules), "--state", str(places.state), "--runtime", str(places.runtime))
    result = CliRunner().invoke(main, ["quarantine", *words, *where])
    assert result.exit_code == status, result.output
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


async def send(relay: RelayAlone, sender: str, count: int = 1, content: bytes = CONTENT) -> None:
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=relay.port, start_tls=False) as client:
        for _ in range(count):
            await client.sendmail(sender, [BOB], content, mail_options=["BODY=8BITMIME"])


async def told(relay: RelayAlone, *words: str, status: int = 0) -> list[dict[str, object]]:
    return await asyncio.to_thread(run, relay, *words, status=status)


async def ids(relay: RelayAlone, *words: str) -> list[str]:
    return [str(row["id"]) for row in await told(relay, "list", "--json", *words)]


def test_what_people_order_is_done_once_over_a_kill_and_without_an_index(tmp_path: Path) -> None:
    async def walk() -> None:
        mx = FakeMx()
        async with mx.listening():
            relay = await asyncio.to_thread(started, tmp_path, mx.port)
            try:
                await send(relay, "anna@two.example", 5)
                first, *others = await ids(relay, "--sender", "anna@two.example", "--rule", "suspicious")
                assert (len(others), await ids(relay, "--recipient", "*@y.example")) == (4, [])
                await told(relay, "release", first, "--to", "lab@one.example", "--why", "a look", "--json")
                await told(relay, "release", first, status=5)
                await told(relay, "release", "--all", status=6)
                (would,) = await told(relay, "release", "--from", "*@two.example", "--dry-run", "--json")
                assert (would["messages"], len(await ids(relay))) == (4, 4)

                await asyncio.to_thread(relay.drain)  # what is being sent when the relay dies is in doubt
                await asyncio.to_thread(relay.kill)
                for file in (relay.places.quarantine / "envelopes").glob("index.sqlite*"):
                    file.unlink()
                await asyncio.to_thread(relay.start)
                assert await ids(relay) == others
                await told(relay, "release", *others[:2], "--yes", "--json")
                await asyncio.to_thread(relay.drain)
                assert [paths for _, paths, _ in mx.messages] == [["lab@one.example"], [BOB], [BOB]]
                assert all(content.endswith(CONTENT) for _, _, content in mx.messages)
                (refused,) = await told(relay, "reject", others[2], "--why", "no", "--json")
                assert refused["sender_told"] is True
                await told(relay, "learn", others[3], "ham", status=6)
                assert (await told(relay, "reindex", "--json"))[0]["gone"] == 0
            finally:
                await asyncio.to_thread(relay.close)

    asyncio.run(walk())


def test_a_digest_reaches_the_admin_and_its_link_releases_once(tmp_path: Path) -> None:
    async def walk() -> None:
        mx = FakeMx()
        async with mx.listening():
            relay = await asyncio.to_thread(started, tmp_path, mx.port)
            try:
                await send(relay, "anna@two.example")
                (held,) = await ids(relay)
                assert (await told(relay, "digest", "--dry-run", "--json"))[0]["messages"] == 1
                assert mx.messages == []
                await told(relay, "digest", "--now")
                await asyncio.to_thread(relay.drain)
                ((_, paths, content),) = mx.messages
                assert paths == [ADMIN] and held.encode() in content
                token = make_token(SECRET, Grant(held, "*", ADMIN, 2**40))
                socket = relay.places.control("relay")
                looked = await asyncio.to_thread(ask, socket, "quarantine.link.look", token=token)
                assert (looked["subject"], len(await ids(relay))) == ("held", 1)
                await asyncio.to_thread(ask, socket, "quarantine.link.redeem", token=token)
                for bad in (token, token[:-2], "", 7, "x" * 5000):
                    with pytest.raises(CommandError, match=r"valid|held"):
                        await asyncio.to_thread(ask, socket, "quarantine.link.redeem", token=bad)
                await asyncio.to_thread(relay.drain)
                assert [paths for _, paths, _ in mx.messages] == [[ADMIN], [BOB]]
            finally:
                await asyncio.to_thread(relay.close)

    asyncio.run(walk())


@pytest.mark.peers
def test_what_is_held_teaches_the_real_rspamd_once(tmp_path: Path) -> None:
    async def walk(controller: str) -> None:
        rspamd = {"address": "unix:/nowhere", "controller": {"address": controller}}
        relay = await asyncio.to_thread(started, tmp_path, 9, scan={"rspamd": rspamd})
        try:
            await send(relay, "anna@two.example", content=WATCHES)
            await send(relay, "anna@two.example")
            watches, short = await ids(relay)
            (first,) = await told(relay, "learn", watches, "spam", "--json")
            (again,) = await told(relay, "learn", watches, "spam", "--json")
            assert [one["engines"] for one in (first, again)] == [{"rspamd": "learned"}, {"rspamd": "known before"}]
            (other,) = await told(relay, "learn", watches, "ham", "--why", "they are real", "--json")
            assert other["engines"] == {"rspamd": "learned"}
            await told(relay, "learn", short, "spam", status=1)  # too little in it to learn
            await told(relay, "learn", "--all", "ham", status=6)  # not confirmed
            (both,) = await told(relay, "learn", "--all", "--yes", "ham", "--json", status=1)
            assert (both["messages"], both["failed"]) == (1, 1)
            learned = {str(row["id"]): row["learned"] for row in await told(relay, "list", "--json")}
            assert learned == {watches: {"rspamd": "ham"}, short: {}}
        finally:
            await asyncio.to_thread(relay.close)

    with rspamd_that_learns() as (controller, _):
        asyncio.run(walk(controller))


def test_a_filter_that_is_away_and_a_spool_that_is_full_stop_an_order_and_say_so(tmp_path: Path) -> None:
    async def walk() -> None:
        rspamd = {"address": "unix:/nowhere", "controller": {"address": "unix:/nowhere"}}
        relay = await asyncio.to_thread(started, tmp_path, 9, scan={"rspamd": rspamd})
        try:
            await send(relay, "anna@two.example", 3)
            held = await ids(relay)
            (answer,) = await told(relay, "learn", "--all", "--yes", "spam", "--json", status=75)
            assert (answer["messages"], str(answer["stopped"]).split(":")[0]) == (0, held[0])
            await asyncio.to_thread(relay.kill)
            path = relay.places.snapshot / "site.yaml"
            rules = json.loads(path.read_text())
            rules["site"]["relay"]["free_space_reserve_octets"] = 10**15
            path.write_text(json.dumps(rules))
            await asyncio.to_thread(relay.start)
            (answer,) = await told(relay, "release", "--all", "--yes", "--json", status=75)
            assert (answer["messages"], await ids(relay)) == (0, held)
        finally:
            await asyncio.to_thread(relay.close)

    asyncio.run(walk())


@pytest.mark.parametrize("sender", ["anna@two.example", "", '"a\\"b: {x}"@two.example', "#x@two.example"])
@pytest.mark.parametrize("user", [None, "anna"])
def test_the_rule_that_allow_prints_is_a_good_one_whoever_wrote(sender: str, user: str | None) -> None:
    from egressguard.app.cli.quarantine import allowing_rule

    row = {"id": "0MWSXUK70000DWBB", "sender": sender, "user": user, "verdict": "denied", "rule": "programs"}
    text = allowing_rule({**row, "findings": ["a\n- {evil: rule}\u2028.exe"]})
    rules = "site: {zones: {lan: {networks: 10.0.0.0/8}}}\nmail:\n" + "".join(
        f"  {line}\n" for line in text.split("\n")
    )
    loaded = parse_rules({"a.yaml": rules.encode()})
    assert loaded.policy is not None, loaded.faults
    (rule,) = loaded.policy.mail
    assert (rule.action, rule.match.sender) == ("accept", (sender or "<>",))
