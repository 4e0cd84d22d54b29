"""Every input that was ever worth keeping, once more through its target: without atheris, in seconds."""

from __future__ import annotations

import pytest

from tests.fuzz.memory import Finding
from tests.fuzz.reading import Reading, replies_of
from tests.fuzz.run import TARGETS as RUN
from tests.fuzz.targets import CORPUS, TARGETS

KEPT_OCTETS = 2 * 1024 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_finds_nothing(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs
    for path in inputs:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as wrong:
            raise AssertionError(f"{path.relative_to(CORPUS)}: {wrong!r}") from wrong


def test_the_corpus_is_small_and_whole() -> None:
    assert tuple(TARGETS) == RUN
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < KEPT_OCTETS


GREETING = b"220 gw ESMTP\r\n"
EHLO = b"250-gw\r\n250 SIZE 2000\r\n"
OK, REFUSED = b"250 2.0.0 OK\r\n", b"550 5.1.1 No\r\n"
ENVELOPE = b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
TO_354 = GREETING + EHLO + OK + OK + b"354 Go\r\n"


@pytest.mark.parametrize(
    ("said", "answered", "people"),
    [
        (b"NOOP\r\n", b"", False),
        (b"NOOP\r\n", GREETING, False),
        (b"NOOP\r\n", GREETING + OK + OK, False),
        (b"NOOP\r\n", GREETING + b"250 OK\r\n", False),
        (b"NOOP\r\n", GREETING + b"250 5.0.0 OK\r\n", False),
        (b"NOOP\r\n", GREETING + b"250 2.0.0 \xff\r\n", False),
        (b"NOOP\r\n", GREETING + b"250 2.0.0 " + b"x" * 510 + b"\r\n", False),
        (b"NOOP\r\n", GREETING + b"250-2.0.0 a\r\n251 2.0.0 b\r\n", False),
        (b"NOOP\nNOOP\r\n", GREETING + OK + OK, False),
        (b"BOGUS\r\n", GREETING + OK, False),
        (b"MAIL FROM:<a@b.example>\r\n", GREETING + OK, False),
        (b"EHLO a\r\nMAIL FROM:<a@b.example>\r\n", GREETING + EHLO + OK, True),
        (b"EHLO a\r\nMAIL FROM:<a@b.example>\r\nDATA\r\n", GREETING + EHLO + OK + b"354 Go\r\n", False),
        (b"EHLO a\r\nMAIL FROM:<a@b.example> SIZE=2001\r\n", GREETING + EHLO + OK, False),
        (b"EHLO a\r\nMAIL FROM:a@b.example\r\n", GREETING + EHLO + OK, False),
        (ENVELOPE + b"DATA\r\na\nb\r\n.\r\n", TO_354 + OK, False),
        (ENVELOPE + b"DATA\r\n" + b"x" * 2001 + b"\r\n.\r\n", TO_354 + OK, False),
        (ENVELOPE + b"DATA\r\na\n.\nRSET\r\n", TO_354 + OK + OK, False),
        (ENVELOPE + b"BDAT 9\r\nhalf", GREETING + EHLO + OK + OK + OK, False),
        (b"EHLO a\r\nAUTH PLAIN x\r\n", GREETING + EHLO + b"235 2.7.0 OK\r\n", True),
    ],
)
def test_the_plain_reading_would_notice(said: bytes, answered: bytes, people: bool) -> None:
    """A server that answers so is caught: the fuzzer's eyes are open."""
    with pytest.raises(Finding):
        Reading(said, replies_of(answered), people, ended=False, most_octets=2000, most_recipients=3).walk()


def test_the_plain_reading_sees_the_message() -> None:
    said = ENVELOPE + b"DATA\r\n..a\r\n.\r\nMAIL FROM:<>\r\n" + b"RCPT TO:<x>\r\nQUIT\r\n"
    answered = TO_354 + OK + OK + REFUSED + b"221 2.0.0 Bye\r\n"
    (mail,) = Reading(said, replies_of(answered), False, ended=True, most_octets=2000, most_recipients=3).walk()
    assert (mail.reverse_path, mail.forward_paths, mail.content) == ("a@b.example", ("c@d.example",), b".a\r\n")
