"""A mailbox of a real size moves, by the command that an administrator types: what IMAP shows before, it shows after.

EGRESSGUARD_IMPORTED=50000: so many messages, 2 GB, from each source (`make system`). Else a small one, from Courier.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from benchmarks.relay_usage import peak_octets
from egressguard.mailbox.accounts import Accounts
from tests.mailbox.takeover.large import FOLDERS, base_name, flags, letter, make_maildir, make_mboxes, sizes
from tests.mailbox.takeover.servers import Courier, Dovecot, give, mailutil, needs_dovecot, seen_by_a_client

MESSAGES = int(os.environ.get("EGRESSGUARD_IMPORTED", "60"))
MOST_OCTETS = 200 * 1024 * 1024
"""Of memory, whatever the mailbox holds."""
SOURCES = ("dovecot", "courier", "qmail", "uw", "mbox")
ALWAYS = "courier"
LETTERS = {"S": rb"\Seen", "R": rb"\Answered", "F": rb"\Flagged"}


def digest(content):
    return hashlib.sha256(content).digest()


@pytest.fixture(params=SOURCES)
def source(request):
    if request.param != ALWAYS and "EGRESSGUARD_IMPORTED" not in os.environ:
        pytest.skip("a large one takes minutes: set EGRESSGUARD_IMPORTED")
    needs_dovecot()
    return request.param


def make(source, home):
    """(the server that shows it before, or None; the command's words)."""
    if source in {"dovecot", "courier", "qmail"}:
        make_maildir(home / "Maildir", MESSAGES, source)
        give(home)
        server = {"dovecot": lambda: Dovecot(home, "maildir:~/Maildir"), "courier": lambda: Courier(home)}.get(source)
        return server and server(), [home / "Maildir"]
    make_mboxes(home / "mail", home / "box", MESSAGES)
    give(home)
    if source == "mbox":
        server = Dovecot(home, "mbox:~/mail:INBOX=~/box", separator="/")
        return server, [home / "mail", "--inbox", home / "box"]
    return by_uw_imap(home), [home / "uw", "--inbox", home / "uw-box", "--format", "uw"]


def by_uw_imap(home):
    """Files that UW IMAP wrote. Dovecot, which reads its UIDs and flags from them, shows a copy: it may write there."""
    (home / "uw").mkdir()
    give(home / "uw")
    mailutil(home, "copy", "box", "uw-box")
    for number in range(1, FOLDERS):
        mailutil(home, "copy", f"mail/folder{number}", f"uw/folder{number}")
    for path in (home / "uw-box", *(home / "uw").iterdir()):
        with path.open("rb") as file:
            assert b"FOLDER INTERNAL DATA" in (head := file.read(4096)) or b"X-IMAPbase: " in head
    shutil.copytree(home / "uw", home / "shown")
    shutil.copy(home / "uw-box", home / "shown-box")
    give(home)
    return Dovecot(home, "mbox:~/shown:INBOX=~/shown-box", separator="/")


def use(server):
    """Keywords, and gaps in the UIDs."""
    client = server.imap()
    names = ["INBOX", *(f'"{server.prefix}folder{number}"' for number in range(1, FOLDERS))]
    for name in names:
        assert client.select(name)[0] == "OK"
        client.store("2", "+FLAGS", r"(\Deleted)")
        client.expunge()
        client.store("3:5", "+FLAGS", "($Label1 work)")
    client.logout()


def take_over(world, words):
    """Run the command; the mailbox, what the command says, the most octets of memory, seconds."""
    state = world / "state"
    for part in ("accounts", "mailboxes"):
        (state / part).mkdir(parents=True)
    Accounts(state / "accounts" / "passwd").add("anna", "secret")
    give(state / "mailboxes")
    command = [sys.executable, "-m", "egressguard", "mailbox", "import", "--state", state, *words, "--account", "anna"]
    started, peak = time.monotonic(), 0
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            peak = max(peak, peak_octets(process.pid))
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
        said = json.loads(process.stdout.read())
    return state / "mailboxes" / "anna", said, peak, time.monotonic() - started


def qmails():
    """{POP3's name: (flags, digest)} of INBOX, as the files were written: qmail has no IMAP."""
    inbox = list(enumerate(sizes(MESSAGES)))[::FOLDERS]
    return {
        base_name(number): (
            frozenset(LETTERS[one] for one in flags(number)),
            digest(letter(number, size).replace(b"\n", b"\r\n")),
        )
        for number, size in inbox
    }


def test_a_large_mailbox_moves_whole(world, home, source):
    server, words = make(source, home)
    if source in {"dovecot", "courier", "mbox"}:
        use(server)
    before = seen_by_a_client(server, digest) if server else None
    uidls = server.uidls() if server and source != "uw" else list(qmails())
    size = sum(path.stat().st_size for path in words[0].rglob("*"))

    mailbox, said, peak, seconds = take_over(world, words)

    told = f"{source}: {said['messages']} messages, {size / 1e6:.0f} MB in {seconds:.1f} s, {peak / 1e6:.0f} MB memory"
    print(f"\n{told}", flush=True)
    assert said["problems"] == 0
    assert 0 < peak < MOST_OCTETS
    here = Dovecot(mailbox, f"maildir:{mailbox}", uidl_format="%g")
    after = seen_by_a_client(here, digest)
    assert sum(len(messages) for _, _, messages in after[0].values()) == said["messages"]
    if before is not None:
        gaps = 0 if source == "uw" else FOLDERS
        assert said["messages"] == MESSAGES - gaps
        assert after == before
    if source != "uw":
        assert here.uidls() == uidls
    if source == "qmail":
        messages = after[0]["INBOX"][2]
        assert [(flags, octets) for flags, _, octets in messages.values()] == list(qmails().values())
        assert said["messages"] == MESSAGES
