"""Where messages lie: Maildirs, folders, files; nothing is touched, nothing is followed out of it."""

import os
from pathlib import Path

import pytest

from egressguard.scan.sources import Source, find_sources, moved_to, open_source


def maildir(path: Path, *names: str) -> Path:
    for part in ("tmp", "new", "cur"):
        (path / part).mkdir(parents=True)
    for name in names:
        (path / name).write_bytes(b"Subject: x\r\n\r\n")
    return path


def found(path: Path) -> dict[str, Source]:
    return {os.path.relpath(source.path, path): source for source in find_sources(str(path))}


def test_of_a_maildir_new_and_cur_are_messages_and_nothing_else(tmp_path: Path) -> None:
    box = maildir(tmp_path / "anna", "new/1", "cur/2:2,S", "tmp/3", "dovecot-uidlist", "new/.hidden")
    maildir(box / ".Junk", "new/4", "maildirfolder")
    (box / "envelopes").mkdir()
    (box / "envelopes" / "ID.json").write_text("{}")
    maildir(box / "fs" / "layout", "cur/5")
    assert sorted(found(tmp_path)) == [
        "anna/.Junk/new/4",
        "anna/cur/2:2,S",
        "anna/fs/layout/cur/5",
        "anna/new/1",
    ]
    assert all(source.in_maildir for source in found(tmp_path).values())


def test_outside_of_a_maildir_every_file_may_be_a_message(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / ".x.eml").write_bytes(b"1")
    (tmp_path / "y").write_bytes(b"22")
    assert {name: source.status and source.status.size for name, source in found(tmp_path).items()} == {
        "a/b/.x.eml": 1,
        "y": 2,
    }


def test_links_and_pipes_are_told_and_not_opened(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"x")
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "file").symlink_to("/etc/passwd")
    (tmp_path / "box" / "folder").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "box" / "pipe")
    rows = found(tmp_path / "box")
    assert sorted(rows) == ["file", "folder", "pipe"]
    assert all(source.status is None and "no regular file" in source.problem for source in rows.values())
    with pytest.raises(OSError):
        open_source(str(tmp_path / "box" / "file"))
    (tmp_path / "asked").symlink_to(tmp_path / "real")
    assert sorted(found(tmp_path / "asked")) == ["x"]


def test_a_message_that_was_moved_is_found_by_its_base_name(tmp_path: Path) -> None:
    box = maildir(tmp_path, "cur/17.Qabc.host:2,S")
    moved = moved_to(str(box / "new" / "17.Qabc.host"))
    assert moved is not None and moved.path == str(box / "cur" / "17.Qabc.host:2,S")
    assert moved_to(str(box / "new" / "17.Qab")) is None


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    (source,) = find_sources(str(tmp_path / "no"))
    assert source.status is None and "No such file" in source.problem


def test_folders_without_end_end(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d"] * 70)
    deep.mkdir(parents=True)
    assert [source.problem for source in find_sources(str(tmp_path))] == ["folders nested too deep"]


def test_a_message_that_gets_another_name_while_its_directory_is_read_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """readdir(3) may then give neither the old name nor the new one; the next look does."""
    box = maildir(tmp_path / "anna", *(f"cur/{number}:2,S" for number in range(9)), "new/9")
    real, hidden = os.scandir, {"4:2,S", "9"}

    class Missing:
        def __init__(self, path: str) -> None:
            with real(path) as entries:
                self._entries = [entry for entry in entries if entry.name not in hidden]
                if path.endswith("cur"):
                    hidden.clear()

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self._entries

        def __exit__(self, *_wrong: object) -> None: ...

    monkeypatch.setattr(os, "scandir", Missing)
    names = [os.path.relpath(source.path, box) for source in find_sources(str(box))]
    assert sorted(names) == [*(f"cur/{number}:2,S" for number in range(9)), "new/9"]


def test_a_message_that_moves_again_while_it_is_looked_for_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets another name between the listing and the look at its file, twice."""
    box = maildir(tmp_path / "anna", "cur/1:2,S")
    real, left = os.scandir, 2

    def moving(path: str) -> object:
        nonlocal left
        entries = real(path)
        if path.endswith("cur") and left:
            left -= 1
            listed = list(entries)
            for entry in listed:
                Path(entry.path).rename(f"{box}/cur/1:2,{'F' * (2 - left)}")
            return _Listed(listed)
        return entries

    monkeypatch.setattr(os, "scandir", moving)
    assert [os.path.relpath(source.path, box) for source in find_sources(str(box))] == ["cur/1:2,FF"]


class _Listed(list[os.DirEntry[str]]):
    def __enter__(self) -> list[os.DirEntry[str]]:
        return self

    def __exit__(self, *_wrong: object) -> None: ...
