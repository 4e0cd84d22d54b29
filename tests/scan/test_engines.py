"""Engines asked for what rules want, side by side, left alone while they fail, found again; the real ones, too."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.facts import ScanReport, ScanRequest
from egressguard.policy.scanning import Clamd, Rspamd, Spamd, Yara
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.client import ScanClient
from egressguard.scan.engine import Subject
from egressguard.scan.engines import Engines
from egressguard.scan.server import ScanServer
from egressguard.store.content import Content
from tests.scan import daemons
from tests.scan.daemons import MARKER, impostor
from tests.scan.samples import mail_with, text_mail

NOWHERE = "unix:/nowhere/at/all"
SPAM_OK = b"SPAMD/1.1 0 EX_OK\r\nSpam: True ; 9.0 / 5.0\r\n\r\nA"


def asking(*asks: str) -> ScanRequest:
    return ScanRequest(asks=frozenset(asks))


@pytest.mark.parametrize(
    ("asks", "asked"),
    [((), []), (("verdict",), ["clamd"]), (("score",), ["spamd"]), (("verdict", "score"), ["clamd", "spamd"])],
)
def test_only_those_are_asked_whose_fact_is_wanted(asks: tuple[str, ...], asked: list[str]) -> None:
    engines = Engines(Scan(clamd=Clamd(address=NOWHERE), spamd=Spamd(address=NOWHERE)), Path())

    merged = engines.ask(Subject(b"x", asking(*asks)), 5)

    assert [told.engine for told in merged.engines] == asked


def test_one_that_fails_is_left_alone_then_tried_then_back() -> None:
    now = 0.0
    with impostor(b"SPAMD/1.1 79 EX_TIMEOUT\r\n\r\n") as ill, impostor(SPAM_OK) as well:
        engines = Engines(Scan(spamd=Spamd(address=ill)), Path(), clock=lambda: now)
        assert engines.ask(Subject(b"x"), 5).score is None
        engines._engines[0].engine._settings = Spamd(address=well)  # type: ignore[attr-defined]
        now = 0.5
        merged = engines.ask(Subject(b"x"), 5)
        assert (merged.score, merged.engines[0].result) == (None, "down")
        assert "spamd: does not answer: said SPAMD/1.1 79 EX_TIMEOUT" in merged.notes
        now = 1.0
        assert engines.ask(Subject(b"x"), 5).score == 9.0
        assert engines.ask(Subject(b"x"), 5).score == 9.0


@contextlib.contextmanager
def until_all_have_come(number: int) -> Iterator[tuple[str, threading.Event]]:
    """(where, set when all are there at once): a daemon that keeps its clients waiting until there are so many."""
    met = threading.Event()

    def play() -> None:
        with contextlib.ExitStack() as waiting:
            gone = select.poll()
            for _ in range(number):
                try:
                    gone.register(waiting.enter_context(listener.accept()[0]), 0)  # POLLHUP
                except OSError:
                    return
            if not gone.poll(0):
                met.set()

    with tempfile.TemporaryDirectory(prefix="eg-engine-") as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{name}/s")
        listener.listen()
        player = threading.Thread(target=play)
        player.start()
        try:
            yield f"unix:{name}/s", met
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            player.join()


def test_several_that_hang_are_waited_for_side_by_side() -> None:
    """Asked in turn, the first would use up the time that all of them have, and the last would never be asked."""
    with until_all_have_come(3) as (address, met):
        both = Scan(clamd=Clamd(address=address), rspamd=Rspamd(address=address), spamd=Spamd(address=address))
        engines = Engines(both, Path())

        merged = engines.ask(Subject(b"x"), 10)

        assert met.is_set(), "they were not asked at the same time"
    assert (merged.verdict_is_known, merged.score) == (False, None)


@pytest.mark.peers
def test_a_part_that_the_engines_reader_does_not_see_is_asked_about_by_itself() -> None:
    with daemons.clamd() as clamd:
        engines = Engines(Scan(clamd=Clamd(address=clamd), spamd=Spamd(address=NOWHERE)), Path())
        asked = asking("verdict")
        assert engines.inquiry(asked, 20).said(b"whole", [b"good"]).infected == ()
        assert engines.inquiry(asked, 20).said(b"whole", [b"good", MARKER, b"x"]).infected == (
            "clamd: Egress.Test.UNOFFICIAL",
        )
        assert engines.inquiry(asking(), 20).said(b"whole", [MARKER]).engines == ()
    assert not engines.inquiry(asked, 20).said(b"whole", [MARKER]).verdict_is_known


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="eg-scan-") as name:  # short: a socket's path has 108 octets
        yield Path(name) / "s"


def scanned(place: Path, settings: Scan, *contents: bytes) -> tuple[list[ScanReport], CollectorRegistry]:
    """What the role's workers say, its rules beside its socket."""
    registry = CollectorRegistry()
    server = ScanServer(place, settings, registry=CollectorRegistry(), rules=place.parent)
    server.start()

    async def run() -> list[ScanReport]:
        client = ScanClient(place, timeout_seconds=20, registry=registry)
        return [await client.scan(Content.of(content)) for content in contents]

    try:
        return asyncio.run(run()), registry
    finally:
        server.stop()


@pytest.mark.peers
def test_all_the_real_ones_are_asked_of_one_message(place: Path) -> None:
    pytest.importorskip("yara_x", reason="yara-x is not installed")
    (place.parent / "own").mkdir()
    (place.parent / "own" / "a.yar").write_text('rule inside { strings: $a = "hidden inside" condition: $a }')
    with daemons.clamd() as clamd, daemons.rspamd() as rspamd, daemons.spamd() as spamd:
        settings = Scan(
            clamd=Clamd(address=clamd, at_once=1),
            rspamd=Rspamd(address=rspamd),
            spamd=Spamd(address=spamd),
            yara=Yara(folder="own"),
        )
        contents = [text_mail(MARKER), text_mail(b"good"), mail_with("a.bin", b"hidden inside")]
        (bad, good, inside), registry = scanned(place, settings, *contents)

    assert bad.verdict is Verdict.INFECTED
    assert bad.findings == (
        "clamd: Egress.Test.UNOFFICIAL",
        "rspamd: score 7.5 (OUR_MARKER)",
        "spamd: score 7.5 (OUR_MARKER)",
    )
    assert (bad.score, good.verdict, good.score) == (7.5, Verdict.CLEAN, 0.0)
    assert "yara: inside in a.bin" in inside.findings
    for engine in ("clamd", "rspamd", "spamd", "yara"):
        assert registry.get_sample_value("egressguard_scan_engine_up", {"engine": engine}) == 1
        seconds = "egressguard_scan_engine_duration_seconds_count"
        assert registry.get_sample_value(seconds, {"engine": engine}) == 3
    found = {"engine": "clamd", "result": "found"}
    assert registry.get_sample_value("egressguard_scan_engine_results_total", found) == 1


def test_one_that_is_down_shows_in_the_metrics(place: Path) -> None:
    (report,), registry = scanned(place, Scan(clamd=Clamd(address=NOWHERE)), mail_with("a.txt", b"x"))

    assert report.verdict is None
    assert "clamd: does not answer: No such file or directory" in report.findings
    assert registry.get_sample_value("egressguard_scan_engine_up", {"engine": "clamd"}) == 0
    assert registry.get_sample_value("egressguard_scanner_up") == 0, "no verdict: mail is deferred"


def test_one_that_hangs_ends_no_worker_and_its_fail_mode_holds(place: Path) -> None:
    with impostor(None) as address:
        settings = Scan(clamd=Clamd(address=address, fail="pass"), timeout_seconds=1)
        (report,), _ = scanned(place, settings, mail_with("a.txt", b"x"))

    assert report.verdict is Verdict.CLEAN
    assert any(finding.startswith("clamd: does not answer") for finding in report.findings)
