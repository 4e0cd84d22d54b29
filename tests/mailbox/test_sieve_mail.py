"""What a Sieve script sends: who may say whose it is, what may leave, and what stays in the inbox once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from egressguard.mailbox.forwarding import EXPANDED
from egressguard.mailbox.sieve_mail import PAST_SIEVE, SieveMail
from egressguard.store.drop import Dropped
from egressguard.store.interface import NewMessage
from tests.relay.setting import policy_of

SPEAKER = 4711
REDIRECTED = b"X-Sieve-Redirected-From: anna@here.example\r\nDelivered-To: anna@here.example\r\n"
LETTER = b"Subject: x\r\n\r\n\xff\r\n"
FAR, NEAR, BEFORE = "carl@far.example", "bert@here.example", "anna@here.example"


class Place:
    def __init__(self, **mailboxes: Any) -> None:
        self.stored: list[NewMessage] = []
        self.rows: list[tuple[str, Mapping[str, object]]] = []
        policy = policy_of(domains=["here.example", "also.example"], mailboxes=mailboxes)
        self.mail = SieveMail(
            lambda: policy,
            self._put,
            lambda kind, fields: self.rows.append((kind, fields)),
            speaker=SPEAKER,
            clock=lambda: 1000.0,
            new_queue_id=lambda _now: "0NEW",
        )

    async def _put(self, message: NewMessage) -> str:
        self.stored.append(message)
        return message.queue_id


def dropped(*paths: str, content: bytes = REDIRECTED + LETTER, owner: int = SPEAKER, account: str = "anna") -> Dropped:
    return Dropped("name", owner, "anna@here.example", paths or (FAR,), content, account)


@pytest.mark.parametrize(
    ("owner", "account", "may"),
    [(SPEAKER, "anna", True), (0, "anna", False), (SPEAKER + 1, "anna", False), (SPEAKER, "../anna", False)],
)
def test_only_dovecot_s_user_speaks_for_accounts(owner: int, account: str, may: bool) -> None:
    assert Place().mail.may_speak(dropped(owner=owner, account=account)) is may


@pytest.mark.parametrize(
    ("outside", "paths", "content", "why"),
    [
        (False, (NEAR,), REDIRECTED + LETTER, ""),
        (False, (FAR,), REDIRECTED + LETTER, "site.mailboxes.forward_outside does not allow it"),
        (False, (NEAR, FAR), REDIRECTED + LETTER, "site.mailboxes.forward_outside does not allow it"),
        (True, (NEAR, FAR), REDIRECTED + LETTER, ""),
        (True, (NEAR, BEFORE), REDIRECTED + LETTER, "it would go round in a loop"),
        (True, (FAR,), REDIRECTED + b"Received: x\r\n" * 100 + LETTER, "it would go round in a loop"),
        (False, (FAR,), b"Auto-Submitted: auto-replied (vacation)\r\n" + LETTER, ""),
    ],
)
def test_what_may_leave(outside: bool, paths: tuple[str, ...], content: bytes, why: str) -> None:
    assert Place(forward_outside=outside).mail.why_not(dropped(*paths, content=content)) == why


def test_what_is_kept_goes_past_scripts_and_aliases_and_is_told() -> None:
    place = Place()
    assert asyncio.run(place.mail.keep(dropped(), "why"))
    (message,) = place.stored
    assert (message.envelope.reverse_path, message.envelope.forward_paths) == (BEFORE, (BEFORE,))
    assert message.content.whole() == REDIRECTED + LETTER
    assert message.envelope.body_8bit
    assert set(message.tags) == {EXPANDED, PAST_SIEVE}
    told = {"queue_id": "0NEW", "account": "anna", "recipients": [FAR], "why": "why"}
    assert place.rows == [("mailbox.kept", told)]


def test_of_several_redirects_one_copy_is_kept_and_of_two_messages_two() -> None:
    place = Place()
    for one in (dropped(FAR), dropped("other@far.example"), dropped(content=REDIRECTED + b"Subject: y\r\n\r\n")):
        asyncio.run(place.mail.keep(one, "why"))
    first, second, third = (message.source_id for message in place.stored)
    assert first == second != third


def test_of_a_reply_nothing_is_kept() -> None:
    place = Place()
    assert not asyncio.run(place.mail.keep(dropped(content=LETTER), "why"))
    assert place.stored == []
