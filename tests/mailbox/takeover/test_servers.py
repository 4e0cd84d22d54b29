"""A mail program must not notice the move: what the old server showed, the new one shows, octet for octet."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.mailbox.takeover.importing import Asked, open_source, take_over
from egressguard.mailbox.takeover.stage import Stage
from egressguard.mailbox.takeover.uid_lists import parse_dovecot
from egressguard.mailbox.takeover.verify import compare_files
from tests.mailbox.takeover.samples import LETTERS, fill
from tests.mailbox.takeover.servers import (
    OWNER,
    Courier,
    Dovecot,
    give,
    mailutil,
    needs_dovecot,
    peer,
    seen_by_a_client,
)

OURS = "%g"
"""The pop3_uidl_format of our own configuration."""


def move(world, asked, **how):
    """Take an account over; the mailbox's server."""
    stage = Stage(world / "stage", OWNER)
    mailbox = world / "mailboxes" / "anna"
    mailbox.parent.mkdir(exist_ok=True)
    give(mailbox.parent)
    source = open_source(asked)
    try:
        outcome = take_over(
            source, stage, mailbox, **{"prepare": False, "may_merge": False, "tick": lambda _: None} | how
        )
        assert outcome.tally.failed == 0, outcome.problems
        compared = compare_files(open_source(asked), stage.ledger, mailbox, lambda _: None)
        assert compared.differences.told == []
        assert compared.messages == outcome.tally.messages
    finally:
        stage.close()
    return Dovecot(mailbox, f"maildir:{mailbox}", uidl_format=OURS)


def dovecot_maildir(world, home):
    return Dovecot(home, "maildir:~/Maildir"), Asked(home / "Maildir")


def dovecot_fs(world, home):
    return Dovecot(home, "maildir:~/Maildir:LAYOUT=fs", separator="/"), Asked(home / "Maildir")


def dovecot_mbox(world, home):
    (home / "mail").mkdir()
    give(home)
    server = Dovecot(home, "mbox:~/mail:INBOX=~/inbox", separator="/")
    return server, Asked(home / "mail", home / "inbox")


def courier(world, home):
    return Courier(home), Asked(home / "Maildir")


SOURCES = (dovecot_maildir, dovecot_fs, dovecot_mbox, courier)
SYNCED = SOURCES if "EGRESSGUARD_KILLS" in os.environ else (dovecot_maildir,)


def without_empty_ones(seen):
    """UIDVALIDITY of a folder without messages is not kept by every format, and no client has anything there."""
    folders, subscribed = seen
    return {name: told for name, told in folders.items() if told[2]}, subscribed


@pytest.mark.parametrize("source", SOURCES, ids=lambda made: made.__name__)
def test_no_mail_program_notices_the_move(world, home, source):
    needs_dovecot()
    server, asked = source(world, home)
    fill(server.imap(), server.prefix, server.separator)
    before, uidls = seen_by_a_client(server), server.uidls()
    before = seen_by_a_client(server)  # Courier's POP3 server moves what is new
    here = move(world, asked)
    after = seen_by_a_client(here)
    assert len(before[0]["INBOX"][2]) == 2 * len(LETTERS) - 2
    assert without_empty_ones(after) == without_empty_ones(before)
    assert here.uidls() == uidls


@pytest.mark.parametrize("source", SOURCES[:1] + SOURCES[3:], ids=lambda made: made.__name__)
def test_pop3_shows_messages_in_the_order_that_it_did(world, home, source):
    """Which need not be IMAP's: Courier's POP3 server goes by names, Dovecot's by what its list says beyond UIDs."""
    server, asked = source(world, home)
    for part in ("cur", "new", "tmp"):
        (home / "Maildir" / part).mkdir(parents=True, exist_ok=True)
    for name in ("1700000000.M99999P1.host", "1700000000.M100000P1.host", "1700000000.M100001P1.host"):
        (home / "Maildir" / "new" / name).write_bytes(f"Subject: {name}\n\nbody\n".encode())
        give(home)
        client = server.imap()  # UIDs are given in the order of arrival
        client.select("INBOX")
        client.logout()
    if source is dovecot_maildir:
        listed = home / "Maildir" / "dovecot-uidlist"
        first, *lines = listed.read_bytes().splitlines()
        orders = zip(lines, (b" O3 :", b" O1 :", b" O2 :"), strict=True)
        listed.write_bytes(b"\n".join([first, *(line.replace(b" :", order) for line, order in orders), b""]))
    uidls = server.uidls()
    messages = seen_by_a_client(server)[0]["INBOX"][2]
    assert [content.split()[1] for _, _, content in messages.values()] == [
        b"1700000000.M99999P1.host",
        b"1700000000.M100000P1.host",
        b"1700000000.M100001P1.host",
    ]
    here = move(world, asked)
    assert seen_by_a_client(here)[0]["INBOX"][2] == messages
    assert here.uidls() == uidls
    listed = parse_dovecot((world / "mailboxes/anna/dovecot-uidlist").read_bytes().splitlines())
    assert [given.pop3_order for given in listed.given.values()] == [3, 1, 2]


def test_uw_imaps_mailboxes_keep_their_uids(world, home):
    needs_dovecot()
    (home / "box").write_bytes(
        b"From anna@example.org Thu Nov 26 16:39:50 2026\nSubject: one\nStatus: RO\nX-Status: AF\n\nbody one\n\n"
        b"From bob@example.org Thu Nov 26 16:40:50 2026 +0100\nSubject: two\n\nbody two\n>From x\n\n"
    )
    give(home)
    mailutil(home, "copy", "box", "saved")
    text = (home / "saved").read_bytes()
    assert b"FOLDER INTERNAL DATA" in text or b"X-IMAPbase: " in text  # it is UW IMAP's own file
    here = move(world, Asked(home / "saved", form="uw"))
    validity, following, messages = seen_by_a_client(here)[0]["INBOX"]
    assert f"{validity} {following - 1:010}".encode() in text or b"X-IMAP: %d" % validity in text
    assert [(uid, content) for uid, (_, _, content) in messages.items()] == [
        (1, b"Subject: one\r\n\r\nbody one\r\n"),
        (2, b"Subject: two\r\n\r\nbody two\r\n>From x\r\n"),
    ]
    assert {b"\\Seen", b"\\Answered", b"\\Flagged"} == messages[1][0]


def test_qmails_maildir_keeps_the_names_that_pop3_showed(world, home):
    for part in ("new", "cur", "tmp"):
        (home / "Maildir" / part).mkdir(parents=True)
    (home / "Maildir/cur/1700000000.1234.host:2,S").write_bytes(b"Subject: a\n\na\n")
    (home / "Maildir/new/1700000001.1235.host").write_bytes(b"Subject: b\n\nb\n")
    give(home)
    here = move(world, Asked(home / "Maildir"))
    assert here.uidls() == ["1700000000.1234.host", "1700000001.1235.host"]
    messages = seen_by_a_client(here)[0]["INBOX"][2]
    assert [flags for flags, _, _ in messages.values()] == [{b"\\Seen"}, frozenset()]


@pytest.mark.parametrize("source", SYNCED, ids=lambda made: made.__name__)
def test_mbsync_downloads_nothing_anew(world, home, source):
    mbsync = peer("isync", "usr/bin/mbsync") / "usr/bin/mbsync"
    needs_dovecot()
    server, asked = source(world, home)
    fill(server.imap(), server.prefix, server.separator)
    local = world / "local"
    local.mkdir()
    assert sync(mbsync, world, local, server, "first") > 20
    before = {path: path.stat().st_mtime_ns for path in local.rglob("*") if path.parent.name in {"cur", "new"}}
    here = move(world, asked)
    assert sync(mbsync, world, local, here, "second") == 0
    after = {path: path.stat().st_mtime_ns for path in local.rglob("*") if path.parent.name in {"cur", "new"}}
    assert after == before
    fresh = here.imap()
    fresh.append("INBOX", None, None, b"Subject: new\r\n\r\nnew\r\n")
    fresh.logout()
    assert sync(mbsync, world, local, here, "third") == 1  # it would have


def sync(mbsync, world, local, server, name):
    """Run mbsync; how many messages it fetched."""
    script = world / "tunnel"
    words = ["env", "-i", *(f"{key}={value}" for key, value in server.env.items()), *server.command]
    if isinstance(server, Courier):
        words = [sys.executable, str(Path(__file__).with_name("greet.py")), *words]
    script.write_text(f"#!/bin/sh\ncd {server.home}\nexec {shlex.join(words)} 2>/dev/null\n")
    script.chmod(0o755)
    config = world / "mbsyncrc"
    config.write_text(
        f'IMAPStore far\nTunnel "{script}"\n'
        + (f'PathDelimiter "{server.separator}"\nPath "{server.prefix}"\n' if server.prefix else "")
        + f"\nMaildirStore near\nSubFolders Verbatim\nPath {local}/\nInbox {local}/INBOX\n\n"
        "Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\nSync Pull\nSyncState *\n"
    )
    done = subprocess.run(
        [mbsync, "-c", config, "-V", "all"], capture_output=True, env={"HOME": str(world)}, check=False
    )
    assert done.returncode == 0, (name, done.stdout[-2000:], done.stderr[-2000:])
    before = getattr(sync, "known", {}).get(local, set())
    there = {path.name.partition(":")[0] for path in Path(local).rglob("*") if path.parent.name in {"cur", "new"}}
    sync.known = {local: there}
    return len(there - before)
