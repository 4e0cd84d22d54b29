"""With what messages are looked at: the same text for the same, another for anything that may judge otherwise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.policy.scanning import Clamd, Yara
from egressguard.policy.site import Scan
from egressguard.scan.edition import _reader, but_for_clamd, edition
from egressguard.scan.engines import engine_versions
from tests.scan import daemons


def test_another_process_says_the_same() -> None:
    code = "from egressguard.policy.site import Scan; from egressguard.scan.edition import edition; "
    code += "from pathlib import Path; print(edition(Scan(denied_names=('*.exe',)), Path()))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout.strip() == edition(Scan(denied_names=("*.exe",)), Path())
    assert _reader() in said.stdout


def test_other_settings_are_another_version() -> None:
    assert edition(Scan(), Path()) != edition(Scan(denied_names=("*.exe",)), Path())


def test_an_engine_that_does_not_say_is_told_as_such() -> None:
    settings = Scan(clamd=Clamd(address="unix:/nowhere"))

    assert engine_versions(settings, Path(), 5) == {"clamd": None}
    assert edition(settings, Path()).endswith(", clamd ?")


def test_other_yara_rules_are_another_version(tmp_path: Path) -> None:
    pytest.importorskip("yara_x", reason="yara-x is not installed")
    settings = Scan(yara=Yara(folder="y"))
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "a.yar").write_text("rule a { condition: false }")
    before = edition(settings, tmp_path)
    assert before == edition(settings, tmp_path)
    (tmp_path / "y" / "a.yar").write_text("rule a { condition: true }")

    assert edition(settings, tmp_path) != before


@pytest.mark.peers
def test_the_real_clamd_tells_its_version() -> None:
    with daemons.clamd() as address:
        assert "clamd ClamAV " in edition(Scan(clamd=Clamd(address=address)), Path())


def test_what_is_told_besides_clamd() -> None:
    new = "reader 1, settings 2, clamd ClamAV 1.0.9/27811/Fri Nov 27 09:26:43 2026, yara 3"
    old = new.replace("27811/Fri Nov 27", "27810/Thu Nov 26")

    assert but_for_clamd(new) == but_for_clamd(old) == "reader 1, settings 2, yara 3"
    assert but_for_clamd("reader 1, settings 2, clamd ?") == but_for_clamd("reader 1, settings 2, clamd ClamAV 1")
    assert but_for_clamd(new) != but_for_clamd(old.replace("yara 3", "yara 4"))
