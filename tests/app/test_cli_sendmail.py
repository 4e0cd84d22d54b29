"""sendmail's command line as programs write it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from egressguard.app.cli.sendmail import Usage, Wanted, parse_arguments
from egressguard.store.drop import read, waiting

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["-t", "-i"], Wanted(from_header=True, dot_is_text=True)),
        (["-ti"], Wanted(from_header=True, dot_is_text=True)),
        (["-oi", "-f", "a@b.example", "c@d.example"], Wanted("a@b.example", "", False, True, False, ["c@d.example"])),
        (["-fa@b.example", "-Fcron", "root"], Wanted("a@b.example", "cron", False, False, False, ["root"])),
        (
            ["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"],
            Wanted(None, "CronDaemon", False, True, False, ["root"]),
        ),
        (["-f", "<>", "--", "-x@y.example"], Wanted("", "", False, False, False, ["-x@y.example"])),
        (
            ["-G", "-oee", "-odi", "-oi", "-pUUCP", "-fa@b.example", "c@d.example"],  # as rmail calls it
            Wanted("a@b.example", "", False, True, False, ["c@d.example"]),
        ),
        (["-bp"], Wanted(lists_queue=True)),
        (["-N", "never", "-R", "hdrs", "-V", "id", "-q", "a"], Wanted(recipients=["a"])),
    ],
)
def test_options(words: list[str], wanted: Wanted) -> None:
    assert parse_arguments(words) == wanted


@pytest.mark.parametrize("words", [["-bs"], ["-z"], ["-f"]])
def test_what_is_not_offered_is_said_so(words: list[str]) -> None:
    with pytest.raises(Usage):
        parse_arguments(words)


def sendmail(state: Path, *words: str, given: bytes = b"Subject: x\n\ny\n", name: str = "") -> tuple[int, str]:
    link = state / (name or "egressguard")
    if not link.exists():
        link.symlink_to(Path(sys.executable).with_name("egressguard"))
    command = [str(link), *([] if name else ["sendmail"]), *words]
    done = subprocess.run(
        command, input=given, capture_output=True, env=os.environ | {"EGRESSGUARD_STATE": str(state)}, check=False
    )
    return done.returncode, done.stderr.decode()


def test_a_message_is_put_down_whatever_it_is_called_by(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    assert sendmail(tmp_path, "-f", "a@b.example", "c@d.example") == (0, "")
    assert (
        sendmail(tmp_path, "-t", given=b"To: e@f.example\nBcc: g@h.example\n\nhi\n.\nmore\n", name="sendmail")[0] == 0
    )

    one, two = (read(tmp_path / "drop", name, 10_000) for name in waiting(tmp_path / "drop"))
    assert (one.sender, one.recipients) == ("a@b.example", ("c@d.example",))
    assert one.content == b"From: a@b.example\r\nSubject: x\r\n\r\ny\r\n"
    assert two.recipients == ("e@f.example", "g@h.example")
    assert b"Bcc" not in two.content and two.content.endswith(b"\r\n\r\nhi\r\n") and b"From: " in two.content


def test_troubles_have_the_exit_codes_that_callers_know(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    assert sendmail(tmp_path)[0] == 65
    assert sendmail(tmp_path, "a b@c")[0] == 65
    assert sendmail(tmp_path, "-Z", "a@b.example")[0] == 64
    (tmp_path / "drop").rmdir()
    status, words = sendmail(tmp_path, "a@b.example")
    assert status == 75 and words.count("\n") == 1
