"""Who hears of what is held, once; and links that release to their addressee, once."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.quarantine.digest import DAY_SECONDS, Digests, last_due
from egressguard.quarantine.hold import NotFound, Quarantine
from egressguard.quarantine.links import Grant, make_token
from egressguard.quarantine.notice import TellingQuarantine
from egressguard.quarantine.refusal import is_vouched_for
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage
from egressguard.store.spool import SqliteSpool
from egressguard.store.state_file import StateFile
from tests.quarantine.test_quarantine import with_spool

SECRET = "0123456789abcdef0123456789abcdef"
RULES = """
site:
  zones: {lan: {networks: 192.0.2.0/24}}
  domains: example.org
  quarantine:
    tell_senders: Held
    digest:
      daily_at: "07:00"
      admins: admin@example.org
      links: {url: "https://m.example", secret: "file:quarantine.secret"}
mail: [{name: all, action: accept}]
"""
FACTS = {"reverse_path": "s@x.example", "rule": "r", "verdict": "", "findings": ["a.exe"], "client": "192.0.2.7"}
CONTENT = Content.of(b"Subject: =?utf-8?q?h=C3=A4?=\r\n\r\nbody\r\n")


def policy_of(text: str = RULES) -> Policy:
    loaded = parse_rules({"a.yaml": text.encode()})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


async def unsigned(_policy: Policy, message: NewMessage) -> NewMessage:
    return message


class House:
    def __init__(self, folder: Path, spool: SqliteSpool, policy: Policy) -> None:
        self.spool, self.policy, self.now = spool, policy, 1_000_000.0
        (folder / "quarantine.secret").write_text(SECRET + "\n")
        self.where = Quarantine(folder / "q", spool, lambda _k, _f: None, CollectorRegistry(), clock=lambda: self.now)
        self.folder = folder

    def digests(self) -> Digests:
        return Digests(
            self.where,
            self.spool,
            lambda: self.policy,
            StateFile(self.folder / "digest.json"),
            self.folder,
            "gw.example.org",
            sign=unsigned,
            clock=lambda: self.now,
        )

    async def hold(self, message_id: str, *recipients: str, folder: str = "Held", **facts: Any) -> None:
        told = {**FACTS, "forward_paths": list(recipients), **facts}
        await self.where.hold(message_id, folder, CONTENT, told)

    async def sent(self) -> dict[str, str]:
        """What lies in the spool, by recipient."""
        found = {}
        for row in await self.spool.rows(1000):
            for one in row["recipients"]:
                found[one["address"]] = (await self.spool.content(row["queue_id"])).whole().decode()
        return found


def walk(tmp_path: Path, work: Callable[[House], Awaitable[None]], rules: str = RULES) -> None:
    async def run(spool: SqliteSpool) -> None:
        await work(House(tmp_path, spool, policy_of(rules)))

    with_spool(tmp_path, run)


def links_in(text: str) -> list[str]:
    message = email.message_from_string(text, policy=email.policy.SMTP)
    plain = next(iter(message.iter_parts())).get_content()
    return re.findall(r"https://m\.example/release/(\S+)", plain)


async def digested(house: House) -> dict[str, str]:
    await house.digests().send_now(dry_run=False)
    return await house.sent()


@pytest.mark.parametrize(
    ("at", "now", "due"),
    [(0, 0, 0), (60, 3599, 3600 - 86400), (60, 3600, 3600), (60, 90_000, 90_000), (1439, 86_399, 86_340)],
)
def test_it_is_due_when_the_clock_last_showed_the_time(
    at: int, now: float, due: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert last_due(at, now) == due
    finally:
        monkeypatch.undo()
        time.tzset()


def test_owners_hear_of_theirs_admins_of_all_and_nobody_outside_of_anything(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold("DIGEST0001", "Anna@example.org", "out@y.example")
        await house.hold("DIGEST0002", "out@y.example", user="bert", reverse_path="bert@example.org")
        sent = await digested(house)
        assert sorted(sent) == ["admin@example.org", "anna@example.org"]
        assert ("DIGEST0001" in sent["anna@example.org"], "DIGEST0002" in sent["anna@example.org"]) == (True, False)
        assert len(links_in(sent["admin@example.org"])) == 2

    walk(tmp_path, work)


def test_it_goes_out_once_a_day_however_often_the_gateway_starts(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold("DIGEST0001", "anna@example.org")
        house.now += 10
        assert await house.digests().send_if_due() == 0  # the first start
        house.now += 10
        await house.hold("DIGEST0002", "anna@example.org")
        house.now += DAY_SECONDS
        before = (house.folder / "digest.json").read_bytes()
        assert await house.digests().send_if_due() == 2
        assert await house.digests().send_if_due() == 0
        (house.folder / "digest.json").write_bytes(before)  # as if it had crashed before that was written
        await house.digests().send_if_due()
        sent = await house.spool.rows(100)
        assert len(sent) == 2
        assert "DIGEST0001" not in (await house.sent())["anna@example.org"]
        house.now += DAY_SECONDS
        assert await house.digests().send_if_due() == 0  # nothing new

    walk(tmp_path, work)


def test_a_link_releases_to_its_addressee_only_and_once(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold("DIGEST0001", "anna@example.org", "bert@example.org")
        sent = await digested(house)
        (token,) = links_in(sent["anna@example.org"])
        digests = house.digests()
        assert await digests.look(token) == {
            "subject": "h\u00e4",
            "sender": "s@x.example",
            "held_at": 1_000_000,
            "for": "anna@example.org",
        }
        assert len(await house.spool.rows(100)) == 3  # to look changes nothing
        await digests.redeem(token)
        for again in (digests.look, digests.redeem):
            with pytest.raises(NotFound):
                await again(token)
        rows = [row for row in await house.spool.rows(100) if row["sender"] == "s@x.example"]
        assert [one["address"] for row in rows for one in row["recipients"]] == ["anna@example.org"]
        (held,) = await house.where.rows()
        assert held["released"] == ["anna@example.org"]

    walk(tmp_path, work)


def test_an_admins_link_releases_to_all_while_he_is_one(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold("DIGEST0001", "out@y.example", "anna@example.org")
        (token,) = links_in((await digested(house))["admin@example.org"])
        house.policy = policy_of(RULES.replace("admin@", "other@"))
        with pytest.raises(NotFound):
            await house.digests().redeem(token)
        house.policy = policy_of()
        await house.digests().redeem(token)
        assert await house.where.rows() == []

    walk(tmp_path, work)


def test_no_link_releases_from_a_folder_that_the_rules_do_not_name(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold("DIGEST0001", "anna@example.org", folder="Infected")
        assert links_in((await digested(house))["anna@example.org"]) == []
        token = make_token(SECRET, Grant("DIGEST0001", "anna@example.org", "anna@example.org", 2**40))
        with pytest.raises(NotFound):
            await house.digests().redeem(token)

    walk(tmp_path, work)


@pytest.mark.parametrize("address", ["bert@example.org", "*", "", "out@y.example"])
def test_a_link_for_somebody_else_grants_nothing(tmp_path: Path, address: str) -> None:
    async def work(house: House) -> None:
        await house.hold("DIGEST0001", "anna@example.org")
        token = make_token(SECRET, Grant("DIGEST0001", address, "bert@example.org", 2**40))
        with pytest.raises(NotFound):
            await house.digests().redeem(token)

    walk(tmp_path, work)


def test_without_its_secret_a_digest_has_no_links_and_no_link_is_good(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold("DIGEST0001", "anna@example.org")
        token = make_token(SECRET, Grant("DIGEST0001", "anna@example.org", "anna@example.org", 2**40))
        (house.folder / "quarantine.secret").write_text("short\n")
        assert links_in((await digested(house))["anna@example.org"]) == []
        with pytest.raises(NotFound):
            await house.digests().redeem(token)

    walk(tmp_path, work)


@pytest.mark.parametrize(
    ("folder", "facts", "told"),
    [
        ("Held", {"user": "bert", "reverse_path": "bert@example.org"}, ["bert@example.org"]),
        ("Infected", {"user": "bert", "reverse_path": "bert@example.org"}, []),
        ("Held", {"user": None, "reverse_path": "bert@example.org"}, []),
        ("Held", {"user": "bert", "reverse_path": ""}, []),
    ],
)
def test_a_sender_who_logged_in_is_told_where_the_rules_say_so(
    tmp_path: Path, folder: str, facts: dict[str, Any], told: list[str]
) -> None:
    async def work(house: House) -> None:
        telling = TellingQuarantine(
            house.where, house.spool.put, lambda: house.policy, "gw", sign=unsigned, clock=lambda: house.now
        )
        await telling.hold("DIGEST0001", folder, CONTENT, {**FACTS, "forward_paths": ["x@y.example"], **facts})
        assert list(await house.sent()) == told
        assert len(await house.where.rows()) == 1

    walk(tmp_path, work)


@pytest.mark.parametrize(
    ("sender", "user", "client", "vouched"),
    [
        ("bert@example.org", "bert", "203.0.113.9", True),
        ("bert@y.example", "bert", "203.0.113.9", True),
        ("bert@example.org", None, "192.0.2.7", True),
        ("bert@example.org", None, "127.0.0.1", True),
        ("bert@example.org", None, "203.0.113.9", False),
        ("victim@y.example", None, "192.0.2.7", False),
        ("bert@example.org", None, "", False),
    ],
)
def test_only_senders_that_we_vouch_for_hear_of_a_refusal(
    sender: str, user: str | None, client: str, vouched: bool
) -> None:
    assert is_vouched_for(policy_of(), sender, user, client) is vouched
