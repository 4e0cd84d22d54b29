"""A backup beside running deliveries and IMAP changes is the mailbox of one moment; what it has comes back."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from egressguard.mailbox.backup.backups import Backups
from egressguard.mailbox.backup.manifest import BackupError, Entry, Manifests
from egressguard.mailbox.backup.objects import Objects
from egressguard.mailbox.backup.restore import Occupied, restore_all, restore_mailbox, restore_message
from egressguard.quarantine.maildir import HoldMaildir
from egressguard.store.content import Content
from tests.mailbox.takeover.made import held, letters, maildir

NOW = 1_800_000_000.0


def ignore(_octets):
    pass


def take(root, state, now=NOW, keep=None):
    backups = Backups(root, make=True)
    try:
        return backups.take(state, now, keep, ignore)
    finally:
        backups.close()


def restore(root, what, *words, at=None, **more):
    backups = Backups(root)
    try:
        return what(backups.objects, backups.entries(backups.chosen(at)), *words, ignore, **more)
    finally:
        backups.close()


def entire(state, without=()):
    """Every file that is no index, with its mode and date."""
    found = {}
    for path in sorted(state.rglob("*")):
        name = str(path.relative_to(state))
        if path.is_file() and name.partition("/")[0] not in without:
            found[name] = (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
    return found


@pytest.fixture
def state(tmp_path):
    state = tmp_path / "state"
    box = maildir(state / "mailboxes/anna", letters(5), validity=77)
    maildir(box, letters(3, 10), validity=78, folder=".Sent")
    (box / ".Sent/maildirfolder").touch()
    (box / "subscriptions").write_text("V\t2\n\nSent\n")
    (box / "dovecot.index.cache").write_bytes(b"made anew")
    maildir(state / "mailboxes/bob", letters(1, 20))
    quarantine = HoldMaildir(state / "quarantine")
    quarantine.write("AAAABBBB", "Held", Content.of(b"Subject: held\r\n\r\nx\r\n"), {"rule": "r"}, NOW)
    (state / "accounts").mkdir()
    (state / "accounts/passwd").write_text("anna:x\n")
    (state / "spool/body").mkdir(parents=True)
    (state / "spool/body/x").write_bytes(b"large")
    for name in ("spool/spool.sqlite", "journal/relay.sqlite"):
        (state / name).parent.mkdir(exist_ok=True)
        with sqlite3.connect(state / name) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE t (x)")
            db.execute("INSERT INTO t VALUES (1)")
        db.close()
    return state


def test_everything_comes_back_as_it_was(tmp_path, state):
    taken = take(tmp_path / "b", state)
    assert taken.problems == []
    there = tmp_path / "new"
    told = restore(tmp_path / "b", restore_all, there, with_spool=True)
    assert (told.files, told.with_uids) == (taken.files, 10)
    expected = entire(state)
    del expected["mailboxes/anna/dovecot.index.cache"]
    for name in [name for name in expected if name.endswith(("-shm", "-wal"))]:
        del expected[name]  # SQLite's, of a database in use
    databases = [name for name in expected if name.endswith(".sqlite")]
    found = entire(there)
    for name in databases:
        with sqlite3.connect(there / name) as db:
            assert db.execute("SELECT x FROM t").fetchall() == [(1,)]
        del expected[name], found[name]
    assert found == expected


def test_the_queue_comes_back_only_when_it_is_asked_for(tmp_path, state):
    take(tmp_path / "b", state)
    restore(tmp_path / "b", restore_all, tmp_path / "new", with_spool=False)
    assert not (tmp_path / "new/spool").exists() and (tmp_path / "new/mailboxes/anna").is_dir()


def test_nothing_that_is_there_is_replaced(tmp_path, state):
    take(tmp_path / "b", state)
    before = entire(state)
    with pytest.raises(Occupied, match="mailboxes"):
        restore(tmp_path / "b", restore_all, state, with_spool=True)
    assert entire(state) == before


def test_the_second_backup_copies_only_what_is_new(tmp_path, state):
    first = take(tmp_path / "b", state)
    read = next((state / "mailboxes/anna/cur").glob("*:2,S"))
    read.rename(read.with_name(f"{read.name}T"))  # a flag is no new message
    maildir(state / "mailboxes/anna", [("1800000000.M1P1.host", None, b"Subject: new\n\n")])
    second = take(tmp_path / "b", state, NOW + 60)
    assert first.new_files >= 10 and (second.new_files, second.new_octets) == (1, 14)
    assert second.files == first.files + 1


def test_old_backups_go_and_what_only_they_had(tmp_path, state):
    for number in range(4):
        maildir(state / "mailboxes/bob", [(f"180000000{number}.M1P1.host", None, b"Subject: %d\n\n" % number)])
        taken = take(tmp_path / "b", state, NOW + number, keep=2)
        (state / f"mailboxes/bob/new/180000000{number}.M1P1.host").unlink()
    assert len(taken.removed) == 1
    backups = Backups(tmp_path / "b")
    assert len(backups.manifests.names()) == 2
    assert list(backups.damaged()) == []
    objects = [path.read_bytes() for path in (tmp_path / "b/objects").rglob("*") if path.is_file()]
    assert sorted(octets for octets in objects if re.fullmatch(rb"Subject: \d\n\n", octets)) == [
        b"Subject: 2\n\n",
        b"Subject: 3\n\n",
    ]
    backups.close()


def test_a_mailbox_that_is_gone_comes_back_with_its_uids(tmp_path, state):
    import shutil

    take(tmp_path / "b", state)
    before = held(state / "mailboxes/anna")
    shutil.rmtree(state / "mailboxes/anna")
    (state / "mailboxes/anna/cur").mkdir(parents=True)  # the access role makes it anew at once
    told = restore(tmp_path / "b", restore_mailbox, state, "anna")
    assert (told.with_uids, told.as_new) == (8, 0)
    assert held(state / "mailboxes/anna") == before


def test_a_mailbox_gets_back_what_it_lacks_and_nothing_twice(tmp_path, state):
    take(tmp_path / "b", state)
    box = state / "mailboxes/anna"
    lost = next((box / "cur").glob("*:2,S"))
    content = lost.read_bytes()
    lost.unlink()
    moved = next((box / ".Sent/cur").iterdir())
    moved.rename(box / "cur/1900000000.other:2,S")  # its owner moved it
    maildir(box, [("1800000000.M1P1.host", "", b"Subject: since\n\n")])
    for _ in range(2):
        told = restore(tmp_path / "b", restore_mailbox, state, "anna")
    assert (told.as_new, told.there) == (0, 8)
    found = held(box)
    assert found[""][content] == (1, "cur", "S") or found[""][content][1:] == ("cur", "S")
    assert b"Subject: since\n\n" in found[""] and len(found[""]) == 7 and len(found[".Sent"]) == 2


def test_a_folder_that_is_gone_comes_back_with_its_uids(tmp_path, state):
    import shutil

    take(tmp_path / "b", state)
    before = held(state / "mailboxes/anna")[".Sent"]
    shutil.rmtree(state / "mailboxes/anna/.Sent")
    assert restore(tmp_path / "b", restore_mailbox, state, "anna").with_uids == 3
    assert held(state / "mailboxes/anna")[".Sent"] == before


def test_one_message_comes_back(tmp_path, state):
    take(tmp_path / "b", state)
    base, _, content = letters(1)[0]
    next((state / "mailboxes/anna/cur").glob(f"{base}:2,*")).unlink()
    assert restore(tmp_path / "b", restore_message, state, base).as_new == 1
    assert held(state / "mailboxes/anna")[""][content][1:] == ("cur", "S")
    assert restore(tmp_path / "b", restore_message, state, base).there == 1
    with pytest.raises(BackupError, match="no message 'nothing'"):
        restore(tmp_path / "b", restore_message, state, "nothing")


def test_a_held_message_comes_back_with_its_envelope(tmp_path, state):
    take(tmp_path / "b", state)
    quarantine = HoldMaildir(state / "quarantine")
    [(_, name)] = quarantine.names()
    quarantine.remove("AAAABBBB", state / "quarantine" / name)
    restore(tmp_path / "b", restore_message, state, "AAAABBBB")
    assert [message_id for message_id, _ in quarantine.names()] == ["AAAABBBB"]
    assert quarantine.facts("AAAABBBB") == {"rule": "r"}


def test_damage_is_found_and_never_restored(tmp_path, state):
    take(tmp_path / "b", state)
    content = letters(1)[0][2]
    [damaged] = [p for p in (tmp_path / "b/objects").rglob("*") if p.is_file() and p.read_bytes() == content]
    damaged.write_bytes(b"other")
    backups = Backups(tmp_path / "b")
    assert [path for _, path in backups.damaged()] == ["mailboxes/anna/cur/1700000000.M0P1.host:2,S"]
    backups.close()
    with pytest.raises(BackupError, match="damaged"):
        restore(tmp_path / "b", restore_all, tmp_path / "new", with_spool=False)
    assert not (tmp_path / "new/mailboxes").exists()
    damaged.unlink()
    with pytest.raises(BackupError, match="missing"):
        restore(tmp_path / "b", restore_all, tmp_path / "new", with_spool=False)


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "", "a//b", ".", "a/\0"])
def test_a_list_never_leads_out_of_where_it_is_restored(tmp_path, path):
    manifests = Manifests(tmp_path)
    name = manifests.write("20260101T000000Z", [Entry(path, "", 0, 0, "", "", 0)])
    with pytest.raises(BackupError, match="damaged"):
        list(manifests.read(name))


def test_a_list_that_was_cut_is_refused(tmp_path):
    import gzip

    manifests = Manifests(tmp_path)
    name = manifests.write("20260101T000000Z", [Entry("a", "", 0, 0, "", "", 0)] * 3)
    file = tmp_path / f"{name}.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
    for part in (lines[:-1], lines[:-2], lines[:-2] + lines[-1:], [], [b"{}\n"], [b"[]\n"]):
        file.write_bytes(gzip.compress(b"".join(part)))
        with pytest.raises(BackupError):
            list(manifests.read(name))
    assert manifests.write("20260101T000000Z", []) == "20260101T000000Z-2"


def test_links_are_no_part_of_it(tmp_path, state):
    (state / "mailboxes/anna/cur/9.link:2,").symlink_to("/etc/passwd")
    (state / "mailboxes/eve").symlink_to("/etc")
    os.mkfifo(state / "accounts/fifo")
    take(tmp_path / "b", state)
    restore(tmp_path / "b", restore_all, tmp_path / "new", with_spool=False)
    assert not (tmp_path / "new/mailboxes/eve").exists() and not (tmp_path / "new/accounts/fifo").exists()
    assert not any("link" in path.name for path in (tmp_path / "new/mailboxes/anna/cur").iterdir())


def test_octets_get_their_name_after_they_are_safe(tmp_path):
    objects = Objects(tmp_path)
    stored = objects.put([b"a", b"b"])
    assert stored.is_new and not objects.has(stored.digest)
    assert not objects.put([b"ab"]).is_new
    objects.settle()
    assert objects.is_whole(stored.digest) and list(objects.pieces(stored.digest)) == [b"ab"]
    objects.put([b"left"])
    assert [path.name for path in (Objects(tmp_path), tmp_path / "tmp")[1].iterdir()] == []


@pytest.mark.parametrize("step", range(0, 120, 13))
def test_killed_anywhere_what_was_there_is_whole_and_the_next_finishes(tmp_path, state, step):
    take(tmp_path / "b", state)
    maildir(state / "mailboxes/bob", letters(9, 60))
    pid = os.fork()
    if pid == 0:
        left = step

        def count(event, _arguments):
            nonlocal left
            if event in {"open", "os.rename", "os.mkdir", "os.remove"}:
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(count)
        take(tmp_path / "b", state, NOW + 1, keep=1)
        os._exit(0)
    os.waitpid(pid, 0)
    backups = Backups(tmp_path / "b")
    assert backups.manifests.names() and list(backups.damaged()) == []
    backups.close()
    take(tmp_path / "b", state, NOW + 2, keep=1)
    restore(tmp_path / "b", restore_all, tmp_path / "new", with_spool=False)
    assert held(tmp_path / "new/mailboxes/bob") == held(state / "mailboxes/bob")


def test_a_backup_beside_changes_is_a_mailbox_of_one_moment(tmp_path):
    """Deliveries, flags, moves from new to cur and expunges run; whatever is acknowledged before is in the backup."""
    state = tmp_path / "state"
    box = maildir(state / "mailboxes/anna", letters(100), validity=77)
    stop = threading.Event()
    deleted, delivered = set(), []

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            base = f"1900000000.M{number}P1.host"
            (box / "tmp" / base).write_bytes(b"Subject: late %d\n\n" % number)
            (box / "tmp" / base).rename(box / "new" / base)
            delivered.append(b"Subject: late %d\n\n" % number)
            for path in sorted((box / "new").iterdir())[:2]:
                path.rename(box / "cur" / f"{path.name}:2,")
            path = sorted((box / "cur").iterdir())[number % 20]
            if number % 3:
                path.rename(path.with_name(path.name.partition(":")[0] + ":2," + ("F", "S")[number % 2]))
            else:
                deleted.add(path.read_bytes())
                path.unlink()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for number in range(4):
            before = list(delivered)
            take(tmp_path / "b", state, NOW + number)
            gone = set(deleted)
            restore(tmp_path / "b", restore_all, tmp_path / f"new{number}", with_spool=False)
            found = held(tmp_path / f"new{number}/mailboxes/anna")[""]  # none is there twice
            lost = {content for content in before if content not in found} - gone
            assert lost == set()
            originals = {content: uid for uid, (_, _, content) in enumerate(letters(100), 1)}
            assert all(found[content][0] == uid for content, uid in originals.items() if content in found)
            assert set(originals) - set(found) <= gone
    finally:
        stop.set()
        thread.join()


def test_the_uids_of_either_look_hold(tmp_path, state):
    from egressguard.mailbox.backup.collect import _joined

    head = b"3 V7 N9 Gx"
    assert _joined([[head, b"1 :a", b"2 :b"], [b"3 V7 N10 Gx", b"2 :b", b"9 :c"]]) == b"3 V7 N10 Gx\n1 :a\n2 :b\n9 :c\n"
    assert _joined([[head, b"1 :a"], [b"3 V8 N2 Gx", b"1 :b"]]) == b"3 V8 N2 Gx\n1 :b\n"  # began anew
    assert _joined([[head, b"1 :a"]]) == b"3 V7 N9 Gx\n1 :a\n"


def command(*words):
    program = [sys.executable, "-m", "egressguard", *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


def test_the_commands(tmp_path, state):
    where = ("--state", state)
    done = command("backup", tmp_path / "b", *where, "--keep", "3", "--json")
    assert done.returncode == 0, done.stderr
    name = json.loads(done.stdout)["backup"]
    assert Path(tmp_path / "b").stat().st_mode & 0o077 == 0
    assert command("backup", tmp_path / "b", "--verify").stderr == "1 backups, all whole\n"
    assert json.loads(command("restore", tmp_path / "b", "--list", "--json").stdout)["backup"] == name
    listed = command("restore", tmp_path / "b", "--list", "--account", "anna").stdout
    assert "cur/1700000000.M0P1.host:2,S" in listed
    next((state / "mailboxes/anna/cur").glob("1700000000.*")).unlink()
    done = command("restore", tmp_path / "b", *where, "--account", "anna", "--json")
    assert json.loads(done.stdout)["messages_as_new"] == 1
    assert command("restore", tmp_path / "b", *where, "--all").returncode == 6
    done = command("restore", tmp_path / "b", "--state", tmp_path / "new", "--all", "--at", name)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("restore", "{b}"), 2, "say what"),
        (("restore", "{b}", "--all"), 1, "no directory of backups"),
        (("restore", "{b}", "--account", "../x"), 2, "no account name"),
        (("backup", "{b}", "--state", "/nowhere"), 5, "name it: --state"),
        (("backup", "{b}", "--verify"), 1, "no directory of backups"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, words, status, said):
    done = command(*(word.format(b=tmp_path / "b") for word in words))
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr
