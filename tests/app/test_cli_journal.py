"""`egressguard journal` for people: rows with lists, empty fields and odd characters are shown."""

from __future__ import annotations

import time
from pathlib import Path

from click.testing import CliRunner

from egressguard.app.cli.main import main
from egressguard.store.journal import Journal


def test_every_kind_of_field_is_shown(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    journal = Journal(tmp_path / "journal" / "gate.sqlite", max_rows=10)
    fields = {
        "source": "192.0.2.1",
        "zones": ["lan"],
        "places": [],
        "mac": "",
        "via": None,
        "count": 3,
        "more": {"a": 1},
    }
    journal.record(time.time(), "flow.blocked", fields)
    journal.close()
    words = ["journal", "--state", str(tmp_path), "--runtime", str(tmp_path / "run")]

    told = CliRunner().invoke(main, words)

    assert told.exit_code == 0, told.output
    assert "source=192.0.2.1, zones=lan, count=3" in told.output
    assert "places" not in told.output and "mac" not in told.output and "via" not in told.output
