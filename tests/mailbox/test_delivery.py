from __future__ import annotations

import asyncio
import errno
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.outcome import Result
from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.store.content import Content
from egressguard.store.durable import Disk

CONTENT = b"From: <x@example.net>\r\nSubject: hello\r\n\r\n8-bit \xff\xfe, a dot line\r\n.\r\nend\r\n"
TRACE = b"Return-Path: <x@example.net>\r\nDelivered-To: anna@example.org\r\n"


class Names:
    def __init__(self, *names):
        self.names = set(names)

    def exists(self, name):
        return name in self.names


class Unreadable:
    def exists(self, name):
        raise PermissionError(errno.EACCES, "Permission denied")


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "mailboxes"
    root.mkdir()
    return root


def make(root, accounts=None, **more):
    return MaildirDelivery(root, accounts or Names("anna", "bob"), **more)


def deliver(delivery, queue_id="q1", to="anna@example.org", sender="x@example.net", content=CONTENT):
    return asyncio.run(delivery.deliver(queue_id, to, sender, Content.of(content)))


def messages(root, account="anna"):
    return sorted((root / account).glob("new/*")) + sorted((root / account).glob("cur/*"))


def test_the_octets_are_kept_and_the_trace_fields_stand_before_them(root):
    outcome = deliver(make(root))

    assert outcome.result is Result.DELIVERED
    [message] = messages(root)
    assert message.read_bytes() == TRACE + CONTENT


def test_dovecot_s_group_may_read_and_rename(root):
    deliver(make(root))

    [message] = messages(root)
    assert stat.S_IMODE(message.stat().st_mode) == 0o660
    assert stat.S_IMODE(message.parent.stat().st_mode) == 0o2770


@pytest.mark.parametrize("to", ["ANNA@example.org", "anna+lists@example.org", '"anna"@example.org', "anna"])
def test_spellings_of_one_account(root, to):
    assert deliver(make(root), to=to).result is Result.DELIVERED
    assert len(messages(root)) == 1


def test_the_null_reverse_path_is_kept_as_such(root):
    deliver(make(root), sender="")

    assert messages(root)[0].read_bytes().startswith(b"Return-Path: <>\r\n")


def test_delivering_twice_makes_one(root):
    for _ in range(2):
        assert deliver(make(root)).result is Result.DELIVERED

    assert len(messages(root)) == 1


def test_a_message_that_was_read_meanwhile_is_not_delivered_again(root):
    deliver(make(root))
    [message] = messages(root)
    message.rename(root / "anna" / "cur" / f"{message.name}:2,S")

    assert deliver(make(root)).result is Result.DELIVERED
    assert len(messages(root)) == 1


def test_a_queue_id_that_begins_like_another_is_another(root):
    delivery = make(root)
    deliver(delivery, queue_id="q1")
    deliver(delivery, queue_id="q11")
    deliver(delivery, queue_id="1")

    assert len(messages(root)) == 3


def test_two_paths_of_one_account_at_once_make_one(root):
    delivery = make(root)

    async def both():
        return await asyncio.gather(
            *(delivery.deliver("q1", f"anna+{n}@example.org", "x@example.net", Content.of(CONTENT)) for n in range(10))
        )

    assert {outcome.result for outcome in asyncio.run(both())} == {Result.DELIVERED}
    assert len(messages(root)) == 1


def test_many_at_once_all_arrive(root):
    delivery = make(root)

    async def many():
        return await asyncio.gather(
            *(delivery.deliver(f"q{n}", "anna@example.org", "x@example.net", Content.of(CONTENT)) for n in range(50))
        )

    asyncio.run(many())
    assert len(messages(root)) == 50
    assert list((root / "anna" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    "to", ["nobody@example.org", '"../anna"@example.org', '"anna/../bob"@example.org', "@x", "a" * 300, "an\0na"]
)
def test_an_unknown_or_tricky_recipient_is_permanent_and_touches_no_file(root, to):
    outcome = deliver(make(root), to=to)

    assert outcome.result is Result.PERMANENT
    assert outcome.status in ("5.1.1", "5.1.3")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("path", ["x@example.net>\r\nBcc: y", "x\n@example.net"])
def test_fields_cannot_be_smuggled_in_through_a_path(root, path):
    assert deliver(make(root), sender=path).status == "5.1.3"
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("queue_id", ["", "../x", "a/b", "a.b", "a" * 33, "a:2,S"])
def test_a_queue_id_that_is_none_is_a_fault_of_the_caller(root, queue_id):
    with pytest.raises(ValueError, match="queue id"):
        deliver(make(root), queue_id=queue_id)


def test_accounts_that_cannot_be_read_defer(root):
    assert deliver(make(root, Unreadable())).result is Result.TRANSIENT


def test_postmaster_has_mail_even_without_an_account(root):
    delivery = make(root, postmaster="bob")

    assert delivery.exists("Postmaster")
    assert deliver(delivery, to="postmaster").result is Result.DELIVERED
    assert len(messages(root, "bob")) == 1


def test_an_account_named_postmaster_comes_first(root):
    delivery = make(root, Names("postmaster", "bob"), postmaster="bob")
    deliver(delivery, to="postmaster@example.org")

    assert len(messages(root, "postmaster")) == 1


def test_exists_answers_as_deliver_would(root):
    delivery = make(root)

    assert delivery.exists("anna+x")
    assert not delivery.exists("nobody")
    assert not delivery.exists("../anna")
    assert not delivery.exists("postmaster")


STEPS = ["open", "write", "fsync", "close", "rename"]


def failing(step, number, after=0):
    """A disk whose `step` fails from its call number `after` on."""
    calls = iter(range(10**6))
    real = getattr(Disk, step)

    def fail(*args, **kwargs):
        if next(calls) < after:
            return real(*args, **kwargs)
        if step == "close":
            real(*args)
        raise OSError(number, os.strerror(number))

    return type("FailingDisk", (Disk,), {step: staticmethod(fail)})


@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_is_transient_and_the_next_try_makes_exactly_one(root, step, after):
    seen_failing = False
    outcome = deliver(make(root, disk=failing(step, errno.EIO, after)))
    if outcome.result is not Result.DELIVERED:
        seen_failing = True
        assert outcome.status == "4.3.0"
    # Three directories are synced and one file is written: fewer calls of a step than `after` is no failure.
    assert seen_failing or after >= 1

    assert deliver(make(root)).result is Result.DELIVERED
    [message] = messages(root)
    assert message.read_bytes() == TRACE + CONTENT
    assert list((root / "anna" / "tmp").iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, "4.3.1"), (errno.EDQUOT, "4.2.2"), (errno.EIO, "4.3.0")])
def test_what_is_full_is_told_apart(root, number, status):
    outcome = deliver(make(root, disk=failing("write", number)))

    assert (outcome.result, outcome.status) == (Result.TRANSIENT, status)
    assert messages(root) == []


def test_delivered_is_said_after_the_directory_is_synced(root):
    seen = []

    def spy(name):
        real = getattr(Disk, name)
        return staticmethod(lambda *a, **k: (seen.append(name), real(*a, **k))[1])

    delivery = make(root)
    deliver(delivery)
    delivery._disk = type("Spy", (Disk,), {name: spy(name) for name in ("write", "fsync", "rename")})
    deliver(delivery, queue_id="q2")

    assert seen == ["write", "fsync", "rename", "fsync"]


def test_a_maildir_removed_under_way_is_made_again(root):
    delivery = make(root)
    deliver(delivery)
    for part in ("tmp", "new", "cur"):
        for file in (root / "anna" / part).iterdir():
            file.unlink()
        (root / "anna" / part).rmdir()

    assert deliver(delivery, queue_id="q2").result is Result.TRANSIENT
    assert deliver(delivery, queue_id="q2").result is Result.DELIVERED


@given(content=st.binary(max_size=2000))
def test_any_octets_come_back_as_they_went_in(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("m")
    deliver(make(root), content=content)

    assert messages(root)[0].read_bytes() == TRACE + content
