"""A bot of the LAN with a thousand forged senders, against the relay as its supervisor starts it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import aiosmtplib
import pytest

from egressguard.policy.bounces import Dsn
from tests.smtp.fake_mx import FakeMx
from tests.system.relay_alone import RelayAlone

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

MESSAGES, AT_ONCE = 1000, 100


async def send_forged(port: int, numbers: Iterable[int]) -> None:
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, start_tls=False) as client:
        for number in numbers:
            await client.sendmail(f"victim{number}@two.example", ["nobody@one.example"], b"Subject: x\r\n\r\nbuy\r\n")


def test_a_thousand_forged_senders_make_no_more_backscatter_than_the_rules_allow(tmp_path: Path) -> None:
    async def walk() -> None:
        mx = FakeMx({"RCPT TO:<nobody": "550 5.1.1 no such user", "RCPT TO:<victim1": "550 5.1.1 neither"})
        async with mx.listening():
            relay = RelayAlone(tmp_path, mx.port)
            try:
                await asyncio.to_thread(relay.start)
                batches = [range(start, start + AT_ONCE) for start in range(0, MESSAGES, AT_ONCE)]
                await asyncio.gather(*(send_forged(relay.port, batch) for batch in batches))
                await asyncio.to_thread(relay.drain)
            finally:
                await asyncio.to_thread(relay.close)
        notices = [line for line in mx.commands if line.startswith("MAIL FROM:<>")]
        told = [paths for sender, paths, _ in mx.messages if sender.startswith("MAIL FROM:<>")]
        assert len(notices) == Dsn().per_client  # all of the mail is one host's
        assert len(told) < len(notices)  # some could not be delivered, and no other notice came of it
        assert len(mx.messages) == len(told)
        assert len({path for paths in told for path in paths}) == len(told)
        assert all(b"Action: failed" in content for _, _, content in mx.messages)

    asyncio.run(walk())
