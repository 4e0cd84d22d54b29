"""How much an account holds: by the names of its files, read anew when they change."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from egressguard.mailbox.maildir import make_folder, make_maildir
from egressguard.mailbox.quota import AT_HAND_SECONDS, Usage, Usages, excess, has_plenty, is_full
from egressguard.policy.mailboxes import Quota
from tests.relay.setting import policy_of

POLICY = policy_of()


class Clocks:
    """Real time for directories; a stopwatch that is moved by hand."""

    def __init__(self) -> None:
        self.stopwatch = 0.0

    def usages(self, root: Path) -> Usages:
        return Usages(root, clock=lambda: time.time() + 3600, monotonic=lambda: self.stopwatch)


@pytest.fixture
def maildir(tmp_path: Path) -> Path:
    make_maildir(tmp_path / "anna")
    make_folder(tmp_path / "anna" / ".Trash")
    return tmp_path / "anna"


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("1.a.b,S=10,W=12", 12),
        ("1.a.b,S=10,W=12:2,S", 12),
        ("1.a.b,W=12,S=10:2,", 12),
        ("1.a.b,S=10:2,FS", 10),
        ("1.a.b:2,S", 5),
        ("1.a.b", 5),
        ("1.a.b,S=x", 5),
        ("1.a.b,S=99999999999999999999", 5),
    ],
)
def test_the_name_says_how_large_a_message_is_else_the_file_does(maildir: Path, name: str, octets: int) -> None:
    (maildir / "cur" / name).write_bytes(b"12345")
    assert Usages(maildir.parent).of(POLICY, "anna") == Usage(octets, 1)


def test_all_folders_count_and_what_is_no_message_does_not(maildir: Path) -> None:
    for path in ("new/1,S=1", "cur/2,S=2:2,S", ".Trash/cur/3,S=4:2,T", ".Trash/new/4,S=8"):
        (maildir / path).touch()
    for path in ("dovecot-uidlist", "tmp/5,S=16", ".Trash/tmp/6,S=32", "cur/.hidden,S=64"):
        (maildir / path).touch()
    assert Usages(maildir.parent).of(POLICY, "anna") == Usage(15, 4)


def test_an_account_without_a_maildir_holds_nothing(tmp_path: Path) -> None:
    assert Usages(tmp_path).of(POLICY, "nobody") == Usage()


def test_what_others_add_and_remove_is_seen(maildir: Path) -> None:
    usages = Clocks().usages(maildir.parent)
    (maildir / "new" / "1,S=10").touch()
    assert usages.of(POLICY, "anna") == Usage(10, 1)
    (maildir / "new" / "1,S=10").rename(maildir / "cur" / "1,S=10:2,S")
    (maildir / ".Trash" / "cur" / "2,S=5:2,").touch()
    assert usages.of(POLICY, "anna") == Usage(15, 2)
    (maildir / "cur" / "1,S=10:2,S").unlink()
    assert usages.of(POLICY, "anna") == Usage(5, 1)


def test_a_folder_that_did_not_change_is_not_read_again(maildir: Path) -> None:
    usages = Clocks().usages(maildir.parent)
    (maildir / "cur" / "1,S=10:2,S").touch()
    assert usages.of(POLICY, "anna").octets == 10
    before = (maildir / "cur").stat()
    (maildir / "cur" / "2,S=10:2,S").touch()
    os.utime(maildir / "cur", ns=(before.st_atime_ns, before.st_mtime_ns))  # as if it had not
    assert usages.of(POLICY, "anna").octets == 10


def test_one_that_changed_just_before_it_was_read_is_read_again(maildir: Path) -> None:
    usages = Usages(maildir.parent, clock=lambda: (maildir / "cur").stat().st_mtime + 0.01, monotonic=lambda: 0.0)
    (maildir / "cur" / "1,S=10:2,S").touch()
    assert usages.of(POLICY, "anna").octets == 10
    before = (maildir / "cur").stat()
    (maildir / "cur" / "2,S=10:2,S").touch()
    os.utime(maildir / "cur", ns=(before.st_atime_ns, before.st_mtime_ns))  # within one tick of the clock
    assert usages.of(POLICY, "anna").octets == 20


def test_reading_takes_a_fiftieth_of_the_time_and_deliveries_count_meanwhile(maildir: Path) -> None:
    clocks = Clocks()
    slow = clocks.usages(maildir.parent)
    slow._monotonic = lambda: clocks.stopwatch
    ticks = iter([0.0, 1.0, 1.0])  # reading took a second
    slow._monotonic = lambda: next(ticks, clocks.stopwatch)
    assert slow.of(POLICY, "anna") == Usage()

    clocks.stopwatch = 50.0
    (maildir / "new" / "1,S=10").touch()
    slow.added("anna", 10)
    (maildir / "cur" / "2,S=5:2,").touch()  # by somebody else
    assert slow.of(POLICY, "anna") == Usage(10, 1)
    clocks.stopwatch = 51.0
    assert slow.of(POLICY, "anna") == Usage(15, 2)


@pytest.mark.parametrize(
    ("quota", "usage", "plenty"),
    [
        ({}, Usage(10**12, 10**6), True),
        ({"octets": 800}, Usage(690, 10**6), True),
        ({"octets": 800}, Usage(691, 0), False),
        ({"messages": 80}, Usage(10**12, 69), True),
        ({"messages": 80}, Usage(0, 70), False),
        ({"octets": 800, "messages": 80}, Usage(0, 70), False),
        ({"octets": 800, "messages": 80}, Usage(691, 0), False),
    ],
)
def test_an_eighth_that_is_free_is_plenty(quota: dict[str, int], usage: Usage, plenty: bool) -> None:
    assert has_plenty(Quota(**quota), usage, 10) is plenty


def test_what_was_looked_at_just_now_is_at_hand_with_what_we_have_added(maildir: Path) -> None:
    clocks = Clocks()
    usages = clocks.usages(maildir.parent)
    (maildir / "new" / "1,S=10").touch()
    assert usages.at_hand(POLICY, "anna") is None
    usages.of(POLICY, "anna")
    usages.added("anna", 5)
    (maildir / "new" / "2,S=100").touch()  # by somebody else
    clocks.stopwatch = AT_HAND_SECONDS / 2
    assert usages.at_hand(POLICY, "anna") == Usage(15, 2)
    clocks.stopwatch = AT_HAND_SECONDS
    assert usages.at_hand(POLICY, "anna") is None
    assert usages.of(POLICY, "anna") == Usage(110, 2)
    assert usages.at_hand(POLICY, "anna") == Usage(110, 2)


def test_nothing_is_at_hand_of_an_mbox_or_while_somebody_looks(maildir: Path) -> None:
    usages = Clocks().usages(maildir.parent)
    usages.of(POLICY, "anna")
    assert usages.at_hand(policy_of(mailboxes={"deliver": "mbox"}), "anna") is None
    with usages._lock:
        assert usages.at_hand(POLICY, "anna") is None
    assert usages.at_hand(POLICY, "anna") == Usage()


def test_of_files_of_mail_the_octets_count(tmp_path: Path) -> None:
    (tmp_path / "anna").write_bytes(b"x" * 100)
    (tmp_path / "home-anna").mkdir()
    (tmp_path / "home-anna" / "Lists").write_bytes(b"x" * 20)
    (tmp_path / "home-anna" / "Link").symlink_to("/etc/passwd")
    inbox, folders = f"{tmp_path}/{{account}}", f"{tmp_path}/home-{{account}}"
    policy = policy_of(mailboxes={"deliver": "mbox", "mbox": {"inbox": inbox, "folders": folders}})
    assert Usages(tmp_path).of(policy, "anna") == Usage(120)
    assert Usages(tmp_path).of(policy, "bert") == Usage(0)


@pytest.mark.parametrize(
    ("quota", "usage", "size", "fits", "full"),
    [
        (Quota(), Usage(10**12, 10**6), 10**9, True, False),
        (Quota(octets=100), Usage(90, 1), 10, True, False),
        (Quota(octets=100), Usage(90, 1), 11, False, False),
        (Quota(octets=100), Usage(100, 1), 0, True, True),
        (Quota(octets=100), Usage(100, 1), 1, False, True),
        (Quota(messages=2), Usage(0, 1), 1, True, False),
        (Quota(messages=2), Usage(0, 2), 1, False, True),
        (Quota(octets=100, messages=2), Usage(99, 2), 1, False, True),
    ],
)
def test_what_fits(quota: Quota, usage: Usage, size: int, fits: bool, full: bool) -> None:
    assert (excess(quota, usage, size) is None) is fits
    assert is_full(quota, usage) is full
