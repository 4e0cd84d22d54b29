"""Two smart hosts that ask for a password over TLS, and what goes wrong with the first one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.app.cli.daemon import _one_line
from egressguard.app.roles.relay_commands import commands
from egressguard.policy.model import Policy
from egressguard.quarantine.hold import Quarantine
from egressguard.relay.smart_hosts import ranked
from tests.relay.setting import Table, message_to, policy_of
from tests.relay.test_queue import House, house
from tests.smtp.fake_mx import CUT, FakeMx, make_certificate

HOSTS = Table(hosts={"first.test": ["127.0.0.1"], "second.test": ["127.0.0.1"]})


class Hosts:
    """Both, and the policy that sends everything to them."""

    def __init__(self, directory: Path) -> None:
        self.context, self.ca_file = make_certificate(directory, "first.test", "second.test")
        (directory / "isp").write_text("geheim\n")
        self.first = FakeMx(extensions=("AUTH PLAIN",), starttls=self.context)
        self.second = FakeMx(extensions=("AUTH PLAIN",), starttls=self.context)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Hosts]:
        async with self.first.listening(), self.second.listening():
            yield self

    def policy(self, *via: str, **more: Any) -> Policy:
        routes = [{"name": "all", "via": list(via or ("first", "second"))}]
        auth = {"auth": {"user": "site", "secret": "file:isp"}, "ca_file": str(self.ca_file)}
        hosts = {
            "first": {"host": "first.test", "port": self.first.port, **auth, **more.pop("first", {})},
            "second": {"host": "second.test", "port": self.second.port or 1, **auth, **more.pop("second", {})},
        }
        return policy_of(smart_hosts=hosts, routes=routes, relay={"attempt_timeout_seconds": 5} | more)


async def at(here: House, now: float) -> None:
    here.now = now
    here.queue.wake()


async def status(here: House) -> str:
    """The relay's line of `egressguard status`."""
    quarantine = Quarantine(
        here.means.secrets / "quarantine", here.spool, lambda *_: None, CollectorRegistry(), released=here.queue.wake
    )
    return _one_line({"up": True, **await commands(here.spool, here.queue, quarantine).reads["status"]()})


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    yield Hosts(tmp_path)


def test_the_first_dies_in_the_middle_of_data_and_comes_back(
    tmp_path: Path, hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    number = iter(range(1, 100))

    async def walk() -> None:
        async with hosts.second.listening(), hosts.first.listening():
            policy = hosts.policy(first={"breaker": {"failures": 2}})
            async with house(tmp_path, policy, resolver=HOSTS) as here:
                await story(here)

    async def send(here: House, count: int) -> None:
        for _ in range(count):
            n = next(number)
            await here.queue.put(message_to(f"b{n}@one.example", number=n))

    async def story(here: House) -> None:
        await send(here, 3)
        await here.settled(3)
        assert (len(hosts.first.messages), len(hosts.second.messages)) == (3, 0)
        hosts.first.replies = {"CONTENT": CUT, "GREETING": CUT}
        await send(here, 2)  # over connections that were kept, or new ones
        await here.until(lambda: here.kinds.count("delivery.transient") + len(hosts.second.messages) >= 2)
        assert all(next_at <= 1005.0 for _, next_at in (await here.waiting()).values())  # soon, not in five minutes
        await at(here, 1005.0)
        await here.until(lambda: len(hosts.second.messages) == 2)
        await send(here, 4)
        await here.until(lambda: len(hosts.second.messages) == 6)
        assert here.metric("transport_up", transport="first") == 0
        assert here.metric("transport_up", transport="second") == 1
        assert "smart host first is left alone for" in await status(here)
        assert here.kinds.count("smart_host.left_alone") == 1
        dialled = hosts.first.connections
        await send(here, 5)
        await here.until(lambda: len(hosts.second.messages) == 11)
        assert hosts.first.connections == dialled  # nobody asks it again and again
        hosts.first.replies = {}
        await at(here, 1100.0)
        await send(here, 1)
        await here.until(lambda: len(hosts.first.messages) == 4)
        await send(here, 4)
        await here.until(lambda: len(hosts.first.messages) == 8)
        assert here.metric("transport_up", transport="first") == 1
        assert "left alone" not in await status(here)
        assert here.kinds.count("smart_host.back") == 1
        await here.until(lambda: here.kinds.count("delivery.delivered") == 19)
        assert await here.spool.rows(100) == []
        assert here.metric("delivery_recipients_total", transport="second", outcome="delivered") == 11

    asyncio.run(walk())
    taken = Counter(path for host in (hosts.first, hosts.second) for _, paths, _ in host.messages for path in paths)
    assert taken == Counter({f"b{n}@one.example": 1 for n in range(1, 20)})  # nothing lost, nothing twice
    told = [record.message for record in caplog.records if record.message.startswith("a smart host")]
    assert told == ["a smart host is left alone", "a smart host is back"]


def test_a_wrong_password_defers_and_is_counted(tmp_path: Path, hosts: Hosts) -> None:
    hosts.first.replies = {"AUTH": "535 5.7.8 wrong"}

    async def walk() -> None:
        async with hosts.first.listening():
            policy = hosts.policy("first", retry={"first_seconds": 60, "longest_seconds": 60})
            async with house(tmp_path, policy, resolver=HOSTS) as here:
                await here.put("b@one.example")
                await here.settled(2)
                assert sorted(here.kinds) == ["delivery.transient", "smart_host.left_alone"]
                assert here.metric("transport_logins_refused_total", transport="first") == 1
                assert here.metric("transport_up", transport="first") == 0
                assert "535 5.7.8 wrong" in await status(here)
                for number in range(2, 6):
                    await here.queue.put(message_to(f"b{number}@one.example", number=number))
                await here.until(lambda: not here.queue._active)
                assert hosts.first.connections == 1  # no account likes to be asked again and again
                assert len(await here.waiting()) == 5
                hosts.first.replies = {}
                await at(here, 1060.0)
                await here.until(lambda: here.kinds.count("delivery.delivered") == 5)
                assert here.metric("transport_up", transport="first") == 1
                assert here.metric("bounces_total", kind="expired") == 0

    asyncio.run(walk())


def test_a_wrong_password_at_the_first_sends_mail_over_the_second_at_once(tmp_path: Path, hosts: Hosts) -> None:
    hosts.first.replies = {"AUTH": "535 5.7.8 wrong"}

    async def walk() -> None:
        async with hosts.listening(), house(tmp_path, hosts.policy(), resolver=HOSTS) as here:
            await here.put("b@one.example")
            await here.until(lambda: "delivery.delivered" in here.kinds)
            assert here.metric("transport_logins_refused_total", transport="first") == 1
            assert len(hosts.second.messages) == 1

    asyncio.run(walk())


def test_what_is_over_a_rate_waits_uncounted_and_goes_when_there_is_room(tmp_path: Path, hosts: Hosts) -> None:
    async def walk() -> None:
        async with hosts.listening():
            policy = hosts.policy(first={"rate": {"messages_per_minute": 2}})
            async with house(tmp_path, policy, resolver=HOSTS) as here:
                await at(here, 1000.0)
                for number in range(1, 6):
                    await here.queue.put(message_to(f"b{number}@one.example", number=number))
                await here.settled(2)
                await here.until(lambda: not here.queue._active)
                assert sorted({attempts for attempts, _ in (await here.waiting()).values()}) == [0]
                assert (len(hosts.first.messages), len(hosts.second.messages)) == (2, 0)  # no later rank steps in
                await at(here, 1064.0)
                assert len(await here.waiting()) == 3
                await at(here, 1065.0)
                await here.settled(4)
                await at(here, 1130.0)
                await here.settled(5)
                assert (len(hosts.first.messages), len(hosts.second.messages)) == (5, 0)

    asyncio.run(walk())


def test_an_equal_takes_what_is_over_a_rate(tmp_path: Path, hosts: Hosts) -> None:
    async def walk() -> None:
        async with hosts.listening():
            first, second = {"weight": 1000, "rate": {"messages_per_minute": 2}}, {"weight": 1}
            policy = hosts.policy(first=first, second=second)
            async with house(tmp_path, policy, resolver=HOSTS, chance=lambda: 0.1) as here:
                for number in range(1, 6):
                    await here.queue.put(message_to(f"b{number}@one.example", number=number))
                await here.settled(5)
                assert (len(hosts.first.messages), len(hosts.second.messages)) == (2, 3)

    asyncio.run(walk())


def test_a_suspended_smart_host_is_passed_over_and_a_way_without_another_waits(tmp_path: Path, hosts: Hosts) -> None:
    async def walk() -> None:
        async with hosts.listening(), house(tmp_path, hosts.policy(), resolver=HOSTS) as here:
            await here.until(lambda: here.queue.suspensions.are_known)
            await here.queue.suspend("first", "", "anna")
            await here.put("b@one.example")
            await here.until(lambda: len(hosts.second.messages) == 1)
            await here.queue.suspend("second", "", "anna")
            await here.put("c@one.example", number=2)
            await here.until(lambda: bool(here.queue._destinations.resting(here.now)))
            await here.queue.resume("first", "anna")
            await here.until(lambda: len(hosts.first.messages) == 1)

    asyncio.run(walk())


def test_a_smart_host_without_an_address_is_left_alone_like_one_that_is_silent(tmp_path: Path, hosts: Hosts) -> None:
    async def walk() -> None:
        async with hosts.listening():
            policy = hosts.policy(first={"host": "gone.test"})
            async with house(tmp_path, policy, resolver=HOSTS) as here:
                for number in range(1, 5):
                    await here.put(f"b{number}@one.example", number=number)
                await here.until(lambda: len(hosts.second.messages) == 4)
                await here.until(lambda: here.metric("transport_up", transport="first") == 0)

    asyncio.run(walk())


@pytest.mark.parametrize(
    ("weights", "chances", "order"),
    [
        ({}, [], ["a", "b", "c"]),
        ({"a": 3, "b": 1}, [0.0, 0.0], ["a", "b", "c"]),
        ({"a": 3, "b": 1}, [0.74, 0.0], ["a", "b", "c"]),
        ({"a": 3, "b": 1}, [0.75, 0.0], ["b", "a", "c"]),
        ({"b": 1, "c": 1}, [0.9, 0.0], ["a", "c", "b"]),
        ({"a": 1, "b": 1, "c": 2}, [0.5, 0.9, 0.0], ["c", "b", "a"]),
        ({"b": 9}, [0.9], ["a", "b", "c"]),  # a weight without a neighbour that has one
        ({"a": 1, "b": 1}, [1.0, 1.0], ["b", "a", "c"]),  # no chance is that great, and it breaks nothing
    ],
)
def test_neighbours_with_weights_share_by_chance(
    weights: dict[str, int], chances: list[float], order: list[str]
) -> None:
    hosts = {name: {"host": f"{name}.test"} | ({"weight": weights[name]} if name in weights else {}) for name in "abc"}
    left = iter(chances)
    ranks = ranked(["a", "b", "c"], policy_of(smart_hosts=hosts), lambda: next(left))
    assert [name for rank in ranks for name in rank] == order


def test_the_shares_are_as_the_weights_say() -> None:
    hosts = {"a": {"host": "a.test", "weight": 3}, "b": {"host": "b.test", "weight": 1}}
    policy = policy_of(smart_hosts=hosts)
    firsts = Counter(ranked(["a", "b"], policy, lambda at=at: at / 1000)[0][0] for at in range(1000))  # type: ignore[misc]
    assert firsts == {"a": 750, "b": 250}
