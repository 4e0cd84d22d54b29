"""Scripts on disk: whole or not at all, the compiled one forgotten, path tricks refused; sievec's words by line."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from egressguard.access import sieve_scripts
from egressguard.access.programs import Programs
from egressguard.access.sieve_scripts import SieveScripts, check
from egressguard.policy.mailbox_rules import MAX_OCTETS

SAYS = """\
script: line 2: error: unknown command 'filinto' (only reported once at first occurrence).
script: error: validation failed.
sievec: Fatal: failed to compile sieve script
"""


def test_written_read_and_cleared_with_what_dovecot_made_of_it(tmp_path: Path) -> None:
    scripts = SieveScripts(tmp_path / "sieve")
    assert scripts.text("anna") is None
    scripts.write("anna", b"keep;\n")
    compiled = tmp_path / "sieve" / "anna.svbin"
    compiled.touch()
    scripts.write("anna", b"discard;\n")
    assert scripts.text("anna") == b"discard;\n" and not compiled.exists()
    compiled.touch()
    assert scripts.clear("anna")
    assert list((tmp_path / "sieve").iterdir()) == []
    assert not scripts.clear("anna")


@pytest.mark.parametrize("account", ["../anna", "", "Anna", "a/b"])
def test_a_name_that_is_none_is_no_path(tmp_path: Path, account: str) -> None:
    with pytest.raises(ValueError, match="not an account name"):
        SieveScripts(tmp_path).write(account, b"")


def test_a_link_in_a_script_s_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x")
    (tmp_path / "anna.sieve").symlink_to(other)
    with pytest.raises(OSError, match="symbolic"):
        SieveScripts(tmp_path).text("anna")
    SieveScripts(tmp_path).write("anna", b"keep;")
    assert other.read_text() == "x" and not (tmp_path / "anna.sieve").is_symlink()


def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, status: int) -> None:
    """Programs that say so."""
    (tmp_path / "says").write_text(says)
    for name, text in (("dovecot", "echo 2.3.19"), ("sievec", f"cat {tmp_path}/says >&2; exit {status}")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    programs = Programs(*[tmp_path / "dovecot"] * 3)
    monkeypatch.setattr(sieve_scripts, "find_programs", lambda: programs)
    monkeypatch.setattr(sieve_scripts, "find_sievec", lambda: tmp_path / "sievec")


def test_faults_have_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(tmp_path, monkeypatch, SAYS, 89)
    found = asyncio.run(check(b"x", "anna.sieve"))
    assert found is not None
    assert list(map(str, found)) == [
        "anna.sieve:2:1: unknown command 'filinto' (only reported once at first occurrence)."
    ]


def test_a_sievec_that_fails_for_another_reason_is_no_judgement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(tmp_path, monkeypatch, "sievec: Fatal: out of luck\n", 89)
    with pytest.raises(sieve_scripts.ProgramFailed, match="out of luck"):
        asyncio.run(check(b"keep;", "anna.sieve"))


def test_without_sievec_nobody_can_tell_but_of_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sieve_scripts, "find_sievec", lambda: None)
    assert asyncio.run(check(b"keep;", "anna.sieve")) is None
    (fault,) = asyncio.run(check(b"#" * (MAX_OCTETS + 1), "anna.sieve")) or []
    assert "octets" in fault.message
