"""No octets but CRLF "." CRLF end a message, and a message with other line ends is refused as a whole."""

from __future__ import annotations

import asyncio

import pytest

from tests.smtp.conftest import Stand
from tests.smtp.dot_variants import END, HEADER, INSIDE, SMUGGLED, TEXT, VARIANTS, Fate, Variant, attack, is_lawful
from tests.smtp.wire_peer import SENDER, WHOLE, codes_to_the_end, extensions, taken, to_354

TRUE_END = b"\r\n.\r\n"
AFTERWARDS = b"NOOP\r\nQUIT\r\n"
READ_AT_ONCE = 64 * 1024
"""A reader takes a power of two; what straddles a chunk's end is where a streaming reader goes wrong."""

chunked = pytest.mark.parametrize("chunk_octets", [1, WHOLE], ids=["octets", "whole"])


def test_the_table_is_what_it_says() -> None:
    assert len(VARIANTS) == len({variant.octets for variant in VARIANTS}) == 24
    for variant in VARIANTS:
        said = attack(variant)
        assert is_lawful(said) is (variant.fate is Fate.TEXT), variant
        assert (TRUE_END in said) is (variant.fate is Fate.END), variant


@chunked
@pytest.mark.parametrize("variant", INSIDE, ids=str)
def test_what_is_no_end_smuggles_nothing_and_is_refused_once(variant: Variant, chunk_octets: int, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await to_354(client)
            await client.send(attack(variant) + TRUE_END + AFTERWARDS, chunk_octets)
            refused, *after = await codes_to_the_end(client)
            assert refused[0] == "5"
            assert after == ["250", "221"]  # to NOOP and QUIT: nothing inside was taken for a command
            assert taken(running) == []
            assert [path for _, path, _ in running.hooks.recipients] == ["anna@example.org"]

    asyncio.run(dialog())


@chunked
@pytest.mark.parametrize("variant", TEXT, ids=str)
def test_a_dot_in_lawful_text_is_text(variant: Variant, chunk_octets: int, stand: Stand) -> None:
    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await to_354(client)
            await client.send(attack(variant) + TRUE_END + AFTERWARDS, chunk_octets)
            assert await codes_to_the_end(client) == ["250", "250", "221"]
            (message,) = taken(running)
            # A line's first dot goes, and nothing else (RFC 5321 s4.5.2).
            unstuffed = variant.octets.replace(b"\r\n.", b"\r\n")
            assert message.content == HEADER + b"text" + unstuffed + SMUGGLED + b"\r\n"
            assert message.reverse_path == SENDER

    asyncio.run(dialog())


@chunked
@pytest.mark.parametrize("variant", END, ids=str)
def test_unlawful_octets_before_the_true_end_do_not_hide_it(variant: Variant, chunk_octets: int, stand: Stand) -> None:
    """What follows was said after the end by everybody's reading: commands, at most. The outer message is lost."""

    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await to_354(client)
            await client.send(attack(variant) + TRUE_END + AFTERWARDS, chunk_octets)
            assert (await codes_to_the_end(client))[0][0] == "5"
            assert not any(b"outer" in message.content or message.reverse_path == SENDER for message in taken(running))

    asyncio.run(dialog())


@chunked
@pytest.mark.parametrize("begin", [b".\n", b".\r", b".\r\r\n", b".\0\r\n", b"\0.\r\n", b".\n\r"], ids=repr)
def test_the_first_line_is_no_different(begin: bytes, chunk_octets: int, stand: Stand) -> None:
    """Right behind 354 a line begins already: a dot needs no line end before it."""

    async def dialog() -> None:
        async with stand.serve() as running, stand.client(running) as client:
            await to_354(client)
            await client.send(begin + SMUGGLED + TRUE_END + AFTERWARDS, chunk_octets)
            refused, *after = await codes_to_the_end(client)
            assert (refused[0], after, taken(running)) == ("5", ["250", "221"], [])

    asyncio.run(dialog())


@pytest.mark.parametrize("variant", INSIDE + TEXT, ids=str)
def test_where_a_chunk_ends_makes_no_difference(variant: Variant, stand: Stand) -> None:
    """The variant moves over the end of what is read at once, octet by octet, and behind it."""

    async def dialog() -> None:
        async with stand.serve(max_errors=1000) as running, stand.client(running) as client:
            size = len(variant.octets)
            for padding in range(READ_AT_ONCE - len(HEADER) - 4 - size, READ_AT_ONCE - len(HEADER) - 2):
                await to_354(client)
                said = attack(variant, padding)
                await client.send(said[: READ_AT_ONCE - 1])
                await client.send(said[READ_AT_ONCE - 1 :] + TRUE_END)
                assert (await client.reply())[0] == ("2" if variant.fate is Fate.TEXT else "5")
            assert (await client.say("NOOP"))[:3] == "250"
            if variant.fate is Fate.INSIDE:
                assert taken(running) == []

    asyncio.run(dialog())


@chunked
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_counted_message_ends_where_its_count_ends(variant: Variant, chunk_octets: int, stand: Stand) -> None:
    """BDAT (RFC 3030): no dot means anything. What is taken is taken octet for octet, or it is refused once."""

    async def dialog() -> bool:
        async with stand.serve() as running, stand.client(running) as client:
            if "CHUNKING" not in await extensions(client):
                return False
            assert (await client.say(f"MAIL FROM:<{SENDER}>"))[:3] == "250"
            assert (await client.say("RCPT TO:<anna@example.org>"))[:3] == "250"
            content = attack(variant) + b"\r\n"
            command = b"BDAT %d LAST\r\n" % len(content)
            await client.send(command + content + AFTERWARDS, chunk_octets)
            decided, *after = await codes_to_the_end(client)
            assert after == ["250", "221"]
            if variant.fate is Fate.TEXT:
                assert decided[0] == "2"
            assert [message.content for message in taken(running)] == ([content] if decided[0] == "2" else [])
            return True

    if not asyncio.run(dialog()):
        pytest.skip("CHUNKING is not offered")
