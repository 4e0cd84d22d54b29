"""Files in messages that Outlook has saved, however they lie in the compound file."""

from __future__ import annotations

import os
import struct
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.compound import COMPOUND, ROOT, STORAGE, STREAM
from egressguard.scan.examine import examine
from egressguard.scan.outlook import attachments
from tests.scan.samples import EICAR, mail_with, zip_of

SETTINGS = Scan(denied_names=("*.exe",))
NOWHERE, END, FREE = 0xFFFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF
SECTOR, MINI, CUTOFF = 512, 64, 4096
LONG_NAME, SHORT_NAME, CONTENT = "__substg1.0_3707001F", "__substg1.0_3704001E", "__substg1.0_37010102"


def compound(*storages: tuple[str, dict[str, bytes]], step: int = 1) -> bytes:
    """A compound file; `step` apart lie the sectors of a stream: what is large is in pieces all over the file."""
    sectors: dict[int, bytes] = {}
    following: dict[int, int] = {}
    free = [number for first in range(step) for number in range(first, 4096, step)]
    minis = bytearray()
    mini_next: list[int] = []

    def put(octets: bytes) -> int:
        numbers = [free.pop(0) for _ in range(0, len(octets), SECTOR)]
        for at, number in enumerate(numbers):
            sectors[number] = octets[at * SECTOR : (at + 1) * SECTOR].ljust(SECTOR, b"\0")
        following.update(pairwise([*numbers, END]))
        return numbers[0] if numbers else END

    def put_mini(octets: bytes) -> int:
        first, count = len(mini_next), -(-len(octets) // MINI)
        minis.extend(octets.ljust(count * MINI, b"\0"))
        mini_next.extend([*range(first + 1, first + count), END])
        return first

    def entry(name: str, kind: int, right: int, child: int, start: int, size: int) -> bytes:
        wide = name.encode("utf-16-le")
        head = wide.ljust(64, b"\0") + struct.pack("<HBB", len(wide) + 2, kind, 1)
        return head + struct.pack("<III", NOWHERE, right, child) + bytes(36) + struct.pack("<IQ", start, size)

    entries: list[bytes] = []
    at = 1
    for number, (name, streams) in enumerate(storages):
        following_storage = at + 1 + len(streams) if number + 1 < len(storages) else NOWHERE
        entries.append(entry(name, STORAGE, following_storage, at + 1, 0, 0))
        for place, (stream, octets) in enumerate(streams.items()):
            right = at + 2 + place if place + 1 < len(streams) else NOWHERE
            start = put(octets) if len(octets) >= CUTOFF else put_mini(octets)
            entries.append(entry(stream, STREAM, right, NOWHERE, start, len(octets)))
        at += 1 + len(streams)
    entries.insert(0, entry("Root Entry", ROOT, NOWHERE, 1, put(bytes(minis)), len(minis)))
    directory = put(b"".join(entries))
    mini_table = put(struct.pack(f"<{len(mini_next)}I", *mini_next).ljust(SECTOR, b"\xff"))
    count = max(sectors) + 1
    tables = -(-(count + 32) // (SECTOR // 4))
    numbers = [*range(count, count + tables)]
    table = [following.get(number, FREE) for number in range(tables * SECTOR // 4)]
    packed = struct.pack(f"<{len(table)}I", *table)
    sectors |= {number: packed[place * SECTOR : (place + 1) * SECTOR] for place, number in enumerate(numbers)}
    header = COMPOUND + bytes(16) + struct.pack("<HHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    header += struct.pack("<IIIIIIIII", 0, tables, directory, 0, CUTOFF, mini_table, 1, END, 0)
    header += struct.pack("<109I", *numbers, *[FREE] * (109 - tables))
    return header + b"".join(sectors.get(number, bytes(SECTOR)) for number in range(count + tables))


def attached(number: int, name: str, content: bytes) -> tuple[str, dict[str, bytes]]:
    streams = {LONG_NAME: name.encode("utf-16-le"), SHORT_NAME: b"SHORT~1.DAT", CONTENT: content}
    return f"__attach_version1.0_#{number:08X}", streams


EICAR_ZIP = zip_of(("eicar.com", EICAR), ("noise", os.urandom(6000)))


@pytest.mark.parametrize("step", [1, 3])
def test_each_attachment_comes_out_whole_under_its_names(step: int) -> None:
    large = os.urandom(20_000)
    message = compound(attached(0, "a.bin", large), attached(1, "b.txt", b"hello"), step=step)

    assert list(attachments(message)) == [
        (("a.bin", "SHORT~1.DAT"), large),
        (("b.txt", "SHORT~1.DAT"), b"hello"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "verdict"),
    [
        ("run.exe", b"x", Verdict.DENIED),
        ("a.zip", EICAR_ZIP, Verdict.INFECTED),
        ("a.txt", b"hello", Verdict.CLEAN),
    ],
)
@pytest.mark.parametrize("wrap", [lambda msg: msg, lambda msg: zip_of(("letter.msg", msg))], ids=["bare", "zip"])
def test_what_a_saved_message_carries_is_looked_into(name: str, content: bytes, verdict: Verdict, wrap) -> None:  # type: ignore[no-untyped-def]
    message = mail_with("letter.msg", wrap(compound(attached(0, name, content), step=3)))

    assert examine(message, SETTINGS).verdict is verdict


def test_a_name_that_no_storage_leads_to_is_seen() -> None:
    message = compound(
        ("__attach_version1.0_#00000000", {"x": b"y"}), ("elsewhere", {LONG_NAME: "run.exe".encode("utf-16-le")})
    )

    assert list(attachments(message)) == [((), b""), (("run.exe",), b"")]


def test_documents_that_are_no_messages_have_no_attachments() -> None:
    assert list(attachments(compound(("WordDocument", {"1Table": b"x"})))) == []


SAMPLE = compound(attached(0, "run.exe", os.urandom(5000)), attached(1, "b", b"x"), step=2)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), max_size=10), st.integers(0, len(SAMPLE))
)
def test_a_damaged_one_never_raises_and_ends(changes: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(SAMPLE)
    for at, value in changes:
        content[at] = value

    for names, octets in attachments(bytes(content[:cut])):
        assert len(octets) <= len(SAMPLE), names
