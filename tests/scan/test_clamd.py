"""clamd: the real one by descriptor and by stream, and impostors that say anything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from egressguard.policy.scanning import Clamd
from egressguard.scan.clamd import ClamdEngine
from egressguard.scan.engine import Answer, Subject
from egressguard.scan.engine_words import NAME_CHARACTERS, EngineDown
from tests.scan import daemons
from tests.scan.daemons import MARKER, STREAM_OCTETS, impostor
from tests.scan.samples import mail_with

BAD, GOOD = mail_with("a.bin", b"xx " + MARKER), mail_with("a.bin", b"nothing")
FOUND = Answer(found=("Egress.Test.UNOFFICIAL",))


@pytest.fixture(scope="module")
def clamd() -> Iterator[str]:
    with daemons.clamd() as address:
        yield address


def by_descriptor(tmp_path: Path, content: bytes) -> Subject:
    (tmp_path / "m").write_bytes(content)
    return Subject(content, fd=os.open(tmp_path / "m", os.O_RDONLY | os.O_CLOEXEC))


@pytest.mark.peers
@pytest.mark.parametrize(("content", "answer"), [(BAD, FOUND), (GOOD, Answer()), (b"", Answer())])
def test_the_real_clamd_is_asked_both_ways(clamd: str, content: bytes, answer: Answer, tmp_path: Path) -> None:
    engine, subject = ClamdEngine(Clamd(address=clamd)), by_descriptor(tmp_path, content)
    assert subject.fd is not None
    try:
        assert engine.ask(subject, 20) == answer
        assert engine._takes_descriptors
    finally:
        os.close(subject.fd)
    assert engine.ask(Subject(content), 20) == answer


@pytest.mark.peers
def test_a_clamd_that_cannot_read_the_descriptor_is_given_the_octets(clamd: str) -> None:
    read_end, write_end = os.pipe()  # nothing that can be mapped
    os.close(write_end)
    engine = ClamdEngine(Clamd(address=clamd))
    try:
        assert engine.ask(Subject(BAD, fd=read_end), 20) == FOUND
        assert engine.ask(Subject(GOOD, fd=read_end), 20) == Answer()
    finally:
        os.close(read_end)
    assert not engine._takes_descriptors


@pytest.mark.peers
def test_above_its_stream_limit_a_message_is_unseen_not_waited_for(clamd: str) -> None:
    large = mail_with("a.bin", os.urandom(40 * STREAM_OCTETS))

    for _ in range(5):  # it closes while we send: each time what it said is read all the same
        assert ClamdEngine(Clamd(address=clamd)).ask(Subject(large), 20) == Answer(
            unseen="a message above its StreamMaxLength"
        )


@pytest.mark.peers
def test_the_version_has_the_programs(clamd: str) -> None:
    version = ClamdEngine(Clamd(address=clamd)).version(20)

    assert version.startswith("ClamAV ")
    assert version == ClamdEngine(Clamd(address=clamd)).version(20)


def test_a_message_above_our_limit_is_not_given_to_it() -> None:
    engine = ClamdEngine(Clamd(address="unix:/nowhere", max_octets=1024))

    assert engine.ask(Subject(b"x" * 1025), 5).unseen == "a message of more than 1024 octets"


@pytest.mark.parametrize(
    "answer",
    [b"", b"stream: Can't allocate memory ERROR\0", b"\xff\xfe", b"x" * 100_000, b"OK\0", b"stream: OK and more\0"],
)
def test_what_it_says_besides_ok_and_found_is_down(answer: bytes) -> None:
    with impostor(answer) as address, pytest.raises(EngineDown):
        ClamdEngine(Clamd(address=address)).ask(Subject(b"content"), 5)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"stream: OK\0", Answer()),
        (b"stream: Worm.A FOUND\0", Answer(found=("Worm.A",))),
        (b"stream: W\x1b[31morm FOUND\0", Answer(found=("W[31morm",))),
        (b"stream:  FOUND\0", Answer(found=("unnamed",))),
        (b"stream: " + b"n" * 3000 + b" FOUND\0", Answer(found=("n" * NAME_CHARACTERS,))),
        (b"INSTREAM size limit exceeded. ERROR\0", Answer(unseen="a message above its StreamMaxLength")),
        (
            b"stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND\0",
            Answer(unseen="more than it looks at (Heuristics.Limits.Exceeded.MaxFileSize)"),
        ),
    ],
)
def test_what_it_says_is_understood_bounded_and_printable(said: bytes, answer: Answer) -> None:
    with impostor(said) as address:
        assert ClamdEngine(Clamd(address=address)).ask(Subject(b"content"), 5) == answer


def test_one_that_hangs_is_down_in_time() -> None:
    with impostor(None) as address, pytest.raises(EngineDown, match=r"too long|timed out"):
        ClamdEngine(Clamd(address=address)).ask(Subject(b"x"), 0.1)


@pytest.mark.parametrize("address", ["unix:/nowhere/at/all", "127.0.0.1:1"])
def test_none_at_all_is_down(address: str) -> None:
    with pytest.raises(EngineDown):
        ClamdEngine(Clamd(address=address)).ask(Subject(b"x"), 5)
