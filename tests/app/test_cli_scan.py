"""`egressguard scan` as a person or a timer runs it: without a daemon, read-only, with exit codes to rely on."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from egressguard.app.cli.output import SCHEMA
from egressguard.app.cli.scan import _moment, _say
from egressguard.scan.rescan import Row
from tests.scan import daemons
from tests.scan.samples import EICAR, mail_with

CLEAN = b"Subject: x\r\n\r\nnothing\r\n"
PROGRAM = (sys.executable, "-m", "egressguard", "scan")


def scan(state: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, "--state", str(state), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def rows(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {row["path"]: row for row in found}


def test_a_folder_of_messages_is_scanned_and_remembered(tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    folder.mkdir()
    (folder / "good.eml").write_bytes(CLEAN)
    (folder / "bad.eml").write_bytes(mail_with("eicar.com", EICAR))
    done = scan(tmp_path / "state", "--json", folder)
    assert done.returncode == 1, done.stderr
    verdicts = {Path(path).name: (row["verdict"], row["remembered"]) for path, row in rows(done).items()}
    assert verdicts == {"good.eml": ("clean", False), "bad.eml": ("infected", False)}
    again = scan(tmp_path / "state", "--new", folder)
    assert again.returncode == 1
    assert again.stdout == f"infected  {folder}/bad.eml  EICAR-Test-File in eicar.com, denied name: eicar.com\n"
    assert again.stderr == "2 messages: 1 clean, 1 infected\n"


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [("good", CLEAN, 0), ("bad", mail_with("x.exe", b"MZ"), 1), ("link", None, 75)],
)
def test_the_exit_status_says_what_was_found(tmp_path: Path, name: str, content: bytes | None, status: int) -> None:
    (tmp_path / "mail").mkdir()
    place = tmp_path / "mail" / name
    if content is None:
        place.symlink_to("/etc/passwd")
    else:
        place.write_bytes(content)
    done = scan(tmp_path / "state", tmp_path / "mail")
    assert done.returncode == status, done.stdout + done.stderr


def test_without_a_path_the_gateways_own_mail_is_looked_at(tmp_path: Path) -> None:
    for place in ("quarantine/.Infected", "mailboxes/anna"):
        for part in ("new", "cur", "tmp"):
            (tmp_path / place / part).mkdir(parents=True)
        (tmp_path / place / "new" / "1").write_bytes(CLEAN)
    (tmp_path / "quarantine" / "new").mkdir()
    (tmp_path / "quarantine" / "cur").mkdir()
    done = scan(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(rows(done)) == [f"{tmp_path}/{place}/new/1" for place in ("mailboxes/anna", "quarantine/.Infected")]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 5, "name a PATH"),
        (("/nowhere/at/all",), 2, "does not exist"),
        (("--all", "--new", "."), 2, "exclude each other"),
        (("--since", "soon", "."), 2, "such as 10m"),
        (("--rules", "/nowhere", "."), 2, "nothing was looked at"),
    ],
)
def test_wrong_usage_is_told(tmp_path: Path, words: tuple[str, ...], status: int, said: str) -> None:
    done = scan(tmp_path, *words)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


def test_a_memory_that_is_no_memory_is_told(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"no database, but long enough to look like one" * 100)
    done = scan(tmp_path, "--memory", tmp_path / "m", tmp_path)
    assert done.returncode == 75 and "cannot be remembered" in done.stderr


def test_ctrl_c_ends_it_cleanly_and_the_next_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "mail"
    folder.mkdir()
    for n in range(3000):
        (folder / f"{n:04}").write_bytes(CLEAN)
    command = [*PROGRAM, "--state", str(tmp_path / "state"), "--json", str(folder)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert running.stdout is not None
    for _ in range(300):
        running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert (running.returncode, said) == (130, b"egressguard: interrupted; the same command goes on where it was\n")
    done = scan(tmp_path / "state", "--json", folder)
    assert done.returncode == 0 and len(rows(done)) == 3000
    assert sum(row["remembered"] is True for row in rows(done).values()) >= 300


def test_a_terminal_sees_a_bar_and_a_pipe_sees_json(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "1").write_bytes(CLEAN)
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "--state", str(tmp_path / "state"), "--json", str(tmp_path / "mail")]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}, timeout=60, check=False
    )
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert done.returncode == 0 and json.loads(done.stdout)["verdict"] == "clean"
    assert b"scanning" in shown and b"verdict" not in shown


def test_moments_are_spans_or_dates() -> None:
    assert _moment("2h", 10_000.0) == 2_800.0
    assert _moment("1970-01-02", 0.0) == 86_400.0
    assert _moment("1970-01-01T00:01", time.time()) == 60.0


@pytest.mark.peers
def test_with_another_clamd_nothing_else_is_asked_about_clean_mail(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "good.eml").write_bytes(CLEAN)
    memory = tmp_path / "memory"
    with daemons.clamd() as address:
        (tmp_path / "rules").mkdir()
        (tmp_path / "rules" / "site.yaml").write_text(json.dumps(_rules({"clamd": {"address": address}})))
        words = ["--json", "--rules", tmp_path / "rules", "--memory", memory, tmp_path / "mail"]
        command = [sys.executable, "-X", "importtime", *PROGRAM[1:], *map(str, words)]

        def again(was: str, is_now: str) -> tuple[object, bool]:
            """(was it remembered, were rules read) where the edition that is remembered had another word."""
            with closing(sqlite3.connect(memory)) as db, db:
                db.execute("UPDATE edition SET words = replace(words, ?, ?)", (was, is_now))
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            (row,) = rows(done).values()
            assert (row["verdict"], row["was"]) == ("clean", "" if row["remembered"] else "clean")
            return row["remembered"], " pydantic\n" in done.stderr

        _wait_until_trusted(tmp_path / "mail" / "good.eml")
        assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
        assert again("", "") == (True, False)
        assert again("clamd ClamAV", "clamd an earlier ClamAV") == (False, False)
        assert again("", "") == (True, False)
        assert again("reader ", "reader of old ") == (False, True), "that needs workers"


def _rules(scan: dict[str, object]) -> dict[str, object]:
    relay = {"hostname": "gw.example", "listeners": {"lan": {"kind": "smtp", "port": 25}}}
    site = {"zones": {"lan": {"networks": "127.0.0.0/8"}}, "relay": relay, "scan": scan}
    return {"site": site, "mail": [{"name": "lan", "match": {"client": "lan"}, "action": "accept"}]}


def _wait_until_trusted(path: Path) -> None:
    """A file's times are, when they are older than one tick of the clock."""
    while time.time() < path.stat().st_ctime + 2:
        time.sleep(0.1)


def test_where_nothing_is_out_of_date_no_rule_is_read(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "good.eml").write_bytes(CLEAN)
    shutil.copytree(Path(__file__).parents[2] / "rules", tmp_path / "rules")
    words = ("--rules", tmp_path / "rules", "--new", tmp_path / "mail")
    assert scan(tmp_path, *words).returncode == 0
    command = [sys.executable, "-X", "importtime", *PROGRAM[1:], "--state", str(tmp_path), *map(str, words)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0 and "1 messages: 1 clean" in again.stderr
    assert not [module for module in ("pydantic", "asyncio", "yaml") if f" {module}\n" in again.stderr]
    (tmp_path / "rules" / "more.yaml").write_text("nonsense: [")
    broken = scan(tmp_path, *words)
    assert broken.returncode == 2 and "nothing was looked at" in broken.stderr, "faults are seen at once"


@pytest.mark.parametrize(
    "row",
    [
        Row("/a/b", "clean", (), 17, remembered=True),
        Row('/a "q"\\\n\ud8ff\u00e9', "infected", ('x "y"', "\u00e9"), 0, start=5, was="clean"),
    ],
)
def test_a_line_is_the_json_of_its_fields(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    _say(row, as_json=True)

    fields = row._asdict()
    told = {"schema": SCHEMA, "path": row.path, "verdict": row.verdict, "findings": row.findings}
    told |= {"size_octets": row.size} | ({} if row.start is None else {"start": row.start})
    assert capsys.readouterr().out == json.dumps(told | {key: fields[key] for key in ("was", "remembered")}) + "\n"
