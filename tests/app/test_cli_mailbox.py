"""`egressguard mailbox` as an administrator runs it: without a daemon, dry, prepared, killed, verified, exported."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from egressguard.mailbox.accounts import Accounts
from tests.mailbox.takeover.made import held, letters, maildir

PROGRAM = (sys.executable, "-m", "egressguard", "mailbox")


@pytest.fixture
def state(tmp_path):
    (tmp_path / "state/accounts").mkdir(parents=True)
    accounts = Accounts(tmp_path / "state/accounts/passwd")
    for name in ("anna", "bob"):
        accounts.add(name, "secret")
    return tmp_path / "state"


@pytest.fixture
def box(tmp_path):
    path = maildir(tmp_path / "home/anna/Maildir", letters(4), validity=77)
    maildir(path, letters(2, 10), validity=78, folder=".Sent")
    return path


def run(state, *words, **more):
    command = [*PROGRAM, words[0], "--state", str(state), *map(str, words[1:])]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


def row(done, status=0):
    assert done.returncode == status, done.stderr
    return json.loads(done.stdout)


def test_a_dry_run_changes_nothing(state, box):
    told = row(run(state, "import", box, "--account", "anna", "--dry-run", "--json"))
    assert (told["state"], told["format"], told["folders"], told["messages"]) == ("dry run", "dovecot", 2, 6)
    assert not (state / "mailboxes").exists() and not (state / "takeover").exists()


def test_a_mailbox_is_taken_over_and_verified(state, box):
    done = run(state, "import", box, "--account", "anna", "--verify", "--json")
    told = row(done)
    assert (told["state"], told["messages"], told["compared"], told["differences"]) == ("verified", 6, 6, 0)
    assert "not compared through IMAP" in done.stderr
    assert sorted(uid for uid, _, _ in held(state / "mailboxes/anna")[""].values()) == [1, 2, 3, 4]
    changed = next((state / "mailboxes/anna/cur").glob("*:2,S"))
    changed.write_bytes(b"other")
    done = run(state, "import", box, "--account", "anna", "--verify")
    assert done.returncode == 1 and "octets" in done.stderr and "differs" in done.stdout


def test_all_accounts_at_once(state, box, tmp_path):
    (tmp_path / "home/bob").mkdir()
    maildir(tmp_path / "home/bob/Maildir", letters(1, 30))
    maildir(tmp_path / "home/eve/Maildir", letters(1, 40))  # no account here
    done = run(state, "import", tmp_path / "home/%u/Maildir", "--json")
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["account"], one["messages"], one["format"]) for one in told] == [
        ("anna", 6, "dovecot"),
        ("bob", 1, "qmail"),
    ]
    assert sorted(path.name for path in (state / "mailboxes").iterdir()) == ["anna", "bob"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("{box}",), 2, "name the --account"),
        (("{box}", "--account", "eve"), 5, "user add"),
        (("{box}/%u", "--account", "anna"), 2, "leave --account out"),
        (("{box}/%u",), 5, "no account of this gateway has mail"),
        (("/nowhere/at/all", "--account", "anna"), 5, "no such file"),
        (("{box}", "--account", "anna", "--pop3-uidl", "%x"), 2, "expected %u"),
        (("{box}", "--account", "anna", "--verify", "--prepare"), 2, "not with --dry-run"),
        (("{box}", "--account", "anna", "--inbox", "/etc/hostname"), 1, "INBOX of its own"),
        (("/etc/hostname", "--account", "anna"), 1, "no mbox; expected"),
        (("{box}/cur", "--account", "anna", "--format", "courier"), 1, "no Maildir; expected cur/ and new/"),
    ],
)
def test_what_is_wrong_is_told_with_what_is_right(state, box, words, status, said):
    done = run(state, "import", *(word.format(box=box) for word in words))
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_a_mailbox_in_use_is_refused(state, box):
    maildir(state / "mailboxes/anna", letters(1, 50), validity=3)
    done = run(state, "import", box, "--account", "anna")
    assert done.returncode == 6 and "--merge" in done.stderr
    assert run(state, "import", box, "--account", "anna", "--merge").returncode == 0
    assert len(held(state / "mailboxes/anna")[""]) == 5


def test_killed_and_run_again(state, tmp_path):
    box = maildir(tmp_path / "big", letters(1500), validity=9)
    running = subprocess.Popen(
        [*PROGRAM, "import", "--state", str(state), str(box), "--account", "anna"], stderr=subprocess.DEVNULL
    )
    tree = state / "takeover/anna/tree/cur"
    while running.poll() is None and not (tree.is_dir() and sum(1 for _ in tree.iterdir()) > 300):
        pass
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (state / "mailboxes/anna").exists()
    assert row(run(state, "import", box, "--account", "anna", "--verify", "--json"))["differences"] == 0
    found = held(state / "mailboxes/anna")[""]
    assert {content: uid for content, (uid, _, _) in found.items()} == {
        content: number for number, (_, _, content) in enumerate(letters(1500), 1)
    }


@pytest.mark.parametrize("form", ["maildir", "mbox"])
def test_what_is_exported_comes_back_as_it_was(state, box, tmp_path, form):
    (box / "dovecot-keywords").write_text("0 $Label1\n")
    tagged = next((box / "cur").glob("*:2,S"))
    tagged.rename(tagged.with_name(tagged.name + "Fa"))
    (box / "cur/1700000099.M1P1.host:2,").write_bytes(b"Subject: from\n\nFrom there\n>From here\n")
    run(state, "import", box, "--account", "anna")
    told = row(run(state, "export", "anna", tmp_path / "out", "--format", form, "--json"))
    assert (told["folders"], told["messages"]) == (2, 7)
    if form == "mbox":
        assert b"\n>From there\n>>From here\n" in (tmp_path / "out/INBOX.mbox").read_bytes()
    how = ("--format", "mboxrd") if form == "mbox" else ()
    assert run(state, "import", tmp_path / "out", "--account", "bob", *how).returncode == 0
    anna, bob = (held(state / "mailboxes" / name) for name in ("anna", "bob"))
    assert bob == anna
    assert run(state, "export", "anna", tmp_path / "out", "--format", form).returncode == 1
    assert run(state, "export", "eve", tmp_path / "other").returncode == 5


def test_a_terminal_sees_a_bar(state, box):
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "import", "--state", str(state), str(box), "--account", "anna", "--json"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}, timeout=60, check=False
    )
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert done.returncode == 0 and json.loads(done.stdout)["messages"] == 6
    assert b"anna" in shown and b"100%" in shown
