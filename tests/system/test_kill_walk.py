"""SIGKILL at any moment under load: what was acknowledged is delivered; twice only what was in doubt.

In doubt is a delivery whose final 250 the relay had not written down when it died: its spool still holds it then.
A round: start, load, a kill; then the dead relay's spool, what clients were told and what the sink has must agree.
EGRESSGUARD_KILLS=200 for the long walk; EGRESSGUARD_SEED to walk another way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from collections import Counter
from pathlib import Path

from tests.system.relay_alone import DOMAINS, RelayAlone
from tests.system.remembering_sink import SENDER, Pair, Sink, message_text

KILLS = int(os.environ.get("EGRESSGUARD_KILLS", "4"))
SEED = int(os.environ.get("EGRESSGUARD_SEED", "1"))
CLIENTS = 8
SIZES = (500, 3_000, 3_000, 20_000, 200_000, 1_500_000)  # rows, files, and drafts that become files
ROUND_SECONDS = 20
LATER = {"421", "451", "452"}


class Walk:
    def __init__(self, relay: RelayAlone, sink: Sink, chance: random.Random) -> None:
        self.acknowledged: set[Pair] = set()
        self.settled: dict[Pair, int] = {}
        self.kinds: Counter[str] = Counter()
        self._relay = relay
        self._sink = sink
        self._chance = chance
        self._numbers = itertools.count()
        self._countdown: Counter[str] = Counter()
        self._struck = asyncio.Event()
        self._whom = ""

    async def round(self) -> None:
        self._sink.epoch += 1
        await asyncio.to_thread(self._relay.start)
        self._plan()
        clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._struck.wait(), ROUND_SECONDS)
        self._strike()
        await asyncio.to_thread(self._relay.until_gone)
        for client in clients:
            client.cancel()
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        self.agree()

    def _plan(self) -> None:
        """After so many things of one kind, or so many seconds: at that very moment, not after it."""
        self._struck.clear()
        kind = self._chance.choice(["acknowledged", "arrived", "arrived", "half", "seconds"])
        self._whom = self._chance.choice(["both", "both", "relay", "smtpd"])
        self.kinds[f"{kind}, {self._whom}"] += 1
        self._countdown = Counter({kind: self._chance.randrange(1, 8 if kind == "half" else 120)})
        if kind == "seconds":
            asyncio.get_running_loop().call_later(self._chance.random(), self._strike)

    def happened(self, kind: str) -> None:
        if kind in self._countdown:
            self._countdown[kind] -= 1
            if not self._countdown[kind]:
                self._strike()

    def _strike(self) -> None:
        if not self._struck.is_set():
            self._relay.strike(self._whom)
            self._struck.set()

    # The load.

    async def _client(self) -> None:
        while not self._struck.is_set():
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._relay.port)
                try:
                    await self._session(reader, writer)
                finally:
                    writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _reply(reader)
        writer.write(b"EHLO client.example\r\n")
        for _ in range(self._chance.randrange(1, 6)):
            if (await _reply(reader))[:3] in LATER:
                return
            await self._message(reader, writer)
            writer.write(b"NOOP\r\n")

    async def _message(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        sender, content = SENDER % number, message_text(number, self._chance.choice(SIZES))
        paths = [f"u{number}@{name}" for name in self._chance.sample(DOMAINS, self._chance.randrange(1, 4))]
        self._sink.expect(sender, content)
        chunked = self._chance.random() < 0.3
        writer.write(f"MAIL FROM:<{sender}>\r\n".encode() + b"".join(b"RCPT TO:<%s>\r\n" % p.encode() for p in paths))
        for _ in range(1 + len(paths)):
            await _reply(reader)
        if not chunked:
            writer.write(b"DATA\r\n")
            if (await _reply(reader))[:3] != "354":
                return
        octets = b"BDAT %d LAST\r\n" % len(content) + content if chunked else _stuffed(content)
        writer.write(octets[: len(octets) // 2])
        await writer.drain()
        self.happened("half")
        writer.write(octets[len(octets) // 2 :])
        await writer.drain()
        reply = await _reply(reader)
        assert reply[:3] == "250" or reply[:3] in LATER, reply
        if reply[:3] == "250":
            self.acknowledged |= {(sender, path) for path in paths}
            self.happened("acknowledged")

    # What must be so whenever the relay is dead.

    def agree(self) -> None:
        queued, arrivals = self._relay.queued(), self._sink.arrivals
        lost = {pair for pair in self.acknowledged - queued if not arrivals.get(pair)}
        assert not lost, f"acknowledged, not delivered, not in the spool: {sorted(lost)[:5]}"
        again = {pair for pair, epochs in self.settled.items() if len(arrivals[pair]) != epochs}
        assert not again, f"delivered again after it was written down: {sorted(again)[:5]}"
        twice = {pair: epochs for pair, epochs in arrivals.items() if len(set(epochs)) != len(epochs)}
        assert not twice, f"delivered twice in one life: {twice}"
        assert not self._sink.damaged
        self.settled |= {pair: len(epochs) for pair, epochs in arrivals.items() if pair not in queued}


async def _reply(reader: asyncio.StreamReader) -> str:
    while True:
        line = (await reader.readuntil(b"\r\n")).decode()
        if line[3:4] != "-":
            return line.strip()


def _stuffed(content: bytes) -> bytes:
    return content.replace(b"\r\n.", b"\r\n..") + b".\r\n"


async def _walk(relay: RelayAlone, sink: Sink) -> Walk:
    walk = Walk(relay, sink, random.Random(SEED))
    sink.on_arrival = lambda: walk.happened("arrived")
    for _ in range(KILLS):
        await walk.round()
    sink.epoch += 1
    await asyncio.to_thread(relay.start)
    await asyncio.to_thread(relay.drain)
    assert await asyncio.to_thread(relay.stop) == 0
    walk.agree()
    await sink.stop()
    return walk


def test_what_was_acknowledged_is_delivered_whenever_we_die(tmp_path: Path) -> None:
    async def play() -> None:
        sink = Sink()
        relay = RelayAlone(tmp_path, await sink.start())
        try:
            walk = await _walk(relay, sink)
        finally:
            relay.close()
        assert walk.acknowledged <= sink.arrivals.keys()
        assert relay.queued() == set()
        assert relay.leftovers() == []
        doubles = sum(len(epochs) - 1 for epochs in sink.arrivals.values())
        print(
            f"\nseed {SEED}: {KILLS} kills, {len(walk.acknowledged)} recipients acknowledged,"
            f" {len(sink.arrivals)} delivered, {doubles} once more while in doubt; {dict(walk.kinds)}"
        )
        assert walk.acknowledged

    asyncio.run(play())
