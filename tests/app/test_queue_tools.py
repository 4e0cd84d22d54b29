"""The queue's tools and the trace, on a gateway that runs: what is asked for is done, told, and found again."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import smtplib
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from egressguard.app.control import ask
from tests.app.test_gateway import ROOT, SECONDS, SITE, Running, running_in, until
from tests.smtp.fake_mx import FakeMx, make_certificate

PASSWORD = "s3cret-of-the-isp"
MAIL = b"From: a@test.example\r\nSubject: x\r\nMessage-ID: <%d@test.example>\r\n\r\nthe content itself\r\n"


class Host:
    """A smart host on a thread of its own; what recipients get depends on their names."""

    def __init__(self, folder: Path) -> None:
        context, self.ca_file = make_certificate(folder, "127.0.0.1")
        replies = {"RCPT TO:<later": "451 4.2.0 come again", "RCPT TO:<never": "550 5.1.1 no such user"}
        self.mx = FakeMx(replies, extensions=("PIPELINING", "AUTH PLAIN"), starttls=context)
        self.replies = self.mx.replies
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._ending = asyncio.Event()
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        async with self.mx.listening():
            self._ready.set()
            await self._ending.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()


class Desk:
    """A gateway that sends all mail by the host, logged in; a number for each message."""

    def __init__(self, gateway: Running, host: Host) -> None:
        self.gateway, self.host = gateway, host
        self._number = 0

    def send(self, *recipients: str, sender: str = "a@test.example") -> tuple[str, str]:
        """(queue id, Message-ID)"""
        self._number += 1
        with smtplib.SMTP("127.0.0.1", self.gateway.port("lan"), timeout=20) as client:
            client.ehlo("laptop.test.example")
            client.mail(sender)
            for recipient in recipients:
                client.rcpt(recipient)
            _, said = client.data(MAIL % self._number)
        return said.decode().rpartition(" ")[2], f"<{self._number}@test.example>"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = self.gateway.command(*words)
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=SECONDS)

    def say(self, *words: str, status: int = 0) -> str:
        done = self.run(*words)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    def answer(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.say(*words, "--json").splitlines()]

    def queued(self, queue_id: str) -> dict[str, Any] | None:
        rows = ask(self.gateway.runtime / "relay" / "control.sock", "queue.list", limit=1000)
        return next((row for row in rows if row["queue_id"] == queue_id), None)

    def states(self, queue_id: str) -> set[str]:
        row = self.queued(queue_id)
        return set() if row is None else {one["state"] for one in row["recipients"] if one["attempts"]}

    def trace(self, queue_id: str, kind: str) -> dict[str, Any]:
        """Once the journal has that."""
        found: list[dict[str, Any]] = []

        def told() -> bool:
            done = self.run("trace", queue_id, "--json")
            found[:] = [json.loads(line) for line in done.stdout.splitlines()]
            return bool(found) and kind in {event["kind"] for event in found[0]["events"]}

        until(told)
        return found[0]


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="eg-tools-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        host = Host(folder)
        host.ca_file.chmod(0o644)
        at = f"host: 127.0.0.1, port: {host.mx.port}"
        smart = f"""  smart_hosts:
    isp: {{{at}, tls: starttls, ca_file: {host.ca_file}, auth: {{user: gw, secret: "file:isp"}}}}
    other: {{{at}, tls: none}}
"""
        site = SITE.replace("  relay:", f"{smart}  relay:", 1) + "routes:\n  - {name: out, via: isp}\n"
        secrets = folder / "state" / "secrets"
        secrets.mkdir(parents=True)
        (secrets / "isp").write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder / "state", secrets, secrets / "isp"):
                os.chown(path, 65534, -1)
        try:
            for gateway in running_in(folder, site):
                yield Desk(gateway, host)
        finally:
            host.close()


def kinds(trace: dict[str, Any]) -> list[str]:
    return [event["kind"] for event in trace["events"]]


def test_a_delivered_message_is_traced_with_its_dialogue_and_without_secrets(desk: Desk) -> None:
    queue_id, message_id = desk.send("bert@far.example", "berta@far.example")
    trace = desk.trace(queue_id, "delivery.delivered")
    assert kinds(trace) == ["mail.accepted", "delivery.dialogue", "delivery.delivered", "delivery.delivered"]
    taken, dialogue, delivered, _ = trace["events"]
    assert (taken["client"], taken["listener"], taken["rule"]) == ("127.0.0.1", "lan", "everybody-here")
    assert (taken["helo"], taken["size_octets"], taken["message_id"]) == ("laptop.test.example", 86, message_id)
    assert (delivered["transport"], delivered["status"]) == ("isp", "2.0.0")
    assert trace["queued"] == "not in the queue"
    lines = [line.partition(" ")[2] for line in dialogue["lines"]]
    assert "> AUTH PLAIN ***" in lines and "> RCPT TO:<bert@far.example>" in lines and "< 250 2.0.0 taken" in lines
    words = desk.say("trace", queue_id)
    for told in (words, json.dumps(trace), *desk.gateway.folder.glob("state/journal/relay.sqlite*")):
        octets = told.read_bytes() if isinstance(told, Path) else told.encode()
        for secret in (PASSWORD.encode(), base64.b64encode(f"\0gw\0{PASSWORD}".encode()), b"the content itself"):
            assert secret not in octets
    assert "> MAIL FROM:<a@test.example>" in words and "accepted" in words and "rule everybody-here" in words


@pytest.mark.parametrize("by", ["--message-id", "--recipient"])
def test_a_message_is_found_by_what_people_know_of_it(desk: Desk, by: str) -> None:
    recipient = f"found{by}@far.example"
    queue_id, message_id = desk.send(recipient)
    desk.trace(queue_id, "delivery.delivered")
    (found,) = desk.answer("trace", by, message_id if by == "--message-id" else recipient)
    assert found["queue_id"] == queue_id
    assert "nothing is known" in desk.say("trace", by, "<nobody@nowhere.example>", status=5)


def test_a_message_that_was_put_off_is_traced_through_every_attempt(desk: Desk) -> None:
    queue_id, _ = desk.send("later1@far.example")
    until(lambda: desk.states(queue_id) == {"queued"})
    (row,) = desk.answer("queue", "list", queue_id)
    assert row["queue_name"] == "deferred" and row["recipients"][0]["destination"] == "isp"
    assert row["recipients"][0]["delay_reason"].startswith("4.2.0 ") and row["recipients"][0]["next_at"] > 0
    trace = desk.trace(queue_id, "delivery.transient")
    assert trace["queued"]["recipients"][0]["state"] == "queued"
    del desk.host.replies["RCPT TO:<later"]
    try:
        assert desk.answer("queue", "retry", queue_id)[0]["messages"] == 1
        trace = desk.trace(queue_id, "delivery.delivered")
    finally:
        desk.host.replies["RCPT TO:<later"] = "451 4.2.0 come again"
    attempts = [kind for kind in kinds(trace) if kind != "delivery.dialogue"]
    assert attempts == ["mail.accepted", "delivery.transient", "queue.retry", "delivery.delivered"]
    first, second = (event["lines"] for event in trace["events"] if event["kind"] == "delivery.dialogue")
    assert any("451 4.2.0 come again" in line for line in first) and not any("451" in line for line in second)


def test_a_refused_message_is_traced_with_its_notice(desk: Desk) -> None:
    queue_id, _ = desk.send("never1@far.example", sender="never2@test.example")
    trace = desk.trace(queue_id, "delivery.permanent")
    (notice,) = trace["notices"]
    assert trace["events"][-1]["dsn"] == notice
    until(lambda: desk.answer("trace", queue_id)[0]["notices"][notice])
    assert f"notice {notice} to the sender" in desk.say("trace", queue_id)


def test_hold_release_and_reroute_are_traced_with_who_and_why(desk: Desk) -> None:
    queue_id, _ = desk.send("later2@far.example", sender="held@test.example")
    until(lambda: desk.states(queue_id) == {"queued"})
    (answer,) = desk.answer("queue", "hold", "--sender", "held@test.example", "--why", "let me look")
    assert answer == {"schema": 1, "order": "hold", "messages": 1, "recipients": 1}
    assert desk.answer("queue", "list", "--queue", "held")[0]["queue_id"] == queue_id
    shown = desk.say("queue", "show", queue_id)
    assert "later2@far.example  held" in shown and "4.2.0 127.0.0.1: come again" in shown
    desk.say("queue", "hold", queue_id, status=5)
    desk.say("queue", "reroute", queue_id, "--via", "other")
    assert "unknown smart host 'nosuch'" in desk.say("queue", "reroute", queue_id, "--via", "nosuch", status=6)
    desk.say("queue", "release", "--recipient", "*@far.example", "--sender", "held@test.example")
    until(lambda: desk.states(queue_id) == {"queued"} and desk.trace(queue_id, "queue.release"))
    trace = desk.trace(queue_id, "queue.release")
    orders = [event for event in trace["events"] if event["kind"].startswith("queue.")]
    assert [event["kind"] for event in orders] == ["queue.hold", "queue.reroute", "queue.release"]
    assert orders[0]["why"] == "let me look" and orders[0]["by"]
    assert "hold" in desk.say("trace", queue_id) and "let me look" in desk.say("trace", queue_id)


def test_bounce_tells_the_sender_and_the_trace_shows_it(desk: Desk) -> None:
    queue_id, _ = desk.send("later3@far.example", sender="boss@test.example")
    until(lambda: desk.states(queue_id) == {"queued"})
    words = ("queue", "bounce", "--sender", "boss@test.example", "--why", "not today")
    assert desk.answer(*words, "--dry-run")[0]["messages"] == 1
    assert "--yes does it" in desk.say(*words, status=6)
    assert desk.queued(queue_id)
    assert desk.answer(*words, "--yes")[0]["notices"] == 1
    trace = desk.trace(queue_id, "queue.bounce")
    given_up, ordered = trace["events"][-2:]
    assert given_up["kind"] == "delivery.permanent" and "not today" in given_up["reply"]
    assert ordered["why"] == "not today"
    assert len(trace["notices"]) == 1 and trace["queued"] == "not in the queue"


def test_delete_of_many_is_shown_first_and_traced(desk: Desk) -> None:
    ids = [desk.send(f"later4{number}@far.example", sender="spam@test.example")[0] for number in range(3)]
    until(lambda: all(desk.states(queue_id) == {"queued"} for queue_id in ids))
    shown = desk.say("queue", "delete", "--sender", "spam@test.example", "--dry-run")
    assert shown.startswith("delete means 3 recipients of 3 messages (") and ids[0] in shown
    desk.say("queue", "delete", status=2)
    desk.say("queue", "delete", "--all", "--sender", "x@y.example", status=2)
    assert all(desk.queued(queue_id) for queue_id in ids)
    assert desk.answer("queue", "delete", "--sender", "spam@test.example", "--yes")[0]["messages"] == 3
    assert not any(desk.queued(queue_id) for queue_id in ids)
    trace = desk.trace(ids[1], "queue.delete")
    assert trace["queued"] == "not in the queue" and trace["notices"] == {}
    desk.say("queue", "show", ids[1], status=5)
    assert "nothing to delete" in desk.say("queue", "delete", ids[1], status=5)


def test_a_test_letter_shows_what_was_said(desk: Desk) -> None:
    words = desk.say("send-test", "--to", "somebody@far.example", "--via", "other")
    assert "> RCPT TO:<somebody@far.example>" in words and "> AUTH" not in words
    assert "delivered" in words and "by other, attempt 1" in words
    sender, _, content = desk.host.mx.messages[-1]
    assert sender.startswith("MAIL FROM:<postmaster@gw.test.example>") and b"[EgressGuard] a test" in content
    assert "it waits in the queue" in desk.say("send-test", "--to", "later5@far.example", status=75)
    assert "it is given up" in desk.say("send-test", "--to", "never5@far.example", status=1)
    assert "unknown smart host" in desk.say("send-test", "--to", "x@far.example", "--via", "nosuch", status=6)
    assert "no address" in desk.say("send-test", "--to", "x@y\r\nDATA", status=6)


def test_nonsense_is_refused_by_the_relay_itself(desk: Desk) -> None:
    socket = desk.gateway.runtime / "relay" / "control.sock"
    for selection in (
        {"nonsense": 1},
        {"sender": 7},
        {"state": "asleep"},
        {"queue_ids": "A1"},
        {"received_before": "x"},
    ):
        with pytest.raises(Exception, match=r"expected|select by"):
            ask(socket, "queue.page", selection=selection, after=0, limit=10)
