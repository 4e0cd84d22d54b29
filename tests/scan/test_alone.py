"""A message on which workers die is a fact about it, and held; a scan role that is not there is not."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.facts import ScanReport
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan import look
from egressguard.scan.alone import how_it_died
from egressguard.scan.client import ScanClient
from egressguard.scan.server import ScanServer
from egressguard.store.content import Content
from tests.relay.test_accept import Desk, desk, policy_of, take
from tests.rules.test_shipped import load as shipped_rules
from tests.scan.samples import mail_with

__all__ = ["desk"]

SETTINGS = Scan(timeout_seconds=20, workers=2)
DEADLY = mail_with("a.txt", b"x")


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eg-scan-") as name:  # short: a socket's path has 108 octets
        yield Path(name) / "s"


def serving(place: Path, settings: Scan = SETTINGS) -> ScanServer:
    server = ScanServer(place, settings, registry=CollectorRegistry())
    server.start()
    return server


def scan(place: Path) -> ScanReport:
    client = ScanClient(place, timeout_seconds=30, registry=CollectorRegistry())
    return asyncio.run(client.scan(Content.of(DEADLY)))


def crash() -> None:
    faulthandler.disable()  # pytest's would tell of it
    ctypes.string_at(0)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def take_all_memory() -> None:
    bytearray(1 << 40)  # RLIMIT_AS says no


def take_all_time() -> None:
    while True:
        pass


def stumble() -> None:
    raise RecursionError


def be_kept_waiting() -> None:
    threading.Event().wait()


def find_the_machine_full() -> None:
    raise OSError(28, "No space left on device")


def doing(monkeypatch: pytest.MonkeyPatch, does: Callable[[], None]) -> None:
    """What examines messages in the workers, which are forks of this process, does this first."""
    real = look.examine

    def examine(*arguments: Any) -> ScanReport:
        does()
        return real(*arguments)

    monkeypatch.setattr(look, "examine", examine)


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (crash, "SIGSEGV"),
        (be_killed, "killed"),
        (take_all_memory, "MemoryError"),
        (take_all_time, "processor's time"),
        (stumble, "RecursionError"),
    ],
)
def test_a_message_that_every_reader_dies_of_is_denied(
    does: Callable[[], None], words: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(monkeypatch, does)
    monkeypatch.setattr(look, "share_seconds", lambda *_: 0.4)
    server = serving(place)
    try:
        report = scan(place)
    finally:
        server.stop()

    assert (report.verdict, report.attachments, report.score) == (Verdict.DENIED, None, None)
    assert words in report.findings[0]


def test_a_message_that_takes_too_much_time_is_not_tried_again(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_all_time_and_tell() -> None:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        take_all_time()

    doing(monkeypatch, take_all_time_and_tell)
    monkeypatch.setattr(look, "share_seconds", lambda *_: 0.2)
    server = serving(place)
    try:
        assert [scan(place).verdict for _ in range(3)] == [Verdict.DENIED] * 3, "another worker takes its place"
    finally:
        server.stop()
    assert (tmp_path / "tries").read_text() == "xxx"


@pytest.mark.parametrize("does", [be_kept_waiting, find_the_machine_full])
def test_what_is_the_machines_trouble_is_unknown(
    does: Callable[[], None], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(monkeypatch, does)
    server = serving(place, Scan(timeout_seconds=1, workers=1))
    try:
        assert scan(place).verdict is None
    finally:
        server.stop()


def test_a_worker_that_dies_once_costs_the_message_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_once() -> None:
        try:
            (tmp_path / "died").mkdir()
        except FileExistsError:
            return
        be_killed()

    doing(monkeypatch, die_once)
    server = serving(place)
    try:
        assert scan(place).verdict is Verdict.CLEAN
    finally:
        server.stop()
    assert (tmp_path / "died").exists()


def test_a_scan_role_that_ends_while_it_looks_says_nothing(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    os.mkfifo(begun)

    def die_then_wait() -> None:
        try:
            (tmp_path / "died").mkdir()
        except FileExistsError:
            with begun.open("w") as told:
                told.write("now")
            be_kept_waiting()
        be_killed()

    doing(monkeypatch, die_then_wait)
    server = serving(place, Scan(timeout_seconds=60))
    reports: list[ScanReport] = []
    asking = threading.Thread(target=lambda: reports.append(scan(place)))
    asking.start()
    begun.read_text()  # the second try is under way
    server.stop()
    asking.join()

    assert reports[0].verdict is None


def test_new_settings_leave_the_message_in_hand_its_answer(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = tmp_path / "begun", tmp_path / "may-end"
    os.mkfifo(begun)
    os.mkfifo(may_end)

    def wait_once() -> None:
        if not (tmp_path / "waited").exists():
            (tmp_path / "waited").mkdir()
            begun.write_text("now")
            may_end.read_text()

    doing(monkeypatch, wait_once)
    server = serving(place, Scan(timeout_seconds=60, workers=1))
    reports: list[ScanReport] = []
    asking = threading.Thread(target=lambda: reports.append(scan(place)))
    asking.start()
    begun.read_text()
    server.reload(Scan(timeout_seconds=60, workers=1, denied_names=("*.txt",)))  # ends the worker that has it
    asking.join()
    server.stop()

    assert reports[0].verdict is Verdict.DENIED  # by the new settings


def test_the_shipped_rules_hold_what_readers_die_of(desk: Desk, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doing(monkeypatch, be_killed)
    server = serving(place)
    try:
        desk.acceptance._scanner = ScanClient(place, timeout_seconds=30, registry=CollectorRegistry())
        desk.acceptance.policy = shipped_rules()
        assert take(desk).startswith("250")
    finally:
        server.stop()

    kind, fields = desk.journal[-1]
    assert (kind, fields["rule"]) == ("mail.quarantined", "denied-attachments")
    assert asyncio.run(desk.spool.rows(10)) == []


def test_without_a_rule_about_verdicts_it_is_put_off_never_let_pass(
    desk: Desk, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    doing(monkeypatch, be_killed)
    server = serving(place)
    try:
        desk.acceptance._scanner = ScanClient(place, timeout_seconds=30, registry=CollectorRegistry())
        desk.acceptance.policy = policy_of(
            [
                {"name": "programs", "match": {"attachment_name": "*.exe"}, "action": "reject"},
                {"name": "users", "match": {"authenticated": True}, "action": "accept"},
            ]
        )
        assert take(desk).startswith("451")
    finally:
        server.stop()


@pytest.mark.parametrize("exit_code", [0, 1, -signal.SIGALRM, -signal.SIGTERM])
def test_ends_that_are_not_the_messages_doing(exit_code: int) -> None:
    assert how_it_died(exit_code) is None
