"""What Dovecot calls: durable or not 0, line ends made whole at any cut, a bounded message."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.access import sieve_sendmail
from egressguard.access.sieve_sendmail import EX_TEMPFAIL, EX_USAGE, in_pieces
from egressguard.store.drop import Dropped, read, waiting

LETTER = b"Subject: x\n\n.\r\nlong " + b"x" * 200_000 + b"\nend"
WHOLE = b"Subject: x\r\n\r\n.\r\nlong " + b"x" * 200_000 + b"\r\nend\r\n"
WORDS = ("anna", "-i", "-f", "anna@test.example", "--", "c@far.example", "d@far.example")


def call(*words: str, given: bytes = LETTER) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", sieve_sendmail.__name__, *words]
    # As Dovecot lets it: 256 MB of address space.
    limited = ["sh", "-c", 'ulimit -v 262144; exec "$@"', "-", *command]
    return subprocess.run(limited, input=given, capture_output=True, check=False, env={"PATH": "/usr/bin:/bin"})


def test_what_it_is_given_lies_in_the_drop_directory(tmp_path: Path) -> None:
    done = call(str(tmp_path), *WORDS, given=LETTER * 100)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    (name,) = waiting(tmp_path)
    found = read(tmp_path, name, 10**9)
    recipients = ("c@far.example", "d@far.example")
    content = (WHOLE.removesuffix(b"\r\n") * 100) + b"\r\n"
    assert found == Dropped(name, os.getuid(), "anna@test.example", recipients, content, "anna")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("/nonexistent/drop", *WORDS), EX_TEMPFAIL),
        (WORDS, EX_USAGE),
        (("/nonexistent", "anna", "-i", "-f", "", "--"), EX_USAGE),
    ],
)
def test_any_other_end_has_a_status_that_dovecot_waits_for(words: tuple[str, ...], status: int) -> None:
    done = call(*words)
    assert done.returncode == status
    assert done.stderr.startswith(b"sieve_sendmail: ")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("given", "whole"),
    [
        (b"", b""),
        (b"\n", b"\r\n"),
        (b"a\r\nb", b"a\r\nb\r\n"),
        (b"a\rb\r", b"a\r\nb\r\n"),
        (b"abc\r\r\nd\n", b"abc\r\n\r\nd\r\n"),
    ],
)
def test_each_line_ends_with_crlf_wherever_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, given: bytes, whole: bytes, size: int
) -> None:
    monkeypatch.setattr(sieve_sendmail, "PIECE_OCTETS", size)
    assert b"".join(in_pieces(io.BytesIO(given))) == whole


def test_a_message_without_end_is_cut_off() -> None:
    with pytest.raises(OSError, match="larger than 10 octets"):
        list(in_pieces(io.BytesIO(b"x" * 11), 10))
