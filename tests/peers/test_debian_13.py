"""The same mail programs against a gateway on Debian 13's Dovecot (2.4): they read, store, see each other's flags."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.peers.reading import Gateway, reading_gateway
from tests.peers.test_mail_programs import (
    test_what_was_delivered_is_read_octet_for_octet,
    test_what_was_delivered_is_stored_by_mail_programs,
)
from tests.peers.test_reading_together import (
    test_a_phone_that_waits_is_told_of_all_that_the_desktop_does,
    test_a_second_pop3_session_waits_for_the_first_and_takes_nothing_from_it,
    test_pop3_that_deletes_empties_the_mailbox_for_imap_too,
    test_what_the_phone_does_is_seen_at_the_desktop,
)

__all__ = [
    "test_a_phone_that_waits_is_told_of_all_that_the_desktop_does",
    "test_a_second_pop3_session_waits_for_the_first_and_takes_nothing_from_it",
    "test_pop3_that_deletes_empties_the_mailbox_for_imap_too",
    "test_what_the_phone_does_is_seen_at_the_desktop",
    "test_what_was_delivered_is_read_octet_for_octet",
    "test_what_was_delivered_is_stored_by_mail_programs",
]
pytestmark = pytest.mark.peers

QUICK = ("mbsync",)


@pytest.fixture(scope="module")
def debian_13() -> Iterator[Gateway]:
    with reading_gateway(generation="2.4") as made:
        assert made.access()["version"] == "2.4"
        yield made


@pytest.fixture
def readable(request: pytest.FixtureRequest) -> Gateway:
    """In the others' place."""
    if "EGRESSGUARD_READERS" not in os.environ and not any(name in request.node.name for name in QUICK):
        pytest.skip("one of the long versions: make system, or EGRESSGUARD_READERS=all")
    found: Gateway = request.getfixturevalue("debian_13")
    return found
