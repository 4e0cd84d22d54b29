"""Whatever octets reach our client, the next host sees one message, the message itself, or none at all."""

from __future__ import annotations

import asyncio

import pytest

from egressguard.mail.outcome import Outcome, Result
from tests.smtp.dot_variants import END, INSIDE, TEXT, VARIANTS, Fate, Variant, attack
from tests.smtp.lax_sink import LaxSink
from tests.smtp.wire_peer import hand_over

BLANK_AT_THE_END = [variant for variant in TEXT if b" " in variant.octets]
"""The other TEXT rows are lawful text for everybody: a host that ends there loses half of all mail."""


EVERY_LAX_END = [pytest.param(variant, id=variant.name) for variant in (*INSIDE, *BLANK_AT_THE_END, *END)]


def handed(content: bytes, sink: LaxSink) -> Outcome:
    async def walk() -> Outcome:
        async with sink.listening():
            return await hand_over(content, sink.port)

    return asyncio.run(walk())


def content_with(variant: Variant) -> bytes:
    return attack(variant) + b"\r\n"


def test_the_sink_is_as_lax_as_it_says() -> None:
    """It does see two messages where the octets come from a client that does not care."""

    async def walk() -> None:
        for variant in VARIANTS:
            sink = LaxSink(ends=(variant.octets,))
            async with sink.listening():
                reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
                writer.write(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b@receiver.example>\r\nDATA\r\n")
                writer.write(attack(variant) + b"\r\n.\r\nQUIT\r\n")
                await reader.read()
                writer.close()
            assert len(sink.messages) == 2, variant
            assert any("smuggled" in command for command in sink.commands)

    asyncio.run(walk())


@pytest.mark.parametrize("variant", EVERY_LAX_END)
def test_a_lax_host_never_sees_a_second_message(variant: Variant) -> None:
    sink = LaxSink(ends=(variant.octets,))
    handed(content_with(variant), sink)
    assert len(sink.messages) <= 1
    assert not any("smuggled" in command for command in sink.commands)


@pytest.mark.parametrize("variant", EVERY_LAX_END)
def test_a_host_that_takes_every_end_never_sees_a_second_message(variant: Variant) -> None:
    ends = tuple(row.octets for row in INSIDE + BLANK_AT_THE_END + END)
    sink = LaxSink(ends=ends)
    handed(content_with(variant), sink)
    assert len(sink.messages) <= 1
    assert not any("smuggled" in command for command in sink.commands)


@pytest.mark.parametrize("variant", TEXT, ids=str)
def test_lawful_text_arrives_octet_for_octet(variant: Variant) -> None:
    sink = LaxSink()
    assert handed(content_with(variant), sink).result is Result.DELIVERED
    assert sink.messages == [content_with(variant)]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.fate is not Fate.TEXT], ids=str)
def test_unlawful_octets_are_refused_not_repaired(variant: Variant) -> None:
    """Not one octet of it leaves: a changed message is not the one that was taken (and its signatures break)."""
    sink = LaxSink()
    outcome = handed(content_with(variant), sink)
    assert (outcome.result, outcome.status[:4]) == (Result.PERMANENT, "5.6.")
    assert sink.messages == []
    assert "DATA" not in sink.commands
