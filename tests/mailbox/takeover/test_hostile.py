"""Sources that somebody made to harm whoever reads them as root."""

from __future__ import annotations

import os
import threading

import pytest

from egressguard.mailbox.takeover import directory, maildir, source
from egressguard.mailbox.takeover.importing import Asked, open_source, take_over
from egressguard.mailbox.takeover.source import SourceError
from egressguard.mailbox.takeover.stage import Busy, Stage
from tests.mailbox.takeover.made import held, letters
from tests.mailbox.takeover.made import maildir as make


def take(tmp_path, path):
    stage = Stage(tmp_path / "stage")
    try:
        found = open_source(Asked(path))
        return take_over(found, stage, tmp_path / "anna", prepare=False, may_merge=False, tick=lambda _octets: None)
    finally:
        stage.close()


def everything(root):
    return {str(path.relative_to(root)): (*path.lstat()[:9], path.lstat().st_mtime_ns) for path in root.rglob("*")}


@pytest.fixture
def box(tmp_path):
    return make(tmp_path / "source", letters(3), validity=7)


def test_the_source_is_never_changed(tmp_path, box):
    make(box, letters(2, 9), folder=".Sent")
    before = everything(box)
    take(tmp_path, box)
    assert everything(box) == before


def test_links_fifos_and_devices_are_not_read(tmp_path, box):
    secret = tmp_path / "secret"
    secret.write_bytes(b"root:x")
    (box / "cur/1.link:2,S").symlink_to(secret)
    (box / "new/2.link").symlink_to("/dev/zero")
    os.mkfifo(box / "cur/3.fifo:2,")
    (box / "cur/4.directory").mkdir()
    (box / ".Linked").symlink_to(tmp_path)
    make(box, letters(1, 9), folder=".Odd")
    (box / ".Odd/dovecot-uidlist").symlink_to(secret)
    with pytest.raises(OSError):
        take(tmp_path, box)  # a list that is a link: nothing is guessed
    (box / ".Odd/dovecot-uidlist").unlink()
    problems = take(tmp_path, box).problems
    where = {told.partition("source/")[2].partition(":")[0] for told in problems}
    assert where == {"new/2.link", "cur/1.link", "cur/3.fifo", "cur/4.directory"}
    found = held(tmp_path / "anna")
    assert sorted(found) == ["", ".Odd"] and len(found[""]) == 3


def test_a_directory_that_becomes_a_link_while_we_read_is_not_followed(tmp_path, box):
    found = open_source(Asked(box))
    [reader] = found.folders()
    (tmp_path / "elsewhere").mkdir()
    for path in (box / "cur").iterdir():
        (tmp_path / "elsewhere" / path.name).write_bytes(b"not this")
    (box / "cur").rename(tmp_path / "old")
    (box / "cur").symlink_to(tmp_path / "elsewhere")
    contents = {b"".join(reader.pieces(message)) for message in reader.folder.messages}
    assert b"not this" not in contents and len(contents) == 3


def test_names_that_are_no_names_get_others(tmp_path, box):
    for name in ("odd\nname:2,S", "spa ce", "\udcff\udcfe", "x" * 240, "9.good,S=99"):
        (box / "cur" / name).write_bytes(b"Subject: %s\n\n" % name.encode("utf-8", "surrogateescape")[:50])
    take(tmp_path, box)
    found = held(tmp_path / "anna")[""]
    assert len(found) == 8 and {uid for uid, _, _ in found.values()} == set(range(1, 9))
    lines = (tmp_path / "anna/dovecot-uidlist").read_bytes().split(b"\n")
    assert len(lines) == 10


@pytest.mark.parametrize(
    ("file", "limit"),
    [("dovecot-uidlist", "MAX_LIST_OCTETS"), ("dovecot-keywords", "MAX_LIST_OCTETS")],
)
def test_lists_are_bounded(tmp_path, box, monkeypatch, file, limit):
    with (box / file).open("ab") as huge:
        huge.truncate(directory.MAX_LIST_OCTETS + 1)  # sparse
    with pytest.raises(SourceError, match=f"{file}: larger than"):
        take(tmp_path, box)
    assert not (tmp_path / "anna").exists()


def test_numbers_of_folders_and_messages_are_bounded(tmp_path, box, monkeypatch):
    monkeypatch.setattr(maildir, "MAX_MESSAGES", 2)
    with pytest.raises(SourceError, match="more than 2 messages"):
        take(tmp_path, box)
    monkeypatch.setattr(maildir, "MAX_MESSAGES", 100)
    monkeypatch.setattr(maildir, "MAX_FOLDERS", 2)
    for number in range(3):
        make(box, folder=f".{number}")
    with pytest.raises(SourceError, match="more than 2 folders"):
        take(tmp_path, box)


def test_problems_are_counted_but_not_all_kept(monkeypatch):
    monkeypatch.setattr(source, "MAX_PROBLEMS", 3)
    problems = source.Problems()
    for number in range(9):
        problems.add(f"a\n{number}", "x")
    assert (problems.count, problems.told) == (9, ["a?0: x", "a?1: x", "a?2: x"])


def test_a_message_that_goes_meanwhile_is_told_and_the_others_come(tmp_path, box):
    found = open_source(Asked(box))
    stage = Stage(tmp_path / "stage")
    [reader] = found.folders()
    next((box / "cur").iterdir()).unlink()
    moved = next((box / "cur").iterdir())
    moved.rename(moved.with_name(moved.name + "T"))
    from egressguard.mailbox.takeover.stage import Tally

    tally = Tally()
    stage.sync(reader, found.problems, tally, lambda _octets: None)
    stage.close()
    assert (tally.messages, tally.failed) == (2, 1)
    assert "not taken" in found.problems.told[0]


def test_two_at_once_do_not_meet(tmp_path):
    first = Stage(tmp_path / "stage")
    with pytest.raises(Busy):
        Stage(tmp_path / "stage")
    first.close()
    Stage(tmp_path / "stage").close()


def test_a_writer_does_not_make_us_wait(tmp_path, box):
    """A FIFO in place of a list would, if it were opened as a file is."""
    (box / "dovecot-keywords").unlink(missing_ok=True)
    os.mkfifo(box / "dovecot-keywords")
    done = threading.Event()

    def run():
        with pytest.raises(OSError):
            take(tmp_path, box)
        done.set()

    threading.Thread(target=run, daemon=True).start()
    assert done.wait(30)
