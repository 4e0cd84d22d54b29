"""Thirty hosts with bad manners beside one that works: its mail goes as if they were not there."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from egressguard.relay.queue import Bounds
from tests.relay.setting import Table, policy_of
from tests.relay.test_queue import House, house
from tests.smtp.fake_mx import CUT, ENDLESS, HANG, FakeMx

HANGING = ("GREETING", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT", "DOT")
OTHERS = ({"GREETING": CUT}, {"MAIL": ENDLESS}, {"RCPT": "450 later"}, {"DOT": CUT}, {"EHLO": "x" * 100_000})
BAD, EACH, LIVE = 30, 5, 200
PLACES = Bounds(attempts=50)  # not enough for what the bad hosts would take together
LIVE_DOMAIN = "live.example"


def bad_hosts(port: int) -> list[FakeMx]:
    """Two thirds hang, each at another verb; the others cut, refuse and talk."""
    hanging = [FakeMx({HANGING[n % len(HANGING)]: HANG}, port=port) for n in range(BAD * 2 // 3)]
    return hanging + [FakeMx(dict(OTHERS[n % len(OTHERS)]), port=port) for n in range(BAD - len(hanging))]


async def live_mail(here: House, live: FakeMx) -> None:
    """All of it has arrived."""
    await asyncio.gather(*(here.put(f"b{n}@{LIVE_DOMAIN}", number=100_000 + n) for n in range(LIVE)))
    await here.until(lambda: len(live.messages) >= LIVE, seconds=60)


@pytest.mark.parametrize("known", [True, False], ids=["known", "new"])
def test_what_goes_to_others_does_not_wait_for_any_of_them(tmp_path: Path, known: bool) -> None:
    """The hanging ones hang for good: whoever waits for one of their attempts never arrives."""
    domains = [f"bad{number}.example" for number in range(BAD)]
    mx = {domain: [(10, f"mx.{domain}")] for domain in (LIVE_DOMAIN, *domains)}
    hosts = {f"mx.{domain}": [f"127.0.1.{number}"] for number, domain in enumerate(domains, 1)}
    table = Table(mx, hosts | {f"mx.{LIVE_DOMAIN}": ["127.0.0.1"]})

    async def walk() -> None:
        live = FakeMx()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(live.listening())
            policy = policy_of(relay={"delivery_port": live.port, "attempt_timeout_seconds": 300})
            here = await stack.enter_async_context(house(tmp_path, policy, PLACES, resolver=table))
            bad = bad_hosts(live.port)
            for number, host in enumerate(bad, 1):
                await stack.enter_async_context(host.listening(f"127.0.1.{number}"))
            if known:
                await here.put(f"b@{LIVE_DOMAIN}", number=99_999)
                await here.until(lambda: len(live.messages) == 1)
                live.messages.clear()
            await asyncio.gather(*(here.put(f"b@{domains[n % BAD]}", number=1 + n) for n in range(BAD * EACH)))
            await here.until(lambda: all(host.connections for host in bad), seconds=60)
            await live_mail(here, live)
            settled = {str(fields["recipient"]).partition("@")[2] for _, fields in here.events}
            assert settled.isdisjoint(domains[: BAD * 2 // 3])
            assert live.most_at_once > 1

    asyncio.run(walk())
