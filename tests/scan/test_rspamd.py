"""rspamd: the real one with the envelope, and impostors that say anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from egressguard.policy.facts import ScanRequest
from egressguard.policy.scanning import Rspamd
from egressguard.scan.engine import MAX_NAMES, Answer, Subject
from egressguard.scan.engine_words import EngineDown
from egressguard.scan.rspamd import RspamdEngine, understood
from tests.scan import daemons
from tests.scan.daemons import MARKER, impostor
from tests.scan.samples import text_mail

ENVELOPE = ScanRequest(
    "192.0.2.7", "pc.example.org", "anna", "anna@example.org", ("bert@example.net", "carl@example.net"), "Q1"
)


@pytest.fixture(scope="module")
def rspamd() -> Iterator[str]:
    with daemons.rspamd() as address:
        yield address


@pytest.mark.peers
@pytest.mark.parametrize(
    ("text", "request_", "answer"),
    [
        (MARKER, ScanRequest(), Answer(score=7.5, symbols=("OUR_MARKER",))),
        (b"nothing", ScanRequest(), Answer(score=0.0)),
        (b"nothing", ENVELOPE, Answer(score=1.25, symbols=("ENVELOPE_SEEN",))),
        (MARKER, ENVELOPE, Answer(score=8.75, symbols=("OUR_MARKER", "ENVELOPE_SEEN"))),
        (b"nothing", ScanRequest(reverse_path=""), Answer(score=0.0)),
        (b"nothing", ScanRequest(helo="x\r\nRcpt: y\r\n\r\n", user="\x00ü"), Answer(score=0.0)),
    ],
)
def test_the_real_rspamd_is_told_of_the_envelope(
    rspamd: str, text: bytes, request_: ScanRequest, answer: Answer
) -> None:
    assert RspamdEngine(Rspamd(address=rspamd)).ask(Subject(text_mail(text), request_), 20) == answer


@pytest.mark.peers
def test_it_tells_its_version(rspamd: str) -> None:
    assert RspamdEngine(Rspamd(address=rspamd)).version(20).startswith("rspamd")


def test_a_message_above_our_limit_has_no_score() -> None:
    engine = RspamdEngine(Rspamd(address="unix:/nowhere", max_octets=1024))

    assert engine.ask(Subject(b"x" * 1025), 5) == Answer()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"score": null}',
        b'{"score": NaN}',
        b'{"score": Infinity}',
        b'{"score": 1e999}',
        b'{"score": 1, "symbols": [1]}',
        b"[" * 100_000,
        b'{"score": ' + b"9" * 5000 + b"}",
    ],
)
def test_what_is_no_finite_score_is_down(body: bytes) -> None:
    with pytest.raises(EngineDown):
        understood(body)


@pytest.mark.parametrize("symbols", [None, {"A": None}, {"A": {"score": "x"}}, {"A": {}}, {"A": {"score": -1}}])
def test_symbols_that_say_nothing_against_a_message_are_left_out(symbols: Any) -> None:
    assert understood(json.dumps({"score": 1, "symbols": symbols}).encode()) == Answer(score=1.0)


def test_symbols_are_bounded_and_the_weightiest_come_first() -> None:
    symbols = {f"S{n}\x1b": {"score": n} for n in range(1000)}
    answer = understood(json.dumps({"score": 1, "symbols": symbols}).encode())

    assert len(answer.symbols) == MAX_NAMES
    assert answer.symbols[0] == "S999"


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"nonsense",
        b"HTTP/1.1 500 Sorry\r\nContent-Length: 0\r\n\r\n",
        b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"score": 1}',
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000,
    ],
)
def test_what_is_no_answer_is_down(said: bytes) -> None:
    with impostor(said) as address, pytest.raises(EngineDown):
        RspamdEngine(Rspamd(address=address)).ask(Subject(b"content"), 5)


def test_one_that_hangs_is_down_in_time() -> None:
    with impostor(None) as address, pytest.raises(EngineDown):
        RspamdEngine(Rspamd(address=address)).ask(Subject(b"x"), 0.1)
