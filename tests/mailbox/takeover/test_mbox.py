"""Mboxes: where messages begin and end, what is theirs and what is the file's."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mailbox.takeover import mbox
from egressguard.mailbox.takeover.importing import Asked, open_source
from egressguard.mailbox.takeover.mbox_layout import read_layout
from egressguard.mailbox.takeover.source import SourceError

F = b"From a@b Thu Nov 26 16:39:50 2026\n"


def read(path, **asked):
    """[(folder, UIDVALIDITY, next UID, [(message, octets)])], and the problems."""
    source = open_source(Asked(path, **asked))
    found = []
    for reader in source.folders():
        messages = [(message, b"".join(reader.pieces(message))) for message in reader.folder.messages]
        found.append((reader.folder.name, reader.folder.uid_validity, reader.folder.uid_next, messages))
        reader.close()
    return found, source.problems.told


def octets(path, content, **asked):
    path.write_bytes(content)
    [(_, _, _, messages)], _ = read(path, **asked)
    return [content for _, content in messages]


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (b"", []),
        (F + b"A: 1\n\nx\n\n", [b"A: 1\n\nx\n"]),
        (F + b"A: 1\n\nx\n\n" + F + b"B: 2\n\ny\n", [b"A: 1\n\nx\n", b"B: 2\n\ny\n"]),
        (F + b"A: 1\n\nx", [b"A: 1\n\nx"]),
        (F + b"A: 1\n\nx\nFrom here on\n\n", [b"A: 1\n\nx\nFrom here on\n"]),
        (F + b"A: 1\n\nx\n" + F + b"B: 2\n\n", [b"A: 1\n\nx\n", b"B: 2\n\n"]),  # no empty line before
        (F + b"A: 1\n" + F + b"B: 2\n\ny\n\n", [b"A: 1\n", b"B: 2\n\ny\n"]),  # no body
        (F + b"A: 1\n\n" + F + b"B: 2\n\n\n", [b"A: 1\n\n", b"B: 2\n\n"]),
        (F + b"\nno header\n\n", [b"\nno header\n"]),
        (
            F + b"A: 1\r\n\r\nx\r\n\r\n" + F.replace(b"\n", b"\r\n") + b"B: 2\r\n\r\ny\r\n",
            [b"A: 1\r\n\r\nx\r\n", b"B: 2\r\n\r\ny\r\n"],
        ),
        (F + b"Status: RO\nA: 1\nX-UID: 5\n more\nX-Keywords:   \n\nStatus: mine\n\n", [b"A: 1\n\nStatus: mine\n"]),
        (
            F + b"A: 1\nContent-Length: %d\n\n" % (2 + len(F)) + b"x\n" + F + b"\n" + F + b"\ny\n",
            [b"A: 1\n\nx\n" + F, b"\ny\n"],
        ),
        (F + b"A: 1\nContent-Length: 1\n\nx\n\n" + F + b"\ny\n", [b"A: 1\n\nx\n", b"\ny\n"]),  # it lies
        (F + b"A: 1\nContent-Length: 99999999999\n\nx\n\n" + F + b"\ny\n", [b"A: 1\n\nx\n", b"\ny\n"]),
    ],
)
def test_messages_begin_and_end_where_servers_say(tmp_path, content, messages):
    assert octets(tmp_path / "m", content) == messages


@given(
    st.lists(
        st.sampled_from(
            [F, b"From x\n", b"\n", b"\r\n", b"A: 1\n", b"Status: R\n", b"Content-Length: 3\n", b"xyz", b"\0\xff\n"]
        ),
        max_size=25,
    )
)
@settings(max_examples=120)
def test_no_octet_is_lost_and_none_is_twice(tmp_path_factory, words):
    path = tmp_path_factory.mktemp("m") / "m"
    path.write_bytes(F + b"".join(words))
    fd = os.open(path, os.O_RDONLY)
    try:
        size, after = os.fstat(fd).st_size, 0
        for piece in read_layout(fd, lambda date: 0.0):
            for offset, length in piece.ranges:
                assert after <= offset and length > 0 and offset + length <= size
                after = offset + length
            assert piece.body_at <= sum(length for _, length in piece.ranges)
    finally:
        os.close(fd)


def test_messages_larger_than_any_window(tmp_path):
    big = b"A: 1\n\n" + (b"x" * 99 + b"\n") * 90_000 + b"From there\n"
    small = b"B: 2\n\ny\n"
    assert octets(tmp_path / "m", F + big + b"\n" + F + small + b"\n" + F + big) == [big, small, big]
    header = b"A: 1\n" + b"X: " + b"y" * 5_000_000 + b"\nB: 2\n\nz\n"
    assert octets(tmp_path / "m", F + header + b"\n" + F + small) == [header, small]


def test_uids_are_believed_as_far_as_they_can_be(tmp_path):
    def message(*fields):
        return F + b"".join(field + b"\n" for field in fields) + b"\nx\n\n"

    base = b"X-IMAPbase: 77 0000000009 $Label1 foo"
    (tmp_path / "m").write_bytes(
        message(base, b"X-UID: 3", b"Status: RO", b"X-Keywords: foo $Label1  ")
        + message(b"X-UID: 5", b"X-Status: AFTD")
        + message(b"X-UID: 5")  # again
        + message(b"X-UID: 8")
        + message(b"Status: O")
    )
    [(name, validity, following, messages)], _ = read(tmp_path / "m")
    assert (name, validity, following) == ((), 77, 13)
    assert [(m.uid, m.flags, m.keywords, m.is_new) for m, _ in messages] == [
        (3, "S", ("foo", "$Label1"), False),
        (5, "DFRT", (), False),
        (10, "", (), True),
        (11, "", (), True),
        (12, "", (), False),
    ]
    assert [m.uidl for m, _ in messages] == ["000000030000004d", "000000050000004d", None, None, None]


def test_a_uid_without_its_validity_means_nothing(tmp_path):
    (tmp_path / "m").write_bytes(F + b"X-UID: 7\n\nx\n\n")
    [(_, validity, following, messages)], _ = read(tmp_path / "m")
    assert (validity, following, messages[0][0].uid) == (None, 2, 1)


def test_the_same_message_twice_is_two_messages(tmp_path):
    (tmp_path / "m").write_bytes((F + b"A: 1\n\nx\n\n") * 3)
    [(_, _, _, messages)], _ = read(tmp_path / "m")
    assert len({message.key for message, _ in messages}) == 3


def test_uw_imaps_own_message_is_none(tmp_path):
    own = F + b"Subject: FOLDER INTERNAL DATA\nX-IMAP: 88 0000000004\nStatus: RO\n\nnot real\n\n"
    (tmp_path / "m").write_bytes(own + F + b"X-UID: 4\n\nx\n")
    [(_, validity, _, messages)], _ = read(tmp_path / "m", form="uw")
    assert (validity, [(m.uid, m.uidl) for m, _ in messages]) == (88, [(4, "0000005800000004")])


def test_mboxrd_gives_back_what_was_quoted(tmp_path):
    body = b">From a\n>>From b\n>other\n" + b"x" * 3_000_000 + b"\n>From c\n"
    there = b"A: 1\n>From header\n\n"
    assert octets(tmp_path / "m", F + there + body, form="mboxrd") == [
        there + body.replace(b">From a", b"From a").replace(b">>From b", b">From b").replace(b">From c", b"From c")
    ]
    assert octets(tmp_path / "m", F + there + body) == [there + body]


def test_qpoppers_uidls(tmp_path):
    (tmp_path / "m").write_bytes(F + b"X-UIDL: !!#\n\nx\n\n" + F + b"A: 1\n\ny\n")
    [(_, _, _, messages)], _ = read(tmp_path / "m", uidl_format=mbox.X_UIDL)
    assert [(m.uidl, content) for m, content in messages] == [("!!#", b"X-UIDL: !!#\n\nx\n"), (None, b"A: 1\n\ny\n")]


def test_a_directory_of_mboxes(tmp_path):
    home = tmp_path / "mail"
    for name in ("Sent", "work/R&D.old", "notes.txt", ".imap/x", "x.lock"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(b"no mail" if name in {"notes.txt", ".imap/x", "x.lock"} else F + b"A: 1\n\nx\n")
    (home / "empty").touch()
    (tmp_path / "spool").write_bytes(F + b"A: 1\n\ninbox\n")
    (tmp_path / ".mailboxlist").write_text("mail/Sent\nmail/work/R&D.old\nelsewhere\n")
    os.mkfifo(home / "fifo")
    (home / "link").symlink_to("/etc/passwd")
    found, problems = read(home, inbox=tmp_path / "spool")
    assert [name for name, *_ in found] == [(), ("Sent",), ("empty",), ("work", "R&-D_old")]
    where = {told.removeprefix(f"{home}/").partition(":")[0] for told in problems}
    assert where == {"fifo", "link", "notes.txt", "work/R&D.old"}
    source = open_source(Asked(home, tmp_path / "spool"))
    assert source.subscriptions() == [("Sent",), ("work", "R&-D_old")]


def test_what_is_no_mbox_is_told(tmp_path):
    (tmp_path / "m").write_bytes(b"hello\n")
    with pytest.raises(SourceError, match="no mbox; expected a line that begins with From"):
        read(tmp_path / "m")


def test_a_file_that_another_program_writes_is_waited_for_but_not_for_ever(tmp_path, monkeypatch):
    (tmp_path / "m").write_bytes(F + b"A: 1\n\nx\n")
    script = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "m")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    other.stdout.readline()
    monkeypatch.setattr(mbox, "LOCK_SECONDS", 0)
    with pytest.raises(SourceError, match="another program has locked it"):
        read(tmp_path / "m")
    other.communicate(b"\n")
    assert read(tmp_path / "m")[0]
    with (tmp_path / "m").open("r+") as mine:  # nothing is left locked
        fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
