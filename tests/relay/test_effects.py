"""What rules add to a message, and what limits do to it, on its way through the relay."""

from __future__ import annotations

import email
import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from egressguard.mail.envelope import Envelope
from egressguard.mail.header import header_section
from egressguard.mail.outcome import Outcome
from egressguard.observe.clock import local_moment
from egressguard.policy.decision import MailAction
from egressguard.policy.facts import ScanReport
from egressguard.policy.model import Policy
from egressguard.policy.verdict import Verdict
from egressguard.relay.attempt import ways_of
from egressguard.relay.facts import header_facts
from egressguard.relay.notice import Notices
from egressguard.store.content import Content
from egressguard.store.interface import Due
from egressguard.store.selection import Change, Move, Selection
from tests.relay.test_accept import ANNA, CONTENT, NOW, OUT, STRANGER, Desk, desk  # noqa: F401 -- a fixture

pytestmark = pytest.mark.anyio

USERS = {"name": "users", "match": {"authenticated": True}, "action": "accept"}
INFECTED = ScanReport(Verdict.INFECTED, ("EICAR",), ())


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def policy_of(*mail: Mapping[str, Any], limits: list[Mapping[str, Any]] | None = None) -> Policy:
    site = {
        "zones": {"lan": {"networks": ["192.0.2.0/24"]}},
        "domains": ["example.org"],
        "smart_hosts": {"provider": {"host": "smtp.provider.example"}, "other": {"host": "mail.other.example"}},
        "relay": {
            "hostname": "gateway.example.org",
            "listeners": {"lan": {"kind": "smtp", "port": 0}, "submission": {"kind": "submission", "port": 0}},
        },
    }
    return Policy.model_validate({"site": site, "mail": list(mail), "limits": limits or []})


def adds(**effects: Any) -> dict[str, Any]:
    return {"name": "adds", "action": "continue", **effects}


async def send(desk: Desk, envelope: Envelope = OUT, content: bytes = CONTENT) -> str:  # noqa: F811
    return str(await desk.acceptance.on_message(ANNA, envelope, Content.of(content)))


async def test_header_fields_are_added_in_front_and_nothing_else_changes(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of(adds(add_header={"X-Site": "lab", "X-Class": "bulk; low"}), USERS)
    assert (await send(desk)).startswith("250")
    (stored,) = await desk.stored()
    message = email.message_from_bytes(stored)
    assert (message["X-Site"], message["X-Class"]) == ("lab", "bulk; low")
    assert stored.endswith(CONTENT) and stored.startswith(b"Received:")


async def test_a_held_message_waits_until_it_is_released(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of({"name": "look", "match": {"header": {"subject": "*HELLO*"}}, "action": "hold"})
    assert (await send(desk)).startswith("250")
    (row,) = await desk.spool.rows(10)
    assert [r["state"] for r in row["recipients"]] == ["held"]
    assert (await desk.spool.depth()).held == 1 and desk.counted("held") == 1
    assert await desk.spool.claim(NOW + 1, 10, lambda at, _n: at + 60) == []
    released = await desk.spool.change(Selection(), [row["queue_id"]], Change(Move.RELEASE, NOW + 2))
    assert released.recipients == {row["queue_id"]: 1}
    (claim,) = await desk.spool.claim(NOW + 3, 10, lambda at, _n: at + 60)
    assert claim.recipients == (Due("bert@example.net", 1),)


async def test_a_waiting_message_can_be_held(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of(USERS)
    await send(desk)
    (row,) = await desk.spool.rows(10)
    hold = Change(Move.HOLD, NOW)
    assert (await desk.spool.change(Selection(), [row["queue_id"]], hold)).recipients == {row["queue_id"]: 1}
    assert not (await desk.spool.change(Selection(), [row["queue_id"]], hold)).recipients
    assert await desk.spool.next_due() is None


async def test_a_user_whom_a_rule_lets_names_the_way_out(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy = policy_of(USERS | {"source_routes": ["provider", "[192.0.2.9]:2525"]})
    asked = b"X-EgressGuard-Route: [192.0.2.9]:2525\r\n" + CONTENT
    assert (await send(desk, content=asked)).startswith("250")
    (stored,) = await desk.stored()
    assert stored.endswith(asked)
    (claim,) = await desk.spool.claim(NOW, 10, lambda at, _n: at + 60)
    assert [way.via for way in ways_of(policy, claim)] == [("smtp:[192.0.2.9]:2525",)]
    reply = await send(desk, content=b"X-EgressGuard-Route: [192.0.2.8]\r\n" + CONTENT)
    assert reply.startswith("550") and "expected one of provider, [192.0.2.9]:2525" in reply


async def test_each_recipient_goes_its_rules_way(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy = policy_of(
        {
            "name": "far",
            "match": {"recipient_domain": "far.example"},
            "action": "accept",
            "route": ["provider", "other"],
        },
        {"name": "own", "match": {"recipient": "eva@example.org"}, "action": "accept", "route": ["mx"]},
        USERS,
    )
    paths = ("a@far.example", "b@near.example", "eva@example.org", "kai@example.org")
    await send(desk, Envelope("anna@example.org", paths))
    (claim,) = await desk.spool.claim(NOW, 10, lambda at, _n: at + 60)
    ways = {way.forward_paths: (way.via, way.domain) for way in ways_of(policy, claim)}
    assert ways == {
        ("a@far.example",): (("provider", "other"), ""),
        ("b@near.example",): (("mx",), "near.example"),
        ("eva@example.org",): (("mx",), "example.org"),
        ("kai@example.org",): (("local",), ""),
    }


async def test_tags_choose_a_route(desk: Desk) -> None:  # noqa: F811
    policy = policy_of(adds(tag=["bulk", "slow"]), USERS)
    site = policy.model_dump(mode="json", by_alias=True)
    routes = [{"name": "bulk", "match": {"tag": "slow"}, "via": "other"}]
    policy = policy.replace(routes=Policy.model_validate({"site": {"zones": {}}, "routes": routes}).routes)
    assert site and policy.routes
    desk.acceptance.policy = policy
    await send(desk)
    (claim,) = await desk.spool.claim(NOW, 10, lambda at, _n: at + 60)
    assert claim.tags == ("bulk", "slow")
    assert [way.via for way in ways_of(policy, claim)] == [("other",)]


async def test_a_quarantined_message_keeps_its_way_and_tags_until_release(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of(
        adds(route=["provider"], tag="bulk"), {"name": "bad", "match": {"verdict": "infected"}, "action": "quarantine"}
    )
    desk.scanner.report = INFECTED
    await send(desk)
    (held,) = await desk.quarantine.rows()
    await desk.quarantine.release(held["id"], "root")
    (claim,) = await desk.spool.claim(NOW * 2, 10, lambda at, _n: at + 60)
    assert (claim.tags, claim.recipients) == (("bulk",), (Due("bert@example.net", 1, ("provider",)),))


async def test_whom_a_rule_names_is_told_once_a_minute(desk: Desk) -> None:  # noqa: F811
    rule = {"name": "bad", "match": {"verdict": "infected"}, "action": "reject", "notify": "root@example.org"}
    desk.acceptance.policy = policy_of(rule)
    desk.scanner.report = replace(INFECTED, findings=("EICAR\r\nin evil\u202ename",))
    assert [(await send(desk))[:3] for _ in range(3)] == ["550"] * 3
    (notice,) = await desk.stored()
    message = email.message_from_bytes(notice)
    assert message["To"] == "<root@example.org>" and message["Auto-Submitted"] == "auto-generated"
    text = message.get_payload(decode=True)
    assert isinstance(text, bytes) and b"EICAR??in evil" in text and b"reject by rule bad" in text
    (claim,) = await desk.spool.claim(NOW, 10, lambda at, _n: at + 60)
    assert claim.reverse_path == ""


def test_notices_say_how_many_were_left_out() -> None:
    notices = Notices()
    assert [notices.due("r", "a@x", at) for at in (0.0, 1.0, 59.0, 60.0, 61.0)] == [0, None, None, 2, None]
    assert notices.due("r", "b@x", 1.0) == 0


async def test_a_staged_rule_decides_nothing_and_is_told(desk: Desk) -> None:  # noqa: F811
    rule = {"name": "try", "match": {"authenticated": True}, "action": "reject", "staged": True}
    desk.acceptance.policy = policy_of(rule, USERS)
    assert (await send(desk)).startswith("250")
    kind, fields = desk.journal[-1]
    assert (kind, fields["would"]) == ("mail.accepted", ["try: reject"])
    labels = {"rule": "try", "action": "reject"}
    assert desk.registry.get_sample_value("egressguard_policy_staged_matches_total", labels) == 1


LIMIT = {"name": "few", "per": "user", "messages_per_hour": 2}


async def test_above_a_limit_mail_is_deferred_at_rcpt_and_after_data(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of(USERS | {"limit": "few"}, limits=[LIMIT])
    assert [(await send(desk))[:3] for _ in range(3)] == ["250", "250", "451"]
    reply = desk.acceptance.on_recipient(ANNA, "anna@example.org", "bert@example.net", None)
    assert str(reply).startswith("451") and "3 messages_per_hour for user anna, 2 are allowed" in reply.text
    hits = desk.registry.get_sample_value("egressguard_relay_limit_hits_total", {"limit": "few", "action": "defer"})
    assert hits == 2


@pytest.mark.parametrize(("above", "code"), [("reject", "550"), ("defer", "451"), ("quarantine", "250")])
async def test_what_happens_above_a_limit(desk: Desk, above: str, code: str) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of(USERS | {"limit": "few"}, limits=[LIMIT | {"above": above}])
    codes = [(await send(desk))[:3] for _ in range(3)]
    assert codes == ["250", "250", code]
    assert len(await desk.quarantine.rows()) == (above == "quarantine")


async def test_a_host_above_the_limit_is_contained(desk: Desk) -> None:  # noqa: F811
    limit = {"name": "few", "per": "host", "refusals_per_hour": 2, "above": "contain", "contain_seconds": 60}
    desk.acceptance.policy = policy_of(adds(limit="few"), limits=[limit])
    replies = [str(desk.acceptance.on_recipient(STRANGER, "", "bert@example.net", None)) for _ in range(5)]
    assert [reply[:3] for reply in replies] == ["550", "550", "550", "451", "451"]
    assert "shut out for 60 seconds" in replies[-1]
    other = replace(STRANGER, client=ipaddress.IPv4Address("192.0.2.8"))
    assert str(desk.acceptance.on_recipient(other, "", "bert@example.net", None)).startswith("550")


async def test_a_staged_limit_stops_nothing(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of(USERS | {"limit": "few"}, limits=[LIMIT | {"staged": True}])
    assert [(await send(desk))[:3] for _ in range(3)] == ["250"] * 3
    assert desk.journal[-1][1]["would"] == ["limit few: defer"]


async def test_a_rule_can_ask_whether_a_limit_is_exceeded(desk: Desk) -> None:  # noqa: F811
    over = {"name": "over", "match": {"over_limit": "few"}, "action": "hold"}
    desk.acceptance.policy = policy_of(over, USERS | {"limit": "few"}, limits=[LIMIT])
    for _ in range(3):
        await send(desk)
    states = [r["state"] for row in await desk.spool.rows(10) for r in row["recipients"]]
    assert sorted(states) == ["held", "queued", "queued"]


async def test_limits_that_cannot_be_counted_are_our_trouble(desk: Desk) -> None:  # noqa: F811
    desk.acceptance.policy = policy_of(USERS | {"limit": "few"}, limits=[LIMIT])
    desk.acceptance._limits.close()  # type: ignore[attr-defined]
    assert (await send(desk)).startswith("451")
    reply = desk.acceptance.on_recipient(ANNA, "anna@example.org", "bert@example.net", None)
    assert str(reply).startswith("451")


def test_header_facts_are_decoded_and_bounded() -> None:
    content = b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n folded\r\nX-A: 1\r\nx-a: 2\r\n\r\nX-Body: no\r\n"
    assert header_facts(header_section(content)) == {"subject": ("Gr\u00fc\u00dfe folded",), "x-a": ("1", "2")}
    assert len(header_facts(b"".join(b"X-%d: y\r\n" % n for n in range(5000)))) == 1000
    assert len(header_facts(b"A: " + b"x" * 100_000 + b"\r\n\r\n")["a"][0]) <= 8192


def test_the_moment_is_local_time() -> None:
    moment = local_moment(NOW)
    assert 0 <= moment.weekday <= 6 and 0 <= moment.minute < 1440
    assert MailAction.HOLD.value == "hold" and Outcome is not None
