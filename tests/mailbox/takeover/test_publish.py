"""A staged mailbox takes its place whole, wherever the program is killed, and whatever is delivered meanwhile."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from egressguard.mailbox.delivery import MaildirDelivery
from egressguard.mailbox.deposit import Deposit
from egressguard.mailbox.takeover.importing import Asked, open_source, take_over
from egressguard.mailbox.takeover.publish import InUse, is_used
from egressguard.mailbox.takeover.stage import Stage
from egressguard.store.content import Content
from tests.mailbox.takeover.made import held, letters, maildir
from tests.relay.setting import policy_of

EVENTS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.utime", "os.chmod", "open", "shutil.rmtree"}


def deliver(root, queue_id, body):
    content = Content.of(b"Subject: %s\r\n\r\n" % body)
    one = Deposit("anna", "INBOX", queue_id, "x@example.net", "anna@example.org", content)
    asyncio.run(MaildirDelivery(root).store(policy_of(), one))


def run(world, source, **how):
    stage = Stage(world / "stage")
    try:
        options = {"prepare": False, "may_merge": False, "tick": lambda _octets: None} | how
        return take_over(open_source(Asked(source)), stage, world / "mailboxes" / "anna", **options)
    finally:
        stage.close()


@pytest.fixture
def source(tmp_path):
    path = maildir(tmp_path / "source", letters(5), validity=77)
    maildir(path, letters(3, 10), validity=78, folder=".Sent")
    maildir(path, letters(2, 20), validity=79, folder=".A.B")
    (path / "subscriptions").write_text("V\t2\n\nSent\nA\tB\n")
    (tmp_path / "mailboxes").mkdir()
    return path


def expected(start, count):
    return {content: n for n, (_, _, content) in enumerate(letters(count, start), 1)}


def uids(messages):
    return {content: uid for content, (uid, _, _) in messages.items()}


def test_a_mailbox_comes_with_its_uids(tmp_path, source):
    assert run(tmp_path, source).published.with_uids
    found = held(tmp_path / "mailboxes/anna")
    assert {name: uids(messages) for name, messages in found.items()} == {
        "": expected(0, 5),
        ".Sent": expected(10, 3),
        ".A.B": expected(20, 2),
    }
    assert (tmp_path / "mailboxes/anna/dovecot-uidlist").read_text().startswith("3 V77 N6 G")


def test_mail_that_was_delivered_before_is_kept_and_comes_after(tmp_path, source):
    deliver(tmp_path / "mailboxes", "one", b"early")
    (tmp_path / "mailboxes/anna/.dovecot.sieve").write_text("keep;")
    assert run(tmp_path, source).published.moved_over == 1
    inbox = held(tmp_path / "mailboxes/anna")[""]
    [early] = [told for content, told in inbox.items() if b"early" in content]
    assert early == (None, "new", "") and len(inbox) == 6
    assert (tmp_path / "mailboxes/anna/.dovecot.sieve").read_text() == "keep;"


def test_prepared_is_not_in_place_and_follows_the_source(tmp_path, source):
    assert run(tmp_path, source, prepare=True).published is None
    assert not (tmp_path / "mailboxes/anna").exists()
    gone = next((source / "cur").glob("*:2,S"))
    gone.rename(gone.with_name(gone.name + "T"))
    next((source / ".Sent/cur").iterdir()).unlink()
    maildir(source, letters(1, 30), folder=".Late")
    outcome = run(tmp_path, source)
    assert (outcome.tally.copied, outcome.tally.removed) == (1, 1)
    found = held(tmp_path / "mailboxes/anna")
    assert sorted(found) == ["", ".A.B", ".Late", ".Sent"]
    assert len(found[".Sent"]) == 2 and [told[2] for told in found[""].values()].count("ST") == 1


def test_a_run_after_the_last_takes_only_what_came_since(tmp_path, source):
    run(tmp_path, source)
    mailbox = tmp_path / "mailboxes/anna"
    next((mailbox / "cur").iterdir()).unlink()  # its owner deleted a message
    import shutil

    shutil.rmtree(mailbox / ".A.B")  # and a folder
    maildir(source, letters(1, 40))
    outcome = run(tmp_path, source)
    assert outcome.tally.copied == 1 and not outcome.published.with_uids
    found = held(mailbox)
    assert sorted(found) == ["", ".Sent"]
    assert len(found[""]) == 5 and letters(1, 40)[0][2] in found[""]


def test_a_mailbox_in_use_is_left_alone_unless_it_is_to_be_merged(tmp_path, source):
    mailbox = maildir(tmp_path / "mailboxes/anna", letters(2, 50), validity=5)
    (mailbox / "dovecot-keywords").write_text("0 foo\n")
    (source / "dovecot-keywords").write_text("0 bar\n1 foo\n")
    tagged = next((source / "cur").glob("*:2,S"))
    tagged.rename(tagged.with_name(tagged.name + "ab"))
    assert is_used(mailbox)
    before = held(mailbox)
    with pytest.raises(InUse):
        run(tmp_path, source)
    assert held(mailbox) == before
    outcome = run(tmp_path, source, may_merge=True)
    assert not outcome.published.with_uids
    found = held(mailbox)
    assert uids(found[".Sent"]) == expected(10, 3)  # a folder that was not there has its UIDs
    assert len(found[""]) == 7 and set(uids(found[""]).values()) == {1, 2, None}
    assert uids(found[""]) | {content: None for content in expected(0, 5)} == uids(found[""])
    assert [flags for _, _, flags in found[""].values() if "a" in flags] == ["Sa"]  # foo's letter here
    assert run(tmp_path, source).tally.copied == 0


@pytest.mark.parametrize("lists", ["3 V1 N9 G0\n", "", "junk"])
def test_a_mailbox_whose_folders_are_empty_is_not_in_use(tmp_path, lists):
    mailbox = maildir(tmp_path / "anna", letters(1, 2))
    (mailbox / "dovecot-uidlist").write_text(lists)
    assert not is_used(mailbox)


@pytest.mark.parametrize("in_use", [False, True], ids=["fresh", "in use"])
def test_killed_anywhere_the_next_run_finishes(tmp_path, source, in_use):
    """A child is killed at its first, second, ... step on disk, until one gets to the end (by default: one in 25)."""
    stride = 1 if "EGRESSGUARD_KILLS" in os.environ else 25
    step = 0
    while True:
        world = tmp_path / f"world{step}"
        (world / "mailboxes").mkdir(parents=True)
        if in_use:
            maildir(world / "mailboxes/anna", letters(2, 50), validity=5)
        else:
            deliver(world / "mailboxes", "one", b"early")
        survived = _killed_at(step, world, source, may_merge=in_use)
        run(world, source, may_merge=in_use)
        run(world, source, may_merge=in_use)
        found = held(world / "mailboxes/anna")
        sizes = {name: len(messages) for name, messages in found.items()}
        assert sizes == {"": 7 if in_use else 6, ".Sent": 3, ".A.B": 2}, step
        assert uids(found[".Sent"]) == expected(10, 3), step
        if not in_use:
            early = [content for content in found[""] if b"early" in content]
            assert uids(found[""]) == expected(0, 5) | {early[0]: None}, step
        if survived:
            break
        step += stride
    assert step > 100


def _killed_at(step, world, source, **how):
    """Whether it came to the end before."""
    pid = os.fork()
    if pid == 0:
        left = step

        def count(event, _arguments):
            nonlocal left
            if event in EVENTS:
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            run(world, source, **how)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, 9}
    return status == 0
