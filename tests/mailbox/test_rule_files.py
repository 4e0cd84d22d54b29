from __future__ import annotations

import logging
import os

import pytest

from egressguard.mailbox.rule_files import RuleFiles
from egressguard.policy.mailbox_rules import MAX_OCTETS

ONE = b"rules: [{name: a, action: file, folder: A}]\n"
TWO = b"rules: [{name: b, action: file, folder: B}]\n# another size\n"
BROKEN = b"rules: [{name: a}]\n"


def test_a_change_is_seen_at_once(tmp_path):
    files = RuleFiles(tmp_path)
    assert files.of("anna") is None
    assert files.write("anna", ONE) == []
    assert files.of("anna").rules[0].name == "a"
    assert files.write("anna", TWO) == []
    assert files.of("anna").rules[0].name == "b"
    assert files.text("anna") == TWO
    assert files.clear("anna")
    assert not files.clear("anna")
    assert (files.of("anna"), files.text("anna")) == (None, None)


def test_faults_change_nothing_and_leave_nothing_behind(tmp_path):
    files = RuleFiles(tmp_path)
    files.write("anna", ONE)
    (fault,) = files.write("anna", BROKEN)
    assert str(fault) == "anna.yaml:1:9: the key 'action' is missing; expected it here"
    assert files.text("anna") == ONE
    assert [path.name for path in tmp_path.iterdir()] == ["anna.yaml"]


def test_a_broken_file_counts_as_none_and_is_told_once_for_each_state(tmp_path, caplog):
    broken = []
    files = RuleFiles(tmp_path, lambda: broken.append(1))
    (tmp_path / "anna.yaml").write_bytes(BROKEN)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert files.of("anna") is None
    assert len(broken) == len(caplog.records) == 1
    (tmp_path / "anna.yaml").write_bytes(BROKEN * 2)
    assert files.of("anna") is None
    assert len(broken) == 2


@pytest.mark.parametrize("make", [lambda p: p.symlink_to("/etc/passwd"), lambda p: p.mkdir()])
def test_what_is_no_file_cannot_be_read(tmp_path, make):
    make(tmp_path / "anna.yaml")
    with pytest.raises(OSError, match=r"anna|directory"):
        RuleFiles(tmp_path).of("anna")


def test_a_pipe_does_not_hang_and_says_nothing(tmp_path):
    os.mkfifo(tmp_path / "anna.yaml")
    assert RuleFiles(tmp_path).of("anna").rules == ()


def test_a_huge_file_is_not_read_whole(tmp_path):
    with (tmp_path / "anna.yaml").open("wb") as file:
        file.truncate(10 * 1024**3)
    assert len(RuleFiles(tmp_path).text("anna")) == MAX_OCTETS + 1
    assert RuleFiles(tmp_path).of("anna") is None


@pytest.mark.parametrize("account", ["../x", "a/b", "", "A", "a\0"])
def test_no_name_leads_out_of_the_directory(tmp_path, account):
    for ask in (RuleFiles(tmp_path).of, RuleFiles(tmp_path).text, RuleFiles(tmp_path).clear):
        with pytest.raises(ValueError, match="not an account name"):
            ask(account)
