"""The password file: what lets a person in, and everything that must not."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.store.passwd import (
    PASSWORD_OCTETS,
    PasswdEntry,
    PasswdError,
    PasswdFile,
    hash_password,
    parse_passwd,
    parse_passwd_line,
    render_passwd_line,
)

HASH = hash_password("correct horse")


def write(path: Path, *entries: PasswdEntry) -> PasswdFile:
    path.write_text("".join(render_passwd_line(entry) for entry in entries))
    return PasswdFile(path)


def test_the_right_password_fits_and_no_other(tmp_path: Path) -> None:
    accounts = write(tmp_path / "passwd", PasswdEntry("anna", HASH))
    assert accounts.verify("anna", "correct horse")
    assert not accounts.verify("anna", "correct horse ")
    assert not accounts.verify("anna", "")
    assert not accounts.verify("bert", "correct horse")


def test_names_ignore_case(tmp_path: Path) -> None:
    assert write(tmp_path / "passwd", PasswdEntry("anna", HASH)).verify("Anna", "correct horse")


def test_a_disabled_account_has_no_password(tmp_path: Path) -> None:
    line = render_passwd_line(PasswdEntry("anna", HASH, disabled=True))
    assert line.startswith("anna:!{ARGON2ID}$argon2id$")
    (tmp_path / "passwd").write_text(line)
    assert not PasswdFile(tmp_path / "passwd").verify("anna", "correct horse")


def test_the_line_is_the_one_dovecot_reads() -> None:
    line = render_passwd_line(PasswdEntry("anna", HASH))
    assert line == f"anna:{{ARGON2ID}}{HASH}::::::\n"
    assert parse_passwd_line(line) == PasswdEntry("anna", HASH)


def test_other_fields_of_a_line_are_kept() -> None:
    line = f"anna:{{ARGON2ID}}{HASH}:::::: quota=1\n"
    assert render_passwd_line(parse_passwd_line(line)) == line


@pytest.mark.parametrize(
    "line",
    [
        "anna",
        "anna:",
        "anna::::::::",
        "anna:{PLAIN}correct horse::::::",
        "anna:{ARGON2ID}::::::",
        f"anna:{HASH}::::::",
        f"An na:{{ARGON2ID}}{HASH}::::::",
        f"../x:{{ARGON2ID}}{HASH}::::::",
        f":{{ARGON2ID}}{HASH}::::::",
        f"anna:{{ARGON2ID}}{HASH}::::::" + "x" * 2000,
        f"anna:{{ARGON2ID}}{HASH}::::::\r",
    ],
)
def test_what_is_not_a_line_lets_nobody_in(line: str, tmp_path: Path) -> None:
    with pytest.raises(PasswdError):
        parse_passwd_line(line)
    (tmp_path / "passwd").write_text(line + "\n")
    assert PasswdFile(tmp_path / "passwd").entries() == {}


@pytest.mark.parametrize("name", ["", "Anna", "a:b", "a\nb", "-a", "a" * 65, "ä"])
def test_a_name_that_would_break_the_file_is_never_written(name: str) -> None:
    with pytest.raises(PasswdError):
        render_passwd_line(PasswdEntry(name, HASH))


@pytest.mark.parametrize("password", ["", "x" * (PASSWORD_OCTETS + 1), "a\0b"])
def test_passwords_without_sense_are_refused(password: str) -> None:
    with pytest.raises(PasswdError):
        hash_password(password)


def test_a_password_cut_at_the_limit_does_not_fit(tmp_path: Path) -> None:
    longest = "x" * PASSWORD_OCTETS
    accounts = write(tmp_path / "passwd", PasswdEntry("anna", hash_password(longest)))
    assert accounts.verify("anna", longest)
    assert not accounts.verify("anna", longest + "y")


def test_a_bad_line_harms_no_other() -> None:
    entries, faults = parse_passwd(f"# people\n\nnonsense\nanna:{{ARGON2ID}}{HASH}::::::\n")
    assert list(entries) == ["anna"]
    assert faults == [3]


def test_of_two_lines_with_one_name_the_first_holds() -> None:
    first = render_passwd_line(PasswdEntry("anna", HASH, disabled=True))
    entries, _ = parse_passwd(first + render_passwd_line(PasswdEntry("anna", HASH)))
    assert entries["anna"].disabled


def test_a_change_is_seen_at_the_next_question(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    accounts = write(path, PasswdEntry("anna", HASH))
    assert accounts.verify("anna", "correct horse")
    new = tmp_path / "new"
    new.write_text(render_passwd_line(PasswdEntry("bert", HASH)))
    new.replace(path)
    assert not accounts.verify("anna", "correct horse")
    assert accounts.verify("bert", "correct horse")
    path.unlink()
    assert accounts.entries() == {}


def test_no_file_means_no_accounts(tmp_path: Path) -> None:
    assert not PasswdFile(tmp_path / "none").verify("anna", "x")


def test_a_file_that_cannot_be_read_is_not_a_wrong_password(tmp_path: Path) -> None:
    (tmp_path / "passwd").mkdir()
    with pytest.raises(OSError):
        PasswdFile(tmp_path / "passwd").verify("anna", "x")


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    entries, faults = parse_passwd(text)
    assert len(entries) + len(faults) <= text.count("\n") + 1
