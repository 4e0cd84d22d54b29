"""What the tlsrpt collector is told, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from egressguard.relay.dns import TextAnswer
from egressguard.relay.route import Answer
from egressguard.relay.tls_report import DATAGRAM_OCTETS, TELLING, TlsReport, datagram, wanted_by
from egressguard.smtp.dial import Peer, TlsTerms

RECORD = "v=TLSRPTv1; rua=mailto:r@example.net"
DANE = TlsTerms("dane", "example.net", ("3 1 1 00",))
STS = TlsTerms("mta-sts", "example.net", ("version: STSv1",), ("mx.example.net",))


class Texts:
    def __init__(self, *texts: bytes) -> None:
        self.texts = texts
        self.asked: list[str] = []

    async def resolve_text(self, name: str) -> TextAnswer:
        self.asked.append(name)
        return TextAnswer(Answer.FOUND if self.texts else Answer.NOTHING, self.texts)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([RECORD.encode()], RECORD),
        ([b"v=spf1 -all", RECORD.encode()], RECORD),
        ([], None),
        ([RECORD.encode()] * 2, None),
        ([b"v=TLSRPTv2; rua=mailto:r@example.net"], None),
        ([b"v=TLSRPTv1; rua=\xff"], None),
    ],
)
def test_who_wants_reports(texts: list[bytes], wanted: str | None) -> None:
    assert wanted_by(texts) == wanted


@pytest.mark.parametrize(
    ("terms", "result", "policy"),
    [
        (DANE, "verified", {"policy-type": 1, "policy-string": ["3 1 1 00"], "t": 0, "f": 0}),
        (
            DANE,
            "validation-failure",
            {"policy-type": 1, "policy-string": ["3 1 1 00"], "failure-details": [{"c": 205}], "t": 1, "f": 1},
        ),
        (
            STS,
            "certificate-expired",
            {
                "policy-type": 2,
                "policy-string": ["version: STSv1"],
                "mx-host": ["mx.example.net"],
                "failure-details": [{"c": 204}],
                "t": 1,
                "f": 1,
            },
        ),
        (TlsTerms("opportunistic", "example.net"), "encrypted", {"policy-type": 9, "t": 0, "f": 0}),
        (
            TlsTerms("opportunistic", "example.net"),
            "plain",
            {"policy-type": 9, "failure-details": [{"c": 201}], "t": 1, "f": 1},
        ),
        (
            TlsTerms("opportunistic", "example.net", fault="sts-webpki-invalid"),
            "encrypted",
            {"policy-type": 2, "failure-details": [{"c": 303}], "t": 1, "f": 1},
        ),
        (
            TlsTerms("verify", "example.net"),
            "something new",
            {"policy-type": 9, "failure-details": [{"c": 205}], "t": 1, "f": 1},
        ),
    ],
)
def test_the_collectors_protocol(terms: TlsTerms, result: str, policy: dict[str, Any]) -> None:
    octets = datagram(RECORD, "mx.example.net", terms, "192.0.2.1", result)
    assert octets is not None
    for detail in policy.get("failure-details", []):
        detail |= {"n": "mx.example.net", "r": "192.0.2.1"}
    wanted = {"d": "example.net", "pr": RECORD, "policies": [{"policy-domain": "example.net"} | policy]}
    assert json.loads(octets) == wanted


def test_what_is_too_long_is_not_told() -> None:
    terms = TlsTerms("mta-sts", "example.net", ("x" * DATAGRAM_OCTETS,))
    assert datagram(RECORD, "mx.example.net", terms, "", "verified") is None


def told(texts: Texts, path: Path | None, *peers: Peer) -> tuple[CollectorRegistry, int]:
    registry = CollectorRegistry()

    async def walk() -> int:
        report = TlsReport(texts, lambda: str(path) if path else None, registry)
        for peer in peers:
            report.observe(peer, "192.0.2.1", "verified")
        waiting = len(report._telling)
        await report.settle()
        return waiting

    return registry, asyncio.run(walk())


def peer(terms: TlsTerms | None = DANE) -> Peer:
    return Peer("mx.example.net", ("192.0.2.1",), 25, terms=terms)


def counted(registry: CollectorRegistry, result: str) -> float | None:
    return registry.get_sample_value("egressguard_delivery_tls_reports_total", {"result": result})


def test_a_datagram_goes_to_the_collectors_socket(tmp_path: Path) -> None:
    path = tmp_path / "collector"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
        collector.bind(str(path))
        registry, _ = told(Texts(RECORD.encode()), path, peer())
        assert json.loads(collector.recv(65536))["d"] == "example.net"
    assert counted(registry, "sent") == 1


def test_a_collector_that_does_not_read_stops_nobody(tmp_path: Path) -> None:
    path = tmp_path / "collector"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as collector:
        collector.bind(str(path))
        texts = Texts(RECORD.encode())
        registries = [told(texts, path, *[peer()] * TELLING)[0] for _ in range(10)]
    assert sum(counted(registry, "lost") or 0 for registry in registries) > 0


def test_a_collector_that_is_not_there_stops_nobody(tmp_path: Path) -> None:
    registry, _ = told(Texts(RECORD.encode()), tmp_path / "none", peer())
    assert counted(registry, "lost") == 1


@pytest.mark.parametrize("terms", [None, TlsTerms("verify")])
def test_smart_hosts_are_nobodys_business(tmp_path: Path, terms: TlsTerms | None) -> None:
    texts = Texts(RECORD.encode())
    told(texts, tmp_path / "none", peer(terms))
    assert texts.asked == []


def test_a_domain_that_asks_for_no_reports_gets_none(tmp_path: Path) -> None:
    texts = Texts()
    registry, _ = told(texts, tmp_path / "none", peer())
    assert texts.asked == ["_smtp._tls.example.net"]
    assert counted(registry, "sent") == counted(registry, "lost") == 0


def test_without_a_collector_nothing_is_asked() -> None:
    texts = Texts(RECORD.encode())
    registry, _ = told(texts, None, peer())
    assert texts.asked == []
    labels = {"policy": "dane", "result": "verified"}
    assert registry.get_sample_value("egressguard_delivery_tls_sessions_total", labels) == 1


def test_what_waits_to_be_told_is_bounded(tmp_path: Path) -> None:
    registry, waiting = told(Texts(RECORD.encode()), tmp_path / "none", *[peer()] * (TELLING + 5))
    assert waiting == TELLING and counted(registry, "lost") == TELLING + 5
