"""From `egressguard dkim make` to a signature that holds, through all processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator

import dkim

from egressguard.app.control import ask
from egressguard.senderauth.sign_keys import read_key
from tests.app.test_gateway import ROOT, SITE, Running, gateway, until  # noqa: F401 -- a fixture

SIGNING = "  signing: {own: {domains: test.example, selector: s1, key: 'file:dkim/s1.test.example.pem'}}\n"


def contents(running: Running) -> Iterator[bytes]:
    spool = sqlite3.connect(f"file:{running.folder}/state/spool/spool.sqlite?mode=ro", uri=True)
    with spool:
        yield from (bytes(row[0]) for row in spool.execute("SELECT octets FROM body"))
    spool.close()


def test_mail_of_this_machines_programs_is_signed_from_the_next_apply_on(gateway: Running) -> None:  # noqa: F811
    def run(*words: str, given: str = "") -> None:
        environment = os.environ | {"EGRESSGUARD_STATE": str(gateway.folder / "state")}
        command = gateway.command(*words)
        command = command[:-6] if words[0] == "sendmail" else command
        done = subprocess.run(
            command, input=given, text=True, env=environment, cwd=ROOT, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def send(number: int) -> None:
        letter = f"From: cron@test.example\nTo: root@far.example\nSubject: {number}\n\ndone\n"
        run("sendmail", "-t", "-f", "cron@test.example", given=letter)
        until(lambda: len(ask(gateway.runtime / "relay" / "control.sock", "queue.list", limit=10)) == number)

    send(1)
    run("dkim", "make", "test.example", "--selector", "s1")
    (gateway.rules / "site.yaml").write_text(SITE.replace("  relay:\n", SIGNING + "  relay:\n"))
    run("apply")
    send(2)
    record = read_key(gateway.folder / "state" / "secrets" / "dkim" / "s1.test.example.pem").record
    signed = {b"Subject: 2" in content: b"DKIM-Signature:" in content for content in contents(gateway)}
    assert signed == {False: False, True: True}
    (whole,) = [content for content in contents(gateway) if b"Subject: 2" in content]
    assert dkim.verify(whole, dnsfunc=lambda name, timeout=5: record.encode())
