from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import stat

import pytest

from egressguard.mailbox import accounts as accounts_module
from egressguard.mailbox.accounts import AccountError, Accounts
from egressguard.store.durable import Disk
from egressguard.store.passwd import PasswdFile


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
    assert sorted(p.name for p in path.parent.iterdir()) == ["passwd", "passwd.lock"]


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
