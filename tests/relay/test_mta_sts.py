"""What is kept of MTA-STS policies, when they are fetched anew, and what nobody can take away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from egressguard.relay import mta_sts
from egressguard.relay.dns import TextAnswer
from egressguard.relay.mta_sts import QUIET_SECONDS, REFRESH_SECONDS, MtaSts, Sts
from egressguard.relay.route import AddressAnswer, Answer
from egressguard.relay.sts_fetch import FetchFailed

DOMAIN = "example.net"
WEEK = 7 * 86400


def text(mode: str = "enforce", max_age: int = WEEK, mx: str = "mx.example.net") -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {max_age}\n".encode()


@dataclass
class World:
    """DNS and a web server that can be changed, and a clock."""

    directory: Path | None = None
    id: str | None = "1"
    dns: Answer = Answer.FOUND
    policy: bytes | FetchFailed = field(default_factory=text)
    now: float = 1_000_000.0
    fetched: int = 0

    def start(self) -> MtaSts:
        sts = MtaSts(self, self.directory, fetch=self.fetch, clock=lambda: self.now)
        sts.load()
        return sts

    async def resolve_text(self, name: str) -> TextAnswer:
        assert name.startswith("_mta-sts.")
        if self.id is None or self.dns is not Answer.FOUND:
            return TextAnswer(self.dns if self.dns is not Answer.FOUND else Answer.NOTHING)
        return TextAnswer(Answer.FOUND, (f"v=STSv1; id={self.id};".encode(),))

    async def resolve_addresses(self, host: str) -> AddressAnswer:
        return AddressAnswer(Answer.NOTHING)

    async def fetch(self, domain: str, _lookups: object, _ca_file: str | None) -> bytes:
        self.fetched += 1
        await asyncio.sleep(0)
        if isinstance(self.policy, FetchFailed):
            raise self.policy
        return self.policy


def walk(steps: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(steps())  # type: ignore[arg-type]


def mode(found: Sts) -> str:
    return found.policy.mode if found.policy else f"none, {found.fault}"


@pytest.mark.parametrize(
    ("world", "wanted"),
    [
        (World(), "enforce"),
        (World(policy=text("testing")), "testing"),
        (World(id=None), "none, "),
        (World(dns=Answer.FAILED), "none, "),
        (World(policy=b"rubbish"), "none, sts-policy-invalid"),
        (World(policy=FetchFailed("no")), "none, sts-policy-fetch-error"),
        (World(policy=FetchFailed("no", "sts-webpki-invalid")), "none, sts-webpki-invalid"),
    ],
)
def test_what_holds_for_a_domain_that_nobody_knows_yet(world: World, wanted: str) -> None:
    async def steps() -> None:
        assert mode(await world.start().policy_for(DOMAIN)) == wanted

    walk(steps)


@pytest.mark.parametrize("trouble", ["dns", "record", "web", "rubbish"])
def test_nobody_can_take_a_policy_away_by_blocking_it(trouble: str) -> None:
    async def steps() -> None:
        world = World()
        sts = world.start()
        await sts.policy_for(DOMAIN)
        world.now += REFRESH_SECONDS + 1
        if trouble == "dns":
            world.dns = Answer.FAILED
        elif trouble == "record":
            world.id = None
        else:
            world.id, world.policy = "2", FetchFailed("no") if trouble == "web" else b"rubbish"
        assert mode(await sts.policy_for(DOMAIN)) == "enforce"
        world.now += WEEK
        assert mode(await sts.policy_for(DOMAIN)).startswith("none"), "its time is over"

    walk(steps)


@pytest.mark.parametrize(
    ("later", "new_id", "fetches"),
    [(60.0, "1", 1), (60.0, "2", 2), (REFRESH_SECONDS - 1, "1", 1), (REFRESH_SECONDS + 1, "1", 2)],
)
def test_when_it_is_fetched_anew(later: float, new_id: str, fetches: int) -> None:
    async def steps() -> None:
        world = World()
        sts = world.start()
        await sts.policy_for(DOMAIN)
        world.now, world.id, world.policy = world.now + later, new_id, text("none")
        await sts.policy_for(DOMAIN)
        assert world.fetched == fetches
        assert mode(await sts.policy_for(DOMAIN)) == ("none" if fetches == 2 else "enforce")

    walk(steps)


@pytest.mark.parametrize("max_age", [0, 1])
def test_a_policy_that_is_over_at_once_is_not_fetched_for_each_message(max_age: int) -> None:
    async def steps() -> None:
        world = World(policy=text(max_age=max_age))
        sts = world.start()
        for _ in range(5):
            assert mode(await sts.policy_for(DOMAIN)) == "enforce"
            world.now += 1
        assert world.fetched == 1
        world.now, world.id = world.now + QUIET_SECONDS, None
        assert mode(await sts.policy_for(DOMAIN)) == "none, "

    walk(steps)


def test_a_fetch_that_failed_is_not_tried_again_at_once() -> None:
    async def steps() -> None:
        world = World(policy=FetchFailed("no"))
        sts = world.start()
        for _ in range(3):
            assert mode(await sts.policy_for(DOMAIN)) == "none, sts-policy-fetch-error"
        assert world.fetched == 1
        world.now, world.policy = world.now + QUIET_SECONDS + 1, text()
        assert mode(await sts.policy_for(DOMAIN)) == "enforce"

    walk(steps)


def test_all_who_want_one_wait_for_the_same_fetch() -> None:
    async def steps() -> None:
        world = World()
        sts = world.start()
        found = await asyncio.gather(*(sts.policy_for(DOMAIN) for _ in range(50)))
        assert {mode(each) for each in found} == {"enforce"} and world.fetched == 1

    walk(steps)


def test_it_survives_a_restart_until_it_is_over(tmp_path: Path) -> None:
    async def steps() -> None:
        world = World(tmp_path / "sts")
        await world.start().policy_for(DOMAIN)
        world.dns = Answer.FAILED
        assert mode(await world.start().policy_for(DOMAIN)) == "enforce"
        world.now += WEEK
        assert mode(await world.start().policy_for(DOMAIN)) == "none, "
        assert list((tmp_path / "sts").iterdir()) == []

    walk(steps)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"rubbish", b'{"domain": "x", "id": 1, "policy": "mode: no"}'])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path: Path, content: bytes) -> None:
    async def steps() -> None:
        world = World(tmp_path / "sts")
        await world.start().policy_for(DOMAIN)
        for path in (tmp_path / "sts").iterdir():
            path.write_bytes(content)
        world.id = None
        assert mode(await world.start().policy_for(DOMAIN)) == "none, "

    walk(steps)


def test_a_disk_that_fails_costs_no_policy(tmp_path: Path) -> None:
    async def steps() -> None:
        (tmp_path / "file").write_bytes(b"")
        world = World(tmp_path / "file" / "sts")
        assert mode(await world.start().policy_for(DOMAIN)) == "enforce"

    walk(steps)


def test_memory_and_disk_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mta_sts, "KEPT_DOMAINS", 3)

    async def steps() -> None:
        world = World(tmp_path / "sts")
        sts = world.start()
        for number in range(6):
            await sts.policy_for(f"d{number}.example")
        assert len(list((tmp_path / "sts").iterdir())) == 3
        world.dns = Answer.FAILED
        assert [mode(await sts.policy_for(f"d{n}.example")) for n in (0, 5)] == ["none, ", "enforce"]

    walk(steps)


def test_a_name_that_is_too_long_has_no_policy() -> None:
    async def steps() -> None:
        assert mode(await World().start().policy_for("a." * 126 + "a")) == "none, "

    walk(steps)
