from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from egressguard.mailbox import accounts as accounts_module
from egressguard.mailbox.accounts import AccountError, Accounts
from egressguard.store.durable import Disk
from egressguard.store.passwd import PasswdFile, scram_file
from egressguard.store.verifier import make_verifier


@pytest.fixture
def path(tmp_path):
    return tmp_path / "passwd"


def test_an_added_account_gets_in_with_its_password_only(path):
    Accounts(path).add("anna", "correct horse")

    assert PasswdFile(path).verify("anna", "correct horse")
    assert not PasswdFile(path).verify("anna", "wrong")
    assert Accounts(path).names() == ("anna",)
    assert "correct horse" not in path.read_text()


def test_the_line_is_one_that_dovecot_reads(path):
    Accounts(path).add("anna", "secret")

    line = path.read_text()
    assert line.startswith("anna:{ARGON2ID}$argon2id$v=19$")
    assert line.rstrip("\n").count(":") == 7


def test_a_taken_name_is_refused_and_nothing_changes(path):
    accounts = Accounts(path)
    accounts.add("anna", "first")
    before = path.read_bytes()

    with pytest.raises(AccountError, match="already"):
        accounts.add("anna", "second")

    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0b", "x" * 300, "a:b", "a\nroot:x", "Anna", ".."])
def test_path_and_line_tricks_in_names_are_refused(path, name):
    with pytest.raises(AccountError, match="not an account name"):
        Accounts(path).add(name, "secret")

    assert not path.exists()


@pytest.mark.parametrize("password", ["", "a\0b", "x" * 10_000])
def test_passwords_that_no_client_could_send_are_refused(path, password):
    with pytest.raises(AccountError, match="expected a password"):
        Accounts(path).add("anna", password)

    assert not path.exists()


def test_a_new_password_replaces_the_old_one(path):
    accounts = Accounts(path)
    accounts.add("anna", "old")
    accounts.set_password("anna", "new")

    assert PasswdFile(path).verify("anna", "new")
    assert not PasswdFile(path).verify("anna", "old")


def test_a_disabled_account_gets_in_with_no_password_but_still_exists(path):
    accounts = Accounts(path)
    accounts.add("anna", "secret")
    accounts.disable("anna")

    assert not PasswdFile(path).verify("anna", "secret")
    assert accounts.exists("anna")
    accounts.set_password("anna", "again")
    assert PasswdFile(path).verify("anna", "again")


def test_a_deleted_account_is_gone_and_the_others_stay(path):
    accounts = Accounts(path)
    for name in ("anna", "bob", "carl"):
        accounts.add(name, "secret")
    accounts.delete("bob")

    assert accounts.names() == ("anna", "carl")


@pytest.mark.parametrize("verb", ["disable", "delete"])
def test_an_account_that_is_not_there_is_refused(path, verb):
    with pytest.raises(AccountError, match="no account"):
        getattr(Accounts(path), verb)("nobody")


def test_lines_of_others_are_kept(path):
    path.write_text("# made by hand\nold:{SHA512-CRYPT}$6$x:1:1::/home/x::\n")
    Accounts(path).add("anna", "secret")
    Accounts(path).delete("anna")

    assert path.read_text() == "# made by hand\nold:{SHA512-CRYPT}$6$x:1:1::/home/x::\n"


def test_the_group_may_read_it_and_others_may_not(path):
    Accounts(path).add("anna", "secret")

    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("step", ["open", "write", "fsync", "rename"])
def test_a_full_disk_leaves_the_old_file_whole(path, step):
    Accounts(path).add("anna", "secret")
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "no space", step)

    disk = type("FullDisk", (Disk,), {step: staticmethod(fail)})
    with pytest.raises(OSError, match="no space"):
        Accounts(path, disk=disk).add("bob", "secret")

    assert path.read_bytes() == before
    assert PasswdFile(path).scram_verifier("anna") is not None
    assert PasswdFile(path).scram_verifier("bob") is None
    assert sorted(p.name for p in path.parent.iterdir()) == ["passwd", "passwd.lock", "passwd.scram"]


@pytest.mark.parametrize("failing", range(1, 4))
def test_a_crash_between_the_files_leaves_one_password_that_all_ways_take(path, failing):
    Accounts(path).add("anna", "old")
    renames = []

    def rename(old, new):
        renames.append(new)
        if len(renames) == failing:
            raise OSError(errno.EIO, "crash")
        Path(old).rename(new)

    disk = type("FailingDisk", (Disk,), {"rename": staticmethod(rename)})
    with pytest.raises(OSError, match="crash"):
        Accounts(path, disk=disk).set_password("anna", "new")

    accounts = PasswdFile(path)
    password = "old" if failing < 3 else "new"
    assert accounts.verify("anna", password)
    verifier = accounts.scram_verifier("anna")
    assert verifier is not None
    assert verifier == make_verifier(password, salt=verifier.salt)
    Accounts(path).add("bob", "secret")  # the next change tidies up
    assert scram_file(path).read_text().count("anna:") == 1


def test_each_password_has_a_verifier_in_a_file_of_its_own(path):
    Accounts(path).add("anna", "secret")

    verifier = PasswdFile(path).scram_verifier("Anna")
    assert verifier == make_verifier("secret", salt=verifier.salt)
    assert "SCRAM" not in path.read_text()
    assert stat.S_IMODE(scram_file(path).stat().st_mode) == 0o640


def test_who_is_removed_is_gone_from_the_verifiers_too(path):
    accounts = Accounts(path)
    accounts.add("anna", "secret")
    accounts.add("bob", "secret")
    accounts.delete("anna")

    assert PasswdFile(path).scram_verifier("anna") is None
    assert PasswdFile(path).scram_verifier("bob") is not None
    assert "anna" not in scram_file(path).read_text()
    accounts.delete("bob")
    assert scram_file(path).read_bytes() == b""
    assert not PasswdFile(path).offers_scram()


def test_who_is_disabled_logs_in_by_no_mechanism_and_enabled_by_all_again(path):
    accounts, file = Accounts(path), PasswdFile(path)
    accounts.add("anna", "secret")
    before = file.scram_verifier("anna")

    accounts.disable("anna")
    assert not file.verify("anna", "secret")
    assert file.scram_verifier("anna") is None
    assert accounts.rows() == [{"name": "anna", "enabled": False, "scram": True}]

    accounts.enable("anna")
    assert file.verify("anna", "secret")
    assert file.scram_verifier("anna") == before
    assert accounts.rows() == [{"name": "anna", "enabled": True, "scram": True}]


def test_a_password_beyond_scram_is_listed_as_such(path):
    Accounts(path).add("anna", "bell \x07")

    assert Accounts(path).rows() == [{"name": "anna", "enabled": True, "scram": False}]


def test_nobody_is_enabled_who_is_not_there(path):
    with pytest.raises(AccountError, match="no account"):
        Accounts(path).enable("anna")


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        (lambda accounts: accounts.add("bob", "other"), True),
        (lambda accounts: accounts.disable("anna"), False),
        (lambda accounts: accounts.delete("anna"), False),
        (lambda accounts: accounts.set_password("anna", "secret"), False),
    ],
    ids=["another account", "disabled", "deleted", "a new password"],
)
def test_what_changes_an_account_changes_its_standing(path, change, goes_on):
    accounts, file = Accounts(path), PasswdFile(path)
    accounts.add("anna", "secret")
    before = file.standing("anna")
    assert before
    change(accounts)

    assert (file.standing("anna") == before) is goes_on
    assert file.standing("nobody") == ""


def test_a_new_password_replaces_the_old_verifier(path):
    accounts = Accounts(path)
    accounts.add("anna", "old")
    old = PasswdFile(path).scram_verifier("anna")
    accounts.set_password("anna", "new")

    assert PasswdFile(path).scram_verifier("anna") not in (None, old)
    assert scram_file(path).read_text().count("anna:") == 1


def test_a_line_changed_by_hand_kills_the_verifier(path):
    Accounts(path).add("anna", "secret")
    Accounts(path).add("bob", "other")
    anna, bob = path.read_text().splitlines()
    path.write_text("\n".join([anna.partition(":")[0] + ":" + bob.partition(":")[2], bob]) + "\n")

    assert PasswdFile(path).verify("anna", "other")
    assert PasswdFile(path).scram_verifier("anna") is None


def test_an_old_file_without_verifiers_keeps_working(path):
    Accounts(path).add("anna", "secret")
    scram_file(path).unlink()
    Accounts(path).add("bob", "secret")

    assert PasswdFile(path).verify("anna", "secret")
    assert PasswdFile(path).scram_verifier("anna") is None
    assert PasswdFile(path).scram_verifier("bob") is not None


def test_the_salts_of_strangers_survive_a_change(path):
    Accounts(path).add("anna", "secret")
    salt = PasswdFile(path).fake_verifier("nobody").salt
    Accounts(path).add("bob", "secret")

    assert PasswdFile(path).fake_verifier("Nobody").salt == salt


def _add_many(path, prefix):
    for number in range(5):
        Accounts(path).add(f"{prefix}{number}", "secret")


def test_concurrent_writers_lose_no_account(path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_add_many, args=(path, prefix)) for prefix in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert [writer.exitcode for writer in writers] == [0] * 4
    assert len(Accounts(path).names()) == 20


def test_a_writer_that_hangs_makes_the_next_one_give_up(path, monkeypatch):
    monkeypatch.setattr(accounts_module, "LOCK_SECONDS", 0.1)
    fd = os.open(path.with_name("passwd.lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with pytest.raises(AccountError, match="nothing was changed"):
            Accounts(path).add("anna", "secret")
    finally:
        os.close(fd)

    assert not path.exists()
