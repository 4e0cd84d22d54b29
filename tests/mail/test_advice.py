from __future__ import annotations

import pytest

from egressguard.mail.advice import advice


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("5.1.1", "mistake in the address"),
        ("5.1.2", "behind the @"),
        ("5.1.10", "address that takes mail"),
        ("5.2.2", "mailbox is full"),
        ("5.3.4", "Send less"),
        ("4.4.1", "again later"),
        ("5.4.6", "postmaster"),
        ("5.6.3", "seven bits"),
        ("5.6.7", "plain letters"),
        ("5.7.26", "by its own rules"),
        ("4.9.9", "again later"),
        ("5.9.9", "postmaster"),
        ("rubbish", "postmaster"),
        ("", "postmaster"),
    ],
)
def test_who_reads_it_knows_what_to_do(status: str, words: str) -> None:
    assert words in advice(status)
