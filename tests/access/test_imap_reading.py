"""What was taken over, seen through the running Dovecot: without a password, and without changing a flag."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from egressguard.access.imap_reading import NoImap, compare_over_imap, session
from egressguard.mailbox.takeover.importing import Asked, open_source, take_over
from egressguard.mailbox.takeover.source import Problems
from egressguard.mailbox.takeover.stage import Stage
from egressguard.mailbox.takeover.verify import compare_files
from tests.mailbox.takeover.made import maildir

BODIES = (b"Subject: a\n\nx\n", b"Subject: \xff\r\n\r\nCRLF\r\n", b"Subject: no end\n\nend", b"Subject: nul\n\na\0b\n")


@pytest.fixture
def moved(house, programs, start, tmp_path):
    """(the running server, what IMAP is to show)."""
    house.add("anna")
    running = start(programs).wait_running()
    running.imap("anna").logout()  # it has opened the empty mailbox before
    messages = [(f"{1700000000 + n}.M1P1.host", ("", "FS", "a")[n % 3], body) for n, body in enumerate(BODIES)]
    source = maildir(tmp_path / "source", messages, validity=77, following=50)
    maildir(source, messages[:1], validity=78, folder=".A.B c")
    (source / "dovecot-keywords").write_text("0 $Label1\n")
    mailbox = house.directory / "mailboxes/anna"
    owner = (pwd.getpwnam(house.user).pw_uid, grp.getgrnam(house.group).gr_gid) if os.geteuid() == 0 else None
    stage = Stage(house.directory / "stage", owner)
    take_over(open_source(Asked(source)), stage, mailbox, prepare=False, may_merge=False, tick=lambda _octets: None)
    compared = compare_files(open_source(Asked(source)), stage.ledger, mailbox, lambda _octets: None)
    stage.close()
    assert compared.differences.told == []
    return running, compared


def compare(running, compared):
    problems = Problems()
    with session(running.house.model().config, "anna") as client:
        assert compare_over_imap(client, compared.folders, problems) == len(BODIES) + 1
    return problems.told


def test_imap_shows_what_the_source_had(moved):
    running, compared = moved
    assert compare(running, compared) == []
    client = running.imap("anna")
    client.select("INBOX")
    assert client.response("UIDNEXT")[1] == [b"50"]
    assert client.search(None, "UNSEEN")[1] == [b"1 3 4"]  # the comparison has read nothing


def test_each_difference_is_told(moved):
    running, compared = moved
    client = running.imap("anna")
    client.select("INBOX")
    client.uid("STORE", "1", "+FLAGS", r"(\Flagged)")
    client.uid("STORE", "2", "-FLAGS", r"(\Seen)")
    client.uid("STORE", "4", "+FLAGS", r"(other \Deleted)")
    client.expunge()
    client.delete('"A/B c"')
    client.logout()
    told = compare_differently(running, compared)
    assert told == [
        "INBOX: IMAP: UID 1: flags F, expected ",
        "INBOX: IMAP: UID 2: flags F, expected FS",
        "INBOX: IMAP: UID 4: not shown",
        "A/B c: IMAP does not show this folder",
    ]


def compare_differently(running, compared):
    problems = Problems()
    with session(running.house.model().config, "anna") as client:
        compare_over_imap(client, compared.folders, problems)
    return problems.told


def test_without_a_server_it_says_so(house, programs):
    with pytest.raises(NoImap, match="does the access role run"), session(house.directory / "none.conf", "anna"):
        pytest.fail("there is none")
    with pytest.raises(NoImap), session(house.directory / "none.conf", "../anna"):
        pytest.fail("that is no account")
