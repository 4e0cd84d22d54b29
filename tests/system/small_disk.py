"""The relay on a disk of its own that fills up: a program for a mount namespace in which FOLDER/state is small.

    python -m tests.system.small_disk FOLDER RESERVE_OCTETS lasting|killed        prints what it saw as a line of JSON

Contract
    Others fill the disk (`ballast`), not the relay; what makes room again is that they remove it.
    "lasting": the relay lives through it. "killed": it is killed while the disk is full, and started again, twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

from tests.system.letters import DESTINATIONS, SENDER_DOMAIN, Letter, NoReply, Session, judge
from tests.system.relay_role import RelayRole, site, true
from tests.system.sink import Sink

SMALL, IN_A_FILE, AS_A_DRAFT = 1, 17, 67
MOST_LETTERS = 2000
DRAIN_SECONDS = 40
LEFT_OCTETS = 256 * 1024
"""What a nearly full disk has left for a message."""


def fill(ballast: Path, leave_octets: int) -> None:
    """Take all but so much of the disk."""
    found = os.statvfs(ballast.parent)
    wanted = found.f_bavail * found.f_frsize - leave_octets
    with ballast.open("ab") as file:
        while wanted > 0:
            wanted -= file.write(b"0" * min(wanted, 65536))


class Story:
    def __init__(self, folder: Path, reserve_octets: int, *, killed: bool) -> None:
        self._folder, self._reserve_octets, self._killed = folder, reserve_octets, killed
        self._in_doubt: Counter[tuple[str, str]] = Counter()  # at how many kills
        self._sink = Sink(judge)
        self._acknowledged: list[int] = []
        self._ballast = folder / "state" / "ballast"
        self._dots = asyncio.Event()

    async def tell(self) -> dict[str, object]:
        ports = {domain: await self._sink.listen() for domain in DESTINATIONS}
        relay = RelayRole(self._folder, site(ports, free_space_reserve_octets=self._reserve_octets))
        try:
            return await self._tell(relay)
        finally:
            relay.close()
            self._sink.close()

    async def _tell(self, relay: RelayRole) -> dict[str, object]:
        seen: dict[str, object] = {}
        relay.start()
        await relay.ready()
        pid = relay.pid
        seen["at_first"] = [await self._hand_in(relay, number) for number in (SMALL, IN_A_FILE, AS_A_DRAFT)]
        await self._begin_a_draft(relay)
        self._sink.before_reply = self._dots.wait  # outcomes come when the disk is full
        seen["held_up"] = await self._hand_in(relay, 2)
        fill(self._ballast, self._reserve_octets + LEFT_OCTETS)
        seen["large"] = [await self._hand_in(relay, number + 60) for number in (AS_A_DRAFT, AS_A_DRAFT + 60)]
        seen["until_full"] = await self._until_refused(relay)
        fill(self._ballast, 0)
        seen["full"] = [await self._hand_in(relay, number) for number in (3, IN_A_FILE + 60, AS_A_DRAFT + 180)]
        seen["mail"] = await self._mail(relay)
        self._dots.set()
        await self._sink_has(2)
        seen["same_process"] = relay.pid == pid
        if self._killed:
            seen["restarts"] = await self._restarts(relay)
        self._ballast.unlink()
        if self._killed:
            relay.start()
            await relay.ready()
        else:
            self._unfinished[1].close()
        seen["room"] = [await self._hand_in(relay, number) for number in (13, IN_A_FILE + 120, AS_A_DRAFT + 240)]
        seen["drained"] = await relay.drained(DRAIN_SECONDS)
        seen["ended"] = await relay.stop()
        seen["left_behind"] = {name: found for name, found in relay.leftovers().items() if found}
        return seen | self._books()

    async def _begin_a_draft(self, relay: RelayRole) -> None:
        """A large message whose client never ends it."""
        _, writer = self._unfinished = await asyncio.open_connection("127.0.0.1", relay.port)
        letter = Letter(AS_A_DRAFT)
        writer.write(b"EHLO client.example\r\nMAIL FROM:<%s>\r\n" % letter.sender.encode())
        writer.write(b"RCPT TO:<%s>\r\n" % letter.recipients[0].encode())
        writer.write(b"BDAT %d\r\n" % (2 * len(letter.content)) + letter.content)
        await true(lambda: any((relay.spool / "tmp").glob("draft.*")), "there is a draft")

    async def _restarts(self, relay: RelayRole) -> list[object]:
        """Killed on a full disk: what starts first sweeps the draft and has room for itself; then there is no more."""
        await self._kill(relay)
        self._unfinished[1].close()
        relay.start()
        await relay.ready()
        self._sink.round = 1
        fill(self._ballast, 0)
        said = await self._mail(relay)
        await self._kill(relay)
        fill(self._ballast, 0)
        relay.start()
        return [said, await relay.ended() > 0]

    async def _kill(self, relay: RelayRole) -> None:
        relay.kill()
        await relay.gone(relay.pid)
        await self._sink.settle()
        self._in_doubt.update(pair for pair, state in relay.snapshot().items() if state == "trying")

    async def _hand_in(self, relay: RelayRole, number: int) -> str:
        try:
            async with Session.to(relay.port) as session:
                said = await session.hand_in(Letter(number))
        except (NoReply, ConnectionError):
            return "nothing"
        if said.startswith("250 "):
            self._acknowledged.append(number)
        return said[:9]

    async def _until_refused(self, relay: RelayRole) -> str:
        """Small ones, until there is no room: the first answer that is no 250."""
        for number in range(1001, 1001 + 7 * MOST_LETTERS, 7):
            letter = Letter(number)
            if letter.size > 5000:
                continue
            said = await self._hand_in(relay, number)
            if not said.startswith("250"):
                return said
        return "never"

    async def _mail(self, relay: RelayRole) -> str:
        async with Session.to(relay.port) as session:
            return (await session.say(b"MAIL FROM:<x@%s> SIZE=4000\r\n" % SENDER_DOMAIN.encode()))[:9]

    async def _sink_has(self, number: int) -> None:
        while not self._sink.deliveries.get((Letter(number).sender, Letter(number).recipients[0])):
            await asyncio.sleep(0.05)

    def _books(self) -> dict[str, object]:
        promised = {(x.sender, path) for x in map(Letter, self._acknowledged) for path in x.recipients}
        delivered = self._sink.deliveries
        return {
            "acknowledged": len(self._acknowledged),
            "lost": sorted(promised - set(delivered)),
            "not_acknowledged": sorted(set(delivered) - promised),
            "doubled": sum(len(taken) > 1 for taken in delivered.values()),
            "doubled_without_reason": sorted(
                pair for pair, taken in delivered.items() if len(taken) > 1 + self._in_doubt[pair]
            ),
            "faults": self._sink.faults,
        }


def main() -> None:
    print(json.dumps(asyncio.run(Story(Path(sys.argv[1]), int(sys.argv[2]), killed=sys.argv[3] == "killed").tell())))


if __name__ == "__main__":
    main()
