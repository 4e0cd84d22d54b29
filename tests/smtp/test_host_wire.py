"""What a host may say to us, how much of it, and how long it may take: the wire of the client, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.smtp.host_wire import REPLIES, REPLY_OCTETS, HostLost, HostWire
from egressguard.smtp.waiting import TICK_SECONDS, Ticker
from tests.fuzz.memory import HIGH_WATER_OCTETS, MemoryLoop, MemoryTransport
from tests.smtp.memory_mx import play

SECONDS = 30.0


@dataclass
class Ends:
    loop: MemoryLoop
    transport: MemoryTransport
    wire: HostWire

    async def replies(self) -> list[tuple[int, str]]:
        """All that are there; a wait for another would be one for ever."""
        found = []
        while self.wire._replies:
            found.append(await self.wire.reply(SECONDS))
        return found


def with_wire(dialogue: Callable[[Ends], Awaitable[None]], *, deaf: bool = False) -> None:
    async def walk(loop: MemoryLoop) -> None:
        transport = MemoryTransport(loop, asyncio.Protocol(), deaf=deaf)
        wire = HostWire(transport, Ticker())
        try:
            await dialogue(Ends(loop, transport, wire))
        finally:
            wire.close()

    play(walk)


@pytest.mark.parametrize(
    ("octets", "replies"),
    [
        (b"250 ok\r\n", [(250, "ok")]),
        (b"250-a\r\n250-b\r\n250 c\r\n", [(250, "a\nb\nc")]),
        (b"250\r\n", [(250, "")]),
        (b"250 \r\n", [(250, "")]),
        (b"250-\r\n250\r\n", [(250, "\n")]),
        (b"250 one\n354 two\n", [(250, "one"), (354, "two")]),
        (b"250-a\r\n550 b\r\n", [(550, "a\nb")]),
        (b"250 \xff\xfe\r\n", [(250, "\ufffd\ufffd")]),
        ("250 gr\u00fc\u00df\r\n".encode(), [(250, "gr\u00fc\u00df")]),
        (b"999 what\r\n", [(999, "what")]),
    ],
)
def test_replies_are_the_same_however_they_are_cut(octets: bytes, replies: list[tuple[int, str]]) -> None:
    for cut in range(len(octets) + 1):

        async def dialogue(ends: Ends, cut: int = cut) -> None:
            ends.transport.feed(octets[:cut])
            ends.transport.feed(octets[cut:])
            assert await ends.replies() == replies
            assert ends.wire.is_idle

        with_wire(dialogue)


@given(
    st.lists(st.tuples(st.integers(200, 599), st.lists(st.text("ab \u00e4-", max_size=9), min_size=1, max_size=4))),
    st.lists(st.integers(1, 30), min_size=1, max_size=5),
)
def test_any_replies_in_any_pieces(said: list[tuple[int, list[str]]], lengths: list[int]) -> None:
    octets = b"".join(
        f"{code}{' ' if number == len(lines) else '-'}{line}\r\n".encode()
        for code, lines in said
        for number, line in enumerate(lines, 1)
    )

    async def dialogue(ends: Ends) -> None:
        rest, turn = octets, 0
        while rest:
            length = lengths[turn % len(lengths)]
            ends.transport.feed(rest[:length])
            rest, turn = rest[length:], turn + 1
        assert await ends.replies() == [(code, "\n".join(line.strip() for line in lines)) for code, lines in said]

    with_wire(dialogue)


@pytest.mark.parametrize(
    "octets",
    [b"hello\r\n", b"25 ok\r\n", b"2500 ok\r\n", b"250_ok\r\n", b" 250 ok\r\n", b"\r\n", b"250 a\0", b"\0\0\0\0\r\n"],
)
def test_what_is_no_reply_ends_the_connection(octets: bytes) -> None:
    async def dialogue(ends: Ends) -> None:
        ends.transport.feed(octets + b"\n")
        if octets == b"250 a\0":  # ugly, and a reply: its words are cleaned where they are used
            assert await ends.replies() == [(250, "a\0")]
            return
        with pytest.raises(HostLost):
            await ends.wire.reply(SECONDS)
        assert ends.transport.is_closing() and not ends.wire.is_idle
        with pytest.raises(HostLost):
            ends.wire.write(b"QUIT\r\n")

    with_wire(dialogue)


@pytest.mark.parametrize(
    ("octets", "times"),
    [
        (b"x" * 1000, 200),
        (b"250-" + b"x" * 1000, 100),
        (b"250-again\r\n", 20_000),
        (b"250-" + b"y" * 30_000 + b"\r\n", 4),
        (b"250 ok\r\n", REPLIES + 100),
        (b"250-" + b"z" * 100_000 + b"\r\n", 1),
    ],
    ids=["endless line", "endless reply line", "endless reply", "long lines", "unasked replies", "100 KB line"],
)
def test_a_host_that_talks_without_end_is_not_listened_to(octets: bytes, times: int) -> None:
    """Whether its octets come one line at a time or all at once."""

    async def dialogue(ends: Ends) -> None:
        for _ in range(times):
            ends.transport.feed(octets)
            assert len(ends.wire._buffer) <= REPLY_OCTETS + len(octets)
            assert sum(map(len, ends.wire._lines)) <= REPLY_OCTETS
            assert len(ends.wire._replies) <= REPLIES + 1
        assert ends.transport.is_closing()
        with pytest.raises(HostLost):
            for _ in range(times):
                await ends.wire.reply(SECONDS)

    with_wire(dialogue)


def test_a_large_reply_that_ends_is_a_reply() -> None:
    async def dialogue(ends: Ends) -> None:
        line = b"x" * 1000
        ends.transport.feed(b"".join(b"250-%s\r\n" % line for _ in range(60)) + b"250 end\r\n")
        ((code, text),) = await ends.replies()
        assert code == 250 and text.count("\n") == 60

    with_wire(dialogue)


def test_silence_has_an_end() -> None:
    async def dialogue(ends: Ends) -> None:
        with pytest.raises(TimeoutError):
            await ends.wire.reply(SECONDS)
        assert SECONDS <= ends.loop.time() <= SECONDS + 2 * TICK_SECONDS

    with_wire(dialogue)


def test_an_octet_a_second_has_an_end_too() -> None:
    """The time is for the whole reply, not for its next octet."""

    async def drip(ends: Ends) -> None:
        for octet in b"250-" + b"x" * 1000:
            ends.transport.feed(bytes([octet]))
            await asyncio.sleep(1)

    async def dialogue(ends: Ends) -> None:
        dripping = asyncio.ensure_future(drip(ends))
        with pytest.raises(TimeoutError):
            await ends.wire.reply(SECONDS)
        assert SECONDS <= ends.loop.time() <= SECONDS + 2 * TICK_SECONDS
        dripping.cancel()

    with_wire(dialogue)


def test_a_reply_that_comes_in_time_is_heard() -> None:
    async def dialogue(ends: Ends) -> None:
        ends.loop.call_later(SECONDS - 1, ends.transport.feed, b"250 ok\r\n")
        assert await ends.wire.reply(SECONDS) == (250, "ok")

    with_wire(dialogue)


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_what_was_said_before_the_end_is_heard(how: str) -> None:
    async def dialogue(ends: Ends) -> None:
        ends.transport.feed(b"250 ok\r\n421 bye\r\n")
        ends.transport.end() if how == "eof" else ends.transport.lose()
        await ends.loop.settle()
        assert [await ends.wire.reply(SECONDS) for _ in range(2)] == [(250, "ok"), (421, "bye")]
        with pytest.raises(HostLost):
            await ends.wire.reply(SECONDS)

    with_wire(dialogue)


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_who_waits_when_the_host_leaves_hears_of_it(how: str) -> None:
    async def dialogue(ends: Ends) -> None:
        ends.loop.call_later(1, ends.transport.end if how == "eof" else ends.transport.lose)
        with pytest.raises(HostLost):
            await ends.wire.reply(SECONDS)
        assert ends.loop.time() < 2

    with_wire(dialogue)


@pytest.mark.parametrize("how", ["eof", "reset"])
def test_who_waits_to_write_when_the_host_leaves_hears_of_it(how: str) -> None:
    async def dialogue(ends: Ends) -> None:
        ends.wire.write(b"x" * (2 * HIGH_WATER_OCTETS))
        ends.loop.call_later(1, ends.transport.end if how == "eof" else ends.transport.lose)
        with pytest.raises(HostLost):
            await ends.wire.drain()

    with_wire(dialogue, deaf=True)
