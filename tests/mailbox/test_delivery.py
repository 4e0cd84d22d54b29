from __future__ import annotations

import asyncio
import errno
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mail.outcome import Result
from egressguard.mailbox.delivery import ALONE_OCTETS, MaildirDelivery
from egressguard.mailbox.deposit import Deposit, outcome_of
from egressguard.mailbox.lanes import FEW
from egressguard.store.content import Content
from egressguard.store.durable import Disk
from tests.relay.setting import policy_of

CONTENT = b"From: <x@example.net>\r\nSubject: hello\r\n\r\n8-bit \xff\xfe, a dot line\r\n.\r\nend\r\n"
TRACE = b"Return-Path: <x@example.net>\r\nDelivered-To: anna@example.org\r\n"
POLICY = policy_of()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "mailboxes"
    root.mkdir()
    return root


def deposit(queue_id="q1", folder="INBOX", content=CONTENT, again=False, account="anna", **more):
    paths = {"reverse_path": "x@example.net", "forward_path": "anna@example.org"} | more
    content = content if isinstance(content, Content) else Content.of(content)
    return Deposit(account, folder, queue_id, content=content, is_again=again, **paths)


def deliver(delivery, *deposits):
    async def all_of_them():
        return await asyncio.gather(*(delivery.store(POLICY, one) for one in deposits), return_exceptions=True)

    found = [outcome_of(o) if isinstance(o, OSError) else o for o in asyncio.run(all_of_them())]
    return found[0] if len(found) == 1 else found


def messages(root, account="anna", folder=""):
    return sorted((root / account / folder).glob("new/*")) + sorted((root / account / folder).glob("cur/*"))


def test_the_octets_are_kept_and_the_trace_fields_stand_before_them(root):
    outcome = deliver(MaildirDelivery(root), deposit())

    assert outcome.result is Result.DELIVERED
    [message] = messages(root)
    assert message.read_bytes() == TRACE + CONTENT


def test_dovecot_s_group_may_read_and_rename(root):
    deliver(MaildirDelivery(root), deposit(), deposit("q2", folder="Lists/Debian"))

    for message in (*messages(root), *messages(root, folder=".Lists.Debian")):
        assert stat.S_IMODE(message.stat().st_mode) == 0o660
        assert stat.S_IMODE(message.parent.stat().st_mode) == 0o2770


def test_the_null_reverse_path_is_kept_as_such(root):
    deliver(MaildirDelivery(root), deposit(reverse_path=""))

    assert messages(root)[0].read_bytes().startswith(b"Return-Path: <>\r\n")


def test_a_folder_is_made_as_maildir_has_it(root):
    deliver(MaildirDelivery(root), deposit(folder="Listen/Gr\u00fc\u00dfe & mehr"))

    folder = root / "anna" / ".Listen.Gr&APwA3w-e &- mehr"
    assert len(messages(root, folder=folder.name)) == 1
    assert (folder / "maildirfolder").read_bytes() == b""
    assert messages(root) == []


def test_delivering_twice_makes_one(root):
    for again in (False, True):
        assert deliver(MaildirDelivery(root), deposit(again=again)).result is Result.DELIVERED

    assert len(messages(root)) == 1


def test_what_one_process_delivered_is_known_without_looking(root):
    delivery = MaildirDelivery(root)
    deliver(delivery, deposit())
    [message] = messages(root)
    message.unlink()  # by its owner

    assert deliver(delivery, deposit(), deposit(folder="Lists"))[0].result is Result.DELIVERED
    assert messages(root) == messages(root, folder=".Lists") == []


def test_a_message_that_was_read_meanwhile_is_not_delivered_again(root):
    deliver(MaildirDelivery(root), deposit())
    [message] = messages(root)
    message.rename(root / "anna" / "cur" / f"{message.name}:2,S")

    assert deliver(MaildirDelivery(root), deposit(again=True)).result is Result.DELIVERED
    assert len(messages(root)) == 1


def test_a_copy_in_another_folder_counts_when_the_rules_have_changed_since(root):
    deliver(MaildirDelivery(root), deposit(folder="Lists"))
    deliver(MaildirDelivery(root), deposit(again=True))

    assert messages(root) == []
    assert len(messages(root, folder=".Lists")) == 1


def test_a_queue_id_that_begins_like_another_is_another(root):
    deliver(MaildirDelivery(root), *(deposit(queue_id, again=True) for queue_id in ("q1", "q11", "1")))

    assert len(messages(root)) == 3


def test_two_paths_of_one_account_at_once_make_one(root):
    found = deliver(MaildirDelivery(root), *(deposit(forward_path=f"anna+{n}@example.org") for n in range(10)))

    assert {outcome.result for outcome in found} == {Result.DELIVERED}
    assert len(messages(root)) == 1


def test_many_at_once_all_arrive(root):
    deliver(MaildirDelivery(root), *(deposit(f"q{n}") for n in range(50)))

    assert len(messages(root)) == 50
    assert list((root / "anna" / "tmp").iterdir()) == []


@pytest.mark.parametrize("queue_id", ["", "../x", "a/b", "a.b", "a" * 33, "a:2,S"])
def test_a_queue_id_that_is_none_is_a_fault_of_the_caller(root, queue_id):
    assert isinstance(deliver(MaildirDelivery(root), deposit(queue_id)), ValueError)


@pytest.mark.parametrize(
    ("content", "bare"),
    [(b"a\r\n\r\nb\r\n", 0), (b"a\n\nb\n", 3), (b"a\r\n\r\nb\rc\nno end", 1), (b"\n", 1), (b"", 0)],
)
def test_the_name_tells_both_sizes_also_of_what_lies_in_pieces(root, tmp_path, content, bare):
    file = tmp_path / "content"
    file.write_bytes(b"\n" + content)  # behind a piece that ends with CR
    added = []
    delivery = MaildirDelivery(root, added=lambda *told: added.append(told))
    deliver(delivery, deposit(content=content), deposit("q2", content=Content(b"\r", b"", file, len(content) + 1)))

    for message, more in zip(messages(root), (0, 2), strict=True):
        octets = len(TRACE) + len(content) + more
        assert message.stat().st_size == octets
        assert message.name.partition(",")[2] == f"S={octets},W={octets + bare}"
        assert ("anna", octets + bare) in added


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


@pytest.mark.parametrize("folder", ["INBOX", "Lists"])
@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_step_is_transient_and_the_next_try_makes_exactly_one(root, step, after, folder):
    outcome = deliver(MaildirDelivery(root, disk=failing(step, errno.EIO, after)), deposit(folder=folder))
    # With so few calls of a step there may be no failure.
    assert outcome.result is Result.DELIVERED or outcome.status == "4.3.0"
    assert outcome.result is not Result.DELIVERED or after >= 1

    assert deliver(MaildirDelivery(root), deposit(folder=folder, again=True)).result is Result.DELIVERED
    [message] = (*messages(root), *messages(root, folder=".Lists"))
    assert message.read_bytes() == TRACE + CONTENT
    assert list((root / "anna").rglob("tmp/*")) == []


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, "4.3.1"), (errno.EDQUOT, "4.2.2"), (errno.EIO, "4.3.0")])
def test_what_is_full_is_told_apart(root, number, status):
    outcome = deliver(MaildirDelivery(root, disk=failing("write", number)), deposit())

    assert (outcome.result, outcome.status) == (Result.TRANSIENT, status)
    assert messages(root) == []


def test_delivered_is_said_after_the_directory_is_synced(root):
    seen = []

    def spy(name):
        real = getattr(Disk, name)
        return staticmethod(lambda *a, **k: (seen.append(name), real(*a, **k))[1])

    delivery = MaildirDelivery(root)
    deliver(delivery, deposit())
    delivery._disk = type("Spy", (Disk,), {name: spy(name) for name in ("write", "fsync", "rename")})
    deliver(delivery, deposit("q2"))

    assert seen == ["write", "fsync", "rename", "fsync"]


def test_what_comes_together_shares_the_directory_s_sync_and_each_file_has_its_own(root):
    seen = []
    real = os.fsync

    def fsync(fd):
        seen.append(stat.S_IFMT(os.fstat(fd).st_mode))
        real(fd)

    delivery = MaildirDelivery(root)
    deliver(delivery, deposit(), deposit(account="bert"))
    delivery._disk = type("Spy", (Disk,), {"fsync": staticmethod(fsync)})
    deliver(delivery, *(deposit(f"a{n}") for n in range(FEW - 1)), deposit("b1", account="bert"))

    assert seen == [stat.S_IFREG] * FEW + [stat.S_IFDIR] * 2
    assert (len(messages(root)), len(messages(root, account="bert"))) == (FEW, 2)


@pytest.mark.parametrize("step", STEPS)
def test_of_what_comes_together_one_that_fails_harms_no_other(root, step):
    delivery = MaildirDelivery(root)
    deliver(delivery, deposit("before"))
    calls = iter(range(10**6))
    real = getattr(Disk, step)

    def fail(*args):
        if next(calls) == 2:
            if step == "close":
                real(*args)
            raise OSError(errno.EIO, "the third")
        return real(*args)

    delivery._disk = type("FailsOnce", (Disk,), {step: staticmethod(fail)})
    found = deliver(delivery, *(deposit(f"q{n}") for n in range(FEW)))

    assert [outcome.result for outcome in found].count(Result.TRANSIENT) == 1
    assert found[2].status == "4.3.0"
    assert len(messages(root)) == FEW
    assert list((root / "anna" / "tmp").iterdir()) == []


def test_a_directory_that_is_not_synced_delivers_none_of_its_messages(root):
    delivery = MaildirDelivery(root)
    deliver(delivery, deposit(), deposit(account="bert"))

    def fsync(fd):
        if os.path.samestat(os.fstat(fd), (root / "anna" / "new").stat()):
            raise OSError(errno.EIO, "the disk")
        os.fsync(fd)

    delivery._disk = type("FailsAtAnna", (Disk,), {"fsync": staticmethod(fsync)})
    found = deliver(delivery, *(deposit(f"q{n}") for n in range(2, 5)), deposit("q5", account="bert"))

    assert [outcome.result for outcome in found] == [Result.TRANSIENT] * 3 + [Result.DELIVERED]
    again = deliver(MaildirDelivery(root), *(deposit(f"q{n}", again=True) for n in range(2, 5)))
    assert {outcome.result for outcome in again} == {Result.DELIVERED}
    assert len(messages(root)) == 4


def test_a_fault_of_ours_with_one_message_harms_no_other(root):
    class Wrong(Content):
        def pieces(self):
            raise ValueError("ours")

        def in_front(self, _octets):
            return self

    delivery = MaildirDelivery(root)
    good, bad = deliver(delivery, deposit("q1"), deposit("q2", content=Wrong()))

    assert good.result is Result.DELIVERED
    assert isinstance(bad, ValueError)


def test_a_large_message_is_delivered_beside_the_others(root):
    large = b"x" * (ALONE_OCTETS + 1)
    found = deliver(MaildirDelivery(root), deposit("q1", content=large), deposit("q2"))

    assert {outcome.result for outcome in found} == {Result.DELIVERED}
    assert sorted(message.stat().st_size - len(TRACE) for message in messages(root)) == [len(CONTENT), len(large)]


def test_a_maildir_removed_under_way_is_made_again(root):
    delivery = MaildirDelivery(root)
    deliver(delivery, deposit())
    for part in ("tmp", "new", "cur"):
        for file in (root / "anna" / part).iterdir():
            file.unlink()
        (root / "anna" / part).rmdir()

    assert deliver(delivery, deposit("q2")).result is Result.TRANSIENT
    assert deliver(delivery, deposit("q2", again=True)).result is Result.DELIVERED


def test_what_a_crash_left_is_removed_and_nothing_else(root):
    deliver(MaildirDelivery(root), deposit(folder="Lists"))
    names = ["q1.0123456789abcdef", "q1.0123456789abcdef.x", "1700000000.M1P2.host", "q2.00000000"]
    for directory in (root / "anna" / "tmp", root / "anna" / ".Lists" / "tmp"):
        for name in names:
            (directory / name).touch()
    later = {"clock": lambda: os.stat(root).st_mtime + 3700}  # noqa: PTH116 -- the file system's clock
    deliver(MaildirDelivery(root), deposit("q2", folder="Lists"))
    assert len(list((root / "anna").rglob("tmp/q1.0123456789abcdef"))) == 2
    deliver(MaildirDelivery(root, **later), deposit("q3", folder="Lists"))
    assert sorted({path.name for path in (root / "anna").rglob("tmp/*")}) == sorted(names[1:])


@settings(max_examples=40)
@given(content=st.binary(max_size=2000))
def test_any_octets_come_back_as_they_went_in(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("m")
    deliver(MaildirDelivery(root), deposit(content=content))

    assert messages(root)[0].read_bytes() == TRACE + content


def test_a_second_delivery_finds_a_message_that_gets_other_flags_just_then(root, monkeypatch):
    """readdir(3) may give neither its old name nor its new one."""
    deliver(MaildirDelivery(root, clock=lambda: 1.0), deposit())
    real, hidden = os.scandir, [True]

    class Entries(list):
        def __enter__(self):
            return self

        def __exit__(self, *wrong): ...

    def missing(path):
        with real(path) as entries:
            found = Entries(entries)
        if found and hidden and str(path).endswith("/new"):
            hidden.clear()
            return Entries()
        return found

    monkeypatch.setattr(os, "scandir", missing)
    deliver(MaildirDelivery(root, clock=lambda: 2.0), deposit(again=True))
    assert hidden == []
    monkeypatch.undo()
    assert len(messages(root)) == 1
