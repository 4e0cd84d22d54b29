"""Names of hosts: asked in the background, answered from what is known, never a fault of the packet plane."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import dns.resolver
import pytest

from egressguard.firewall import names
from egressguard.firewall.names import Names
from tests.firewall.conftest import SECONDS, local_program

NAME, ADDRESSES = "mx.partner.example", ("198.51.100.25", "2001:db8:100::25")
KNOWN = frozenset(map(ip_address, ADDRESSES))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A name server on the loopback; its TTL is a day."""
    program = local_program("tests.firewall.run_names", "127.0.0.1", "0", NAME, *ADDRESSES)
    yield f"127.0.0.1:{program.wait('ready')}"
    program.end()


async def learn(known: Names, name: str) -> frozenset[object] | None:
    """Ask, wait until the question under way is answered, ask again."""
    known.addresses_of(name)
    asking = known._known[name].asking
    assert asking is not None
    await asyncio.wait_for(asking, SECONDS)
    return known.addresses_of(name)


def test_the_first_question_is_open_and_the_second_answered(server: str) -> None:
    async def play() -> None:
        known = Names([server], Clock())
        assert known.addresses_of(NAME) is None
        assert await learn(known, NAME) == KNOWN

    asyncio.run(play())


def test_a_name_that_does_not_exist_has_no_address(server: str) -> None:
    assert asyncio.run(learn(Names([server], Clock()), "nobody.example")) == frozenset()


def test_a_ttl_of_days_is_asked_again_after_an_hour_and_serves_meanwhile(server: str) -> None:
    async def play() -> None:
        clock = Clock()
        known = Names([server], clock)
        await learn(known, NAME)
        clock.now += names.MAX_SECONDS - 1
        assert known.addresses_of(NAME) and known._known[NAME].asking is None
        clock.now += 2
        assert await learn(known, NAME) == KNOWN
        clock.now += names.MAX_SECONDS + names.STALE_SECONDS
        assert known.addresses_of(NAME) is None, "too old to be believed"
        assert await learn(known, NAME) == KNOWN

    asyncio.run(play())


def test_silence_is_not_known_and_asked_again(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "LIFETIME_SECONDS", 0.2)

    async def play() -> None:
        clock = Clock()
        known = Names(["127.0.0.1:1"], clock)
        assert await learn(known, NAME) is None
        clock.now += 1
        assert known.addresses_of(NAME) is None
        assert known._known[NAME].asking is not None
        known.close()

    asyncio.run(play())


def test_a_machine_without_resolvers_still_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_configuration(*_arguments: object) -> None:
        raise dns.resolver.NoResolverConfiguration

    monkeypatch.setattr(dns.resolver.BaseResolver, "read_resolv_conf", no_configuration)

    async def play() -> None:
        assert await learn(Names([], Clock()), NAME) is None

    asyncio.run(play())


def test_rules_cannot_make_the_gate_remember_names_without_end(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_NAMES", 3)

    async def play() -> None:
        known = Names([server], Clock())
        for number in range(10):
            known.addresses_of(f"h{number}.example")
        assert len(known._known) == 3
        known.close()

    asyncio.run(play())
