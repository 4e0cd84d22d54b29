"""The queue manager with a real spool, against hosts that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import email
import itertools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.mail.outcome import Outcome, delivered, permanent, transient
from egressguard.policy.model import Policy
from egressguard.relay.attempt import Means
from egressguard.relay.metrics import RelayMetrics
from egressguard.relay.queue import Bounds, Queue
from egressguard.relay.rates import Rates
from egressguard.relay.route import AddressAnswer, Answer, MxAnswer
from egressguard.smtp.client import Patience, Peer, Sent, SmtpClient, Transaction
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, SpoolBroken, SpoolFull
from egressguard.store.journal import DIALOGUE
from egressguard.store.spool import SqliteSpool
from tests.relay.setting import Table, message_to, policy_of
from tests.smtp.fake_mx import CUT, HANG, FakeMx

B = "b@one.example"
TABLE = Table(
    {f"{name}.example": [(10, f"mx.{name}.example")] for name in ("one", "two", "three")},
    {"mx.one.example": ["127.0.0.1"], "mx.two.example": ["127.0.0.2"], "mx.three.example": ["127.0.0.3"]},
)


class Mailboxes:
    """Local delivery that notes what it was given."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.given: list[tuple[str, str, bytes]] = []
        self._outcomes = list(outcomes)

    async def deliver(self, policy: Policy, claim: Claim, due: Due, content: Content) -> Outcome:
        self.given.append((due.forward_path, claim.reverse_path, content.whole()))
        return self._outcomes.pop(0) if self._outcomes else delivered("stored")


class House:
    """A queue with all it needs. `now` is the clock; `events` what was journalled, but for the `dialogues`."""

    def __init__(
        self, directory: Path, policy: Policy, bounds: Bounds, rates: Rates | None = None, **means: Any
    ) -> None:
        self.now = 1000.0
        self.events: list[tuple[str, Mapping[str, object]]] = []
        self.dialogues: list[Mapping[str, object]] = []
        self.registry = CollectorRegistry()
        self.spool = SqliteSpool(directory)
        facts: dict[str, Any] = {"resolver": TABLE, "send": SmtpClient().send, "local": Mailboxes()}
        self.means = Means(hostname="gw.example.org", secrets=directory, **(facts | means))
        self.queue = Queue(
            self.spool,
            policy,
            self.means,
            self._record,
            RelayMetrics(self.registry),
            clock=lambda: self.now,
            bounds=bounds,
            rates=rates,
        )

    def _record(self, kind: str, fields: Mapping[str, object]) -> None:
        if kind == DIALOGUE:
            self.dialogues.append(fields)
        else:
            self.events.append((kind, fields))

    async def put(self, *paths: str, **more: Any) -> str:
        queue_id = await self.spool.put(message_to(*paths, **more))
        self.queue.wake()
        return queue_id

    async def until(self, happened: Callable[[], bool], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not happened():
                await asyncio.sleep(0.005)

    async def settled(self, count: int) -> None:
        """Until so many recipients have had an attempt settled."""
        await self.until(lambda: len(self.events) >= count)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    async def waiting(self) -> dict[str, tuple[int, float]]:
        rows = await self.spool.rows(100)
        return {r["address"]: (r["attempts"], r["next_at"]) for row in rows for r in row["recipients"]}

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"egressguard_{name}", labels)


@contextlib.asynccontextmanager
async def house(
    directory: Path, policy: Policy | None = None, bounds: Bounds | None = None, **means: Any
) -> AsyncIterator[House]:
    made = House(directory, policy or policy_of(), bounds or Bounds(), **means)
    running = asyncio.create_task(made.queue.run())
    try:
        yield made
    finally:
        await made.queue.stop(5)
        with contextlib.suppress(SpoolBroken):
            await running
        made.spool.close()


class Sender:
    """Stands where the SMTP client stands: answers by host name, waits where it is told to."""

    def __init__(self, answers: Mapping[str, Outcome] | None = None, slow: Sequence[str] = ()) -> None:
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self.now: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.gate = asyncio.Event()
        self._answers = answers or {}
        self._slow = slow

    async def __call__(self, transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
        self.now[peer.name] = self.now.get(peer.name, 0) + 1
        self.most[peer.name] = max(self.most.get(peer.name, 0), self.now[peer.name])
        self.sent.append((peer.name, transaction.forward_paths))
        try:
            await (self.gate.wait() if peer.name in self._slow else asyncio.sleep(0))
        finally:
            self.now[peer.name] -= 1
        outcome = self._answers.get(peer.name, delivered("ok", peer.name))
        return Sent(dict.fromkeys(transaction.forward_paths, outcome), begun=outcome.status != "4.4.1")


def mx_policy(port: int, **relay: Any) -> Policy:
    relay = {"delivery_port": port, "attempt_timeout_seconds": 1} | relay
    return policy_of(relay=relay)


def at_once(limit: int) -> dict[str, Any]:
    return {"concurrency": {"limit": limit}}


def test_a_message_goes_out_and_is_gone(tmp_path: Path) -> None:
    async def walk() -> None:
        mx = FakeMx()
        async with mx.listening(), house(tmp_path, mx_policy(mx.port)) as here:
            await here.put(B, "c@one.example")
            await here.settled(2)
            assert await here.spool.rows(10) == []
            assert here.kinds == ["delivery.delivered"] * 2
            (dialogue,) = here.dialogues  # once, not for each recipient
            assert dialogue["queue_id"] == here.events[0][1]["queue_id"]
            assert "[250, '2.0.0 taken']" in str([entry[1:] for entry in dialogue["said"]])  # type: ignore[attr-defined]
            assert here.metric("delivery_attempts_total", transport="mx", result="delivered") == 1
            assert here.metric("delivery_recipients_total", transport="mx", outcome="delivered") == 2
        ((_, paths, content),) = mx.messages
        assert (paths, content) == ([B, "c@one.example"], b"Subject: x\r\n\r\nhello\r\n")

    asyncio.run(walk())


def test_each_recipient_has_its_own_fate(tmp_path: Path) -> None:
    replies = {"RCPT TO:<NO@": "550 5.1.1 who", "RCPT TO:<LATER@": "450 4.2.1 later"}

    async def walk() -> None:
        mx = FakeMx(replies)
        async with mx.listening(), house(tmp_path, mx_policy(mx.port), local=None) as here:
            await here.put("no@one.example", "later@one.example", "yes@one.example", reverse_path="")
            await here.settled(3)
            assert sorted(here.kinds) == ["delivery.delivered", "delivery.permanent", "delivery.transient"]
            assert await here.waiting() == {"later@one.example": (1, 1300.0)}
            assert here.metric("delivery_attempts_total", transport="mx", result="mixed") == 1
            assert here.metric("bounces_total", kind="nobody-to-tell") == 1

    asyncio.run(walk())


@pytest.mark.parametrize("trouble", [{"DOT": CUT}, {"DOT": HANG}, {"RCPT": HANG}, {"GREETING": CUT}, {"MAIL": CUT}])
def test_what_is_in_doubt_is_tried_again(tmp_path: Path, trouble: dict[str, str]) -> None:
    async def walk() -> None:
        mx = FakeMx(dict(trouble))
        client = SmtpClient()
        quick = Patience(0.3, 0.3, 0.3, 3)

        async def send(transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
            return await client.send(transaction, peer, ehlo_name, quick)

        async with mx.listening(), house(tmp_path, mx_policy(mx.port), send=send) as here:
            await here.put(B)
            await here.settled(1)
            assert here.kinds == ["delivery.transient"]
            assert await here.waiting() == {B: (1, 1300.0)}
            mx.replies.clear()
            here.now = 1300.0
            here.queue.wake()
            await here.settled(2)
            assert here.kinds[1:] == ["delivery.delivered"]
            assert await here.spool.rows(10) == []

    asyncio.run(walk())


def test_a_refusal_comes_back_to_a_local_sender_exactly_once(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": permanent("5.1.1", "no such user", "mx.one.example")})
        boxes = Mailboxes()
        policy = policy_of(domains=["example.org"])
        async with house(tmp_path, policy, send=sender, local=boxes) as here:
            queue_id = await here.put(B)
            await here.settled(2)
            assert await here.spool.rows(10) == []
            assert here.metric("bounces_total", kind="refused") == 1
            assert here.events[0][1]["dsn"]
        ((path, reverse_path, content),) = boxes.given
        assert (path, reverse_path) == ("a@example.org", "")
        notice = email.message_from_bytes(content)
        assert notice.get_content_type() == "multipart/report"
        assert queue_id.encode() in content

    asyncio.run(walk())


def test_no_notice_is_ever_made_about_a_notice(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": permanent("5.1.1", "no"), "mx.two.example": permanent("5.1.1", "no")})
        async with house(tmp_path, send=sender) as here:
            await here.put(B, reverse_path="a@two.example")
            await here.settled(2)
            assert [host for host, _ in sender.sent] == ["mx.one.example", "mx.two.example"]
            assert await here.spool.rows(10) == []
            assert here.metric("bounces_total", kind="nobody-to-tell") == 1

    asyncio.run(walk())


def test_tries_back_off_and_end_with_a_notice(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": transient("4.4.2", "not today", "mx.one.example")})
        boxes = Mailboxes()
        retry = {"first_seconds": 100, "longest_seconds": 300, "give_up_after_seconds": 700}
        policy = policy_of(relay={"retry": retry}, domains=["example.org"])
        async with house(tmp_path, policy, send=sender, local=boxes) as here:
            await here.put(B)
            times = []
            while "delivery.expired" not in here.kinds:
                await here.settled(len(times) + 1)
                if (waiting := await here.waiting()).get(B) is None:
                    break
                here.now = waiting[B][1]
                times.append(here.now)
                here.queue.wake()
            await here.until(lambda: len(boxes.given) == 1)
            assert times == [1100.0, 1300.0, 1600.0, 1700.0]
            assert here.metric("bounces_total", kind="expired") == 1
        assert b"given up" in boxes.given[0][2]
        assert b"Status: 4.4.2" in boxes.given[0][2]

    asyncio.run(walk())


EVERYTHING = ("SUCCESS", "FAILURE", "DELAY")


@pytest.mark.parametrize("tells", [True, False])
def test_a_success_is_told_of_where_the_host_does_not(tmp_path: Path, tells: bool) -> None:
    async def walk() -> None:
        mx = FakeMx(extensions=("DSN",) if tells else ())
        boxes = Mailboxes()
        async with mx.listening():
            policy = policy_of(relay={"delivery_port": mx.port, "attempt_timeout_seconds": 5}, domains=["example.org"])
            async with house(tmp_path, policy, local=boxes) as here:
                await here.put(B, notify=EVERYTHING)
                await here.settled(1 if tells else 2)
                assert await here.spool.rows(10) == []
                assert bool(here.events[0][1]["dsn"]) == (not tells)
        relayed = [b"Action: relayed" in content for _, _, content in boxes.given]
        assert relayed == ([] if tells else [True])

    asyncio.run(walk())


def test_a_success_behind_lmtp_is_a_delivery(tmp_path: Path) -> None:
    async def walk() -> None:
        mx, boxes = FakeMx(lmtp=True), Mailboxes()
        async with mx.listening():
            route = {
                "name": "boxes",
                "match": {"recipient_domain": "one.example"},
                "via": f"lmtp:[127.0.0.1]:{mx.port}",
            }
            policy = policy_of(routes=[route], domains=["example.org"])
            async with house(tmp_path, policy, local=boxes) as here:
                await here.put(B, notify=EVERYTHING)
                await here.settled(2)
        ((_, _, told),) = boxes.given
        assert b"Action: delivered" in told

    asyncio.run(walk())


def test_a_success_in_a_mailbox_of_ours_is_told_of(tmp_path: Path) -> None:
    async def walk() -> None:
        boxes = Mailboxes()
        async with house(tmp_path, policy_of(domains=["example.org"]), local=boxes) as here:
            await here.put("b@example.org", notify=("SUCCESS",))
            await here.put("quiet@example.org", number=2)
            await here.settled(3)
        (told,) = [content for path, _, content in boxes.given if path == "a@example.org"]
        assert b"Final-Recipient: rfc822; b@example.org\r\nAction: delivered\r\n" in told

    asyncio.run(walk())


@pytest.mark.parametrize("notify", [("NEVER",), ("SUCCESS",), ("DELAY",)])
def test_a_failure_that_nobody_wants_to_hear_of_is_not_told(tmp_path: Path, notify: tuple[str, ...]) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": permanent("5.1.1", "no")})
        async with house(tmp_path, send=sender) as here:
            await here.put(B, notify=notify)
            await here.settled(1)
            assert await here.spool.rows(10) == []
            assert here.metric("bounces_total", kind="refused") == 1
            assert here.metric("bounces_total", kind="nobody-to-tell") == 1

    asyncio.run(walk())


@pytest.mark.parametrize(("notify", "wanted"), [(EVERYTHING, 1), (None, 0), (("FAILURE",), 0)])
def test_a_delay_is_told_of_once_after_hours(tmp_path: Path, notify: tuple[str, ...] | None, wanted: int) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": transient("4.4.2", "not today", "mx.one.example")})
        boxes = Mailboxes()
        retry = {"first_seconds": 3600, "longest_seconds": 3600, "give_up_after_seconds": 10 * 3600}
        policy = policy_of(relay={"retry": retry}, domains=["example.org"])
        async with house(tmp_path, policy, send=sender, local=boxes) as here:
            await here.put(B, notify=notify)
            for tries in range(1, 9):
                await here.until(lambda tries=tries: here.kinds.count("delivery.transient") == tries)  # type: ignore[misc]
                waiting = await here.waiting()
                assert len(boxes.given) <= wanted
                here.now = waiting[B][1]
                here.queue.wake()
            await here.until(lambda: len(boxes.given) == wanted)
            told = [fields["attempt"] for kind, fields in here.events if kind == "delivery.transient" and fields["dsn"]]
            assert told == [5] * wanted  # at the first attempt, and then every hour
        for _, reverse_path, content in boxes.given:
            assert reverse_path == ""
            assert b"Action: delayed\r\nStatus: 4.4.2\r\n" in content

    asyncio.run(walk())


def test_a_slow_destination_holds_up_nobody_else(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender(slow=["mx.one.example"])
        bounds = Bounds(ways_of_destination=3)
        async with house(tmp_path, policy_of(relay=at_once(2)), bounds, send=sender) as here:
            for number in range(20):
                await here.put(B, number=number)
            for number in range(20, 30):
                await here.put("c@two.example", number=number)
            await here.settled(10)
            assert here.kinds == ["delivery.delivered"] * 10
            assert sender.most["mx.one.example"] == 2
            sender.gate.set()
            await here.settled(30)
            assert await here.spool.rows(100) == []
            assert sender.most["mx.one.example"] == 2

    asyncio.run(walk())


def test_mail_for_our_own_mailboxes_is_in_hand_in_larger_numbers(tmp_path: Path) -> None:
    """A disk of ours is no host that has to be spared: what is not in hand is claimed and read once more."""
    gate = asyncio.Event()

    class Slow(Mailboxes):
        async def deliver(self, policy: Policy, claim: Claim, due: Due, content: Content) -> Outcome:
            await gate.wait()
            return await super().deliver(policy, claim, due, content)

    async def walk() -> None:
        policy = policy_of(domains=["example.org"])
        async with house(tmp_path, policy, Bounds(ways_of_destination=3), local=Slow(), send=Sender()) as here:
            await here.put(B)  # what the queue claims at its start
            await here.settled(1)
            for number in range(2, 12):
                await here.queue.put(message_to(f"b{number}@example.org", number=number))
            assert {attempts for attempts, _ in (await here.waiting()).values()} == {1}
            gate.set()
            await here.settled(11)

    asyncio.run(walk())


class Many(Table):
    """Every domain has a mail host."""

    async def resolve_mx(self, domain: str) -> MxAnswer:
        return MxAnswer(Answer.FOUND, ((10, f"mx.{domain}"),))

    async def resolve_addresses(self, host: str) -> AddressAnswer:
        return AddressAnswer(Answer.FOUND, ("192.0.2.1",))


def test_many_destinations_that_hang_hold_up_nobody_that_answers(tmp_path: Path) -> None:
    hanging = [f"hang{number}.example" for number in range(60)]

    async def walk() -> None:
        sender = Sender(slow=[f"mx.{domain}" for domain in hanging])
        async with house(tmp_path, resolver=Many(), send=sender) as here:
            numbers = itertools.count(1)
            for _ in range(10):
                for domain in hanging:
                    message = message_to(f"b@{domain}", number=next(numbers))
                    await here.queue.put(message)
            await here.until(lambda: sum(sender.now.values()) >= 60)
            for _ in range(100):
                await here.queue.put(message_to(B, number=next(numbers)))
            await here.until(lambda: len(here.events) == 100)
            assert here.kinds == ["delivery.delivered"] * 100
            assert max(sender.most[f"mx.{domain}"] for domain in hanging) <= 5
            sender.gate.set()
            await here.settled(700)
            assert await here.spool.rows(1000) == []

    asyncio.run(walk())


def test_a_destination_that_dies_rests_longer_each_time(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": transient("4.4.1", "refused")})
        retry = {"first_seconds": 1, "longest_seconds": 1}
        policy = policy_of(relay={"retry": retry, "concurrency": {"rest_first_seconds": 100}})
        async with house(tmp_path, policy, send=sender) as here:
            for number in range(20):
                await here.put(f"b{number}@one.example", number=number)
            await here.until(lambda: bool(here.queue._destinations.resting(1000.0)))
            await here.until(lambda: not here.queue._active)
            assert here.queue._destinations.resting(1000.0) == {"mx:one.example": 1100.0}
            tried = [attempts for attempts, _ in (await here.waiting()).values()]
            assert len(sender.sent) == sum(tried) and set(tried) <= {0, 1} and sum(tried) >= 5
            for at, rest in ((1100.0, 200.0), (1300.0, 400.0)):
                here.now, before = at, len(here.events)
                here.queue.wake()
                await here.settled(before + 1)
                await here.until(lambda: not here.queue._active)
                assert len(here.events) == before + 1  # one looks
                assert here.queue._destinations.resting(at) == {"mx:one.example": at + rest}

    asyncio.run(walk())


def test_a_suspended_destination_stays_so_over_a_restart_and_the_others_go_on(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender()
        async with house(tmp_path, send=sender) as here:
            await here.until(lambda: here.queue.suspensions.are_known)
            await here.queue.suspend("mx:one.example", "they asked", "anna")
            await here.queue.put(message_to(B))
            await here.queue.put(message_to("c@two.example", number=2))
            await here.settled(2)  # the order, and the message to the other
            assert here.events[0] == (
                "queue.suspended",
                {"destination": "mx:one.example", "why": "they asked", "by": "anna"},
            )
            await here.until(lambda: here.metric("queue_suspended_destinations") == 1)
        async with house(tmp_path, send=sender) as here:
            await here.put("d@two.example", number=3)
            await here.settled(1)
            assert {path: attempts for path, (attempts, _) in (await here.waiting()).items()} == {B: 0}
            assert [(o.destination, o.why, o.ordered_by) for o in here.queue.suspensions.orders] == [
                ("mx:one.example", "they asked", "anna")
            ]
            assert await here.queue.resume("mx:one.example", "bert")
            await here.settled(3)
            assert not await here.queue.resume("mx:one.example", "bert")
            assert await here.waiting() == {}
        assert [host for host, _ in sender.sent] == ["mx.two.example", "mx.two.example", "mx.one.example"]

    asyncio.run(walk())


def test_a_suspension_gives_back_what_waits_and_lets_end_what_is_tried(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender(slow=["mx.one.example"])
        async with house(tmp_path, policy_of(relay=at_once(1)), send=sender) as here:
            for number in range(3):
                await here.put(f"b{number}@one.example", number=number)
            await here.until(lambda: len(here.queue._active) == 3 and len(sender.sent) == 1)
            await here.queue.suspend("mx:one.example", "", "anna")
            await here.until(lambda: len(here.queue._active) == 1)
            sender.gate.set()
            await here.until(lambda: "delivery.delivered" in here.kinds)
            await here.until(lambda: not here.queue._active)
            assert sorted((await here.waiting()).values()) == [(0, 1000.0)] * 2
            assert len(sender.sent) == 1

    asyncio.run(walk())


def test_a_notice_and_small_mail_overtake_what_waits_for_the_same_destination(tmp_path: Path) -> None:
    large = b"x\r\n" * 100_000

    async def walk() -> None:
        sender = Sender(slow=["mx.one.example"])
        async with house(tmp_path, policy_of(relay=at_once(1)), send=sender) as here:
            await here.queue.put(message_to("first@one.example"))
            await here.until(lambda: len(sender.sent) == 1)
            await here.queue.put(replace(message_to("large@one.example", number=2), content=Content.of(large)))
            await here.queue.put(message_to("small@one.example", number=3))
            await here.queue.put(message_to("notice@one.example", number=4, reverse_path=""))
            await here.until(lambda: len(here.queue._active) == 4)
            sender.gate.set()
            await here.settled(4)
        assert [paths[0].partition("@")[0] for _, paths in sender.sent] == ["first", "notice", "small", "large"]

    asyncio.run(walk())


@pytest.mark.parametrize(
    ("reverse_path", "octets", "next_at"), [("", 100, -2600.0), ("a@b.example", 100, 940.0), ("", 300_000, 1000.0)]
)
def test_what_is_put_without_a_place_has_a_head_start(
    tmp_path: Path, reverse_path: str, octets: int, next_at: float
) -> None:
    async def walk() -> None:
        here = House(tmp_path, policy_of(), Bounds(), send=Sender())
        message = replace(message_to(B, reverse_path=reverse_path), content=Content.of(b"x" * octets))
        await here.queue.put(message)
        assert await here.waiting() == {B: (0, next_at)}
        here.spool.close()

    asyncio.run(walk())


def test_a_sender_who_did_not_ask_is_warned_once_where_the_rules_say_so(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": transient("4.4.2", "not today", "mx.one.example")})
        boxes = Mailboxes()
        retry = {"first_seconds": 3600, "longest_seconds": 3600, "warn_after_seconds": 2 * 3600}
        policy = policy_of(relay={"retry": retry}, domains=["example.org"])
        async with house(tmp_path, policy, send=sender, local=boxes) as here:
            await here.put(B)
            await here.put("c@one.example", number=2, notify=("NEVER",))
            for tries in range(1, 6):
                await here.until(lambda tries=tries: here.kinds.count("delivery.transient") == 2 * tries)  # type: ignore[misc]
                here.now += 3600
                here.queue.wake()
            await here.until(lambda: len(boxes.given) == 1)
            told = [fields["attempt"] for kind, fields in here.events if kind == "delivery.transient" and fields["dsn"]]
            assert told == [3]
        assert b"Action: delayed\r\n" in boxes.given[0][2]

    asyncio.run(walk())


def test_a_destination_gets_no_more_than_its_rate_over_a_restart(tmp_path: Path) -> None:
    slow = {"slow": {"domain": ["one.example", ".one.example"], "rate": {"recipients_per_minute": 3}}}
    policy = policy_of(destinations=slow)
    table = Table(
        {"one.example": [(10, "mx.one.example")], "a.one.example": [(10, "mx.one.example")]},
        {"mx.one.example": ["127.0.0.1"]},
    )

    async def walk() -> None:
        sender = Sender()
        async with house(tmp_path, policy, resolver=table, send=sender) as here:
            await here.queue.put(message_to(B, "c@one.example"))
            await here.queue.put(message_to("d@a.one.example", "e@a.one.example", number=2))  # too many by one
            await here.queue.put(message_to("f@a.one.example", number=3))
            await here.settled(2)
            await here.until(lambda: not here.queue._active)
            kept = json.loads(json.dumps(here.queue.turns.rates.state()))
        async with house(tmp_path, policy, resolver=table, send=sender, rates=Rates.restored(kept)) as here:
            before = len(sender.sent)
            here.now = 1059.0
            here.queue.wake()
            await here.until(lambda: here.queue.suspensions.are_known)
            assert len(sender.sent) - before <= 1  # the one recipient that there was room for
            here.now = 1130.0
            here.queue.wake()
            await here.until(lambda: sum(len(paths) for _, paths in sender.sent) == 5)
            await here.until(lambda: not here.queue._active)
            assert await here.waiting() == {}

    asyncio.run(walk())


RETRIES = [
    ({}, [], "b@one.example", 1300.0),
    ({"slow": {"domain": "one.example", "retry": {"first_seconds": 900}}}, [], "b@one.example", 1900.0),
    ({"slow": {"domain": ".example", "retry": {"first_seconds": 900}}}, [], "b@one.example", 1900.0),
    ({"slow": {"domain": "two.example", "retry": {"first_seconds": 900}}}, [], "b@one.example", 1300.0),
    (
        {"slow": {"domain": "one.example", "retry": {"first_seconds": 900}}},
        [{"name": "r", "via": "mx", "retry": {"first_seconds": 60}}],
        "b@one.example",
        1060.0,
    ),
    (
        {},
        [{"name": "r", "match": {"recipient_domain": "two.example"}, "via": "mx", "retry": {"first_seconds": 60}}],
        "b@one.example",
        1300.0,
    ),
]


@pytest.mark.parametrize(("destinations", "routes", "path", "next_at"), RETRIES)
def test_a_route_and_a_destination_have_their_own_schedule(
    tmp_path: Path, destinations: dict[str, Any], routes: list[dict[str, Any]], path: str, next_at: float
) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": transient("4.2.1", "later", "mx.one.example")})
        async with house(tmp_path, policy_of(routes=routes, destinations=destinations), send=sender) as here:
            await here.put(path)
            await here.settled(1)
            assert await here.waiting() == {path: (1, next_at)}

    asyncio.run(walk())


def test_a_slow_way_keeps_no_other_recipient_of_the_message(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender(slow=["mx.one.example"])
        async with house(tmp_path, send=sender) as here:
            await here.put(B, "c@two.example")
            await here.settled(1)
            assert list(await here.waiting()) == [B]
            sender.gate.set()
            await here.settled(2)

    asyncio.run(walk())


def test_a_silent_destination_rests_and_costs_the_others_no_attempt(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender({"mx.one.example": transient("4.4.1", "refused")})
        async with house(tmp_path, policy_of(relay=at_once(1)), send=sender) as here:
            for number in range(5):
                await here.put(f"b{number}@one.example", number=number)
            await here.settled(1)
            async with asyncio.timeout(5):
                while sorted(set((await here.waiting()).values())) != [(0, 1030.0), (1, 1300.0)]:
                    await asyncio.sleep(0.01)
            assert len(sender.sent) == 1
            assert await here.queue.retry() == 5
            await here.settled(2)
            assert len(sender.sent) >= 2

    asyncio.run(walk())


def test_stopping_gives_back_what_was_not_tried_and_waits_for_what_is(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender(slow=["mx.one.example"])
        async with house(tmp_path, policy_of(relay=at_once(1)), send=sender) as here:
            for number in range(3):
                await here.put(f"b{number}@one.example", number=number)
            await here.until(lambda: len(sender.sent) == 1)
            stopping = asyncio.create_task(here.queue.stop(5))
            await asyncio.sleep(0)
            sender.gate.set()
            await stopping
            assert here.kinds == ["delivery.delivered"]
            assert sorted((await here.waiting()).values()) == [(0, 1000.0), (0, 1000.0)]
            assert len(sender.sent) == 1

    asyncio.run(walk())


def test_a_bug_in_an_attempt_keeps_the_message_and_the_queue(tmp_path: Path) -> None:
    class Faulty:
        async def deliver(self, *_arguments: object) -> Outcome:
            raise RuntimeError("oops")

    async def walk() -> None:
        policy = policy_of(domains=["home.example"])
        async with house(tmp_path, policy, send=Sender(), local=Faulty()) as here:
            await here.put("x@home.example", B)
            await here.settled(2)
            assert sorted(here.kinds) == ["delivery.delivered", "delivery.transient"]
            assert list(await here.waiting()) == ["x@home.example"]

    asyncio.run(walk())


def test_an_outcome_is_written_when_a_full_disk_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egressguard.relay.settling.FULL_DISK_SECONDS", 0.01)

    async def walk() -> None:
        sender = Sender()
        async with house(tmp_path, send=sender) as here:
            writing, refusals = here.spool.settle, 3

            async def settle(settlement: Any) -> None:
                nonlocal refusals
                refusals -= 1
                if refusals > 0:
                    raise SpoolFull("no room")
                await writing(settlement)

            monkeypatch.setattr(here.spool, "settle", settle)
            await here.put(B)
            await here.settled(1)
            assert (len(sender.sent), await here.spool.rows(10)) == (1, [])

    asyncio.run(walk())


def test_broken_storage_ends_the_queue_so_that_the_process_starts_anew(tmp_path: Path) -> None:
    async def walk() -> None:
        here = House(tmp_path, policy_of(), Bounds(), send=Sender())
        running = asyncio.create_task(here.queue.run())
        await here.put(B)
        await here.settled(1)
        here.spool._writer.give_up(OSError(5, "Input/output error"))
        here.queue.wake()
        with pytest.raises(SpoolBroken):
            await asyncio.wait_for(running, 5)
        here.spool.close()

    asyncio.run(walk())


def test_what_a_crash_cut_off_is_tried_when_the_claim_said(tmp_path: Path) -> None:
    async def walk() -> None:
        first = SqliteSpool(tmp_path)
        await first.put(message_to(B))
        await first.claim(1000.0, 10, lambda received_at, attempts: 1300.0)
        first.close()  # nothing was settled
        sender = Sender()
        async with house(tmp_path, send=sender) as here:
            await here.put("c@two.example", number=2)
            await here.settled(1)
            assert [host for host, _ in sender.sent] == ["mx.two.example"]
            here.now = 1300.0
            here.queue.wake()
            await here.settled(2)
            assert here.events[1][1]["attempt"] == 2

    asyncio.run(walk())


def test_a_message_deleted_while_it_waits_for_a_place_is_left_alone(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender(slow=["mx.one.example"])
        async with house(tmp_path, policy_of(relay=at_once(1)), send=sender) as here:
            await here.put(B, number=1)
            second = await here.put("c@one.example", number=2)
            await here.until(lambda: len(here.queue._active) == 2)
            assert await here.spool.delete(second)
            sender.gate.set()
            await here.until(lambda: not here.queue._active)
            assert [paths for _, paths in sender.sent] == [(B,)]
            assert here.kinds == ["delivery.delivered"]

    asyncio.run(walk())


def test_the_depth_of_the_queue_is_measured(tmp_path: Path) -> None:
    async def walk() -> None:
        sender = Sender(slow=["mx.one.example"])
        async with house(tmp_path, send=sender) as here:
            await here.put(B)
            here.now = 1060.0
            await here.until(lambda: here.metric("queue_messages", queue="active") == 1)
            assert here.metric("queue_size_bytes") == 21
            assert here.metric("queue_oldest_message_age_seconds") == 60
            sender.gate.set()
            await here.settled(1)

    asyncio.run(walk())
