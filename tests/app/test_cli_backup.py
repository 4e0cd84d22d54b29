"""`egressguard backup` says where the queue is: a backup without it must not look whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from egressguard.app.cli import main

ELSEWHERE = "site: {zones: {}, relay: {spool: 'file:spool.url'}}\n"


@pytest.mark.parametrize(
    ("rules", "queue"), [(ELSEWHERE, "elsewhere"), ("site: {zones: {}}\n", "here"), ("site: {", "here")]
)
def test_a_queue_in_postgresql_is_told_not_to_be_in_it(tmp_path: Path, rules: str, queue: str) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "site.yaml").write_text(rules)
    (tmp_path / "state").mkdir()
    words = [f"--{name}={tmp_path / name}" for name in ("rules", "state")]
    done = CliRunner().invoke(main, ["backup", str(tmp_path / "backups"), *words, "--json"], catch_exceptions=False)

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["queue"] == queue
    assert ("pg_dump" in done.output) == (queue == "elsewhere")
