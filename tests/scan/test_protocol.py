"""Requests and reports between relay and worker: what is said arrives, bounded; what is not understood is refused."""

from __future__ import annotations

import os
import random
import socket
import threading

import pytest

from egressguard.policy.facts import Attachment, EngineResult, ScanReport, ScanRequest
from egressguard.policy.verdict import Verdict
from egressguard.scan.protocol import (
    REQUEST_OCTETS,
    TEXT_CHARACTERS,
    decode_report,
    decode_request,
    encode_report,
    encode_request,
    received_message,
    send_message,
)
from egressguard.store.content import Content

WHOLE = ScanRequest("2001:db8::7", "pc", "änna", "a@example.org", ("b@example.net", "c"), "Q1", frozenset({"score"}))


@pytest.mark.parametrize(
    "request_", [ScanRequest(), WHOLE, ScanRequest(reverse_path=""), ScanRequest(asks=frozenset())]
)
def test_a_request_arrives(request_: ScanRequest) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send_message(ours, Content.of(b"Subject: x\r\n"), request_)
        with received_message(theirs, 1000) as received:
            assert (received.request, received.content) == (request_, b"Subject: x\r\n")
            assert os.fstat(received.fd).st_size == 12
            fd = received.fd
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_request_in_pieces_arrives() -> None:
    ours, theirs = socket.socketpair()
    line, fd = encode_request(WHOLE), os.memfd_create("m")
    with ours, theirs:
        socket.send_fds(ours, [line[:3]], [fd])
        os.close(fd)
        rest = threading.Thread(target=lambda: [ours.sendall(line[n : n + 1]) for n in range(3, len(line))])
        rest.start()
        with received_message(theirs, 1000) as received:
            assert received.request == WHOLE
        rest.join()


def test_whatever_a_client_says_the_request_is_bounded() -> None:
    hostile = "\U0001f4a9" * 10_000
    request = ScanRequest(hostile, hostile, hostile, hostile, (hostile,) * 1000, hostile)
    line = encode_request(request)

    assert len(line) <= REQUEST_OCTETS
    assert decode_request(line).helo == hostile[:TEXT_CHARACTERS]


def test_control_characters_and_lone_surrogates_are_left_out() -> None:
    asked = decode_request(encode_request(ScanRequest(helo="a\r\nb\x00\udc80c", reverse_path="x\n")))

    assert (asked.helo, asked.reverse_path) == ("abc", "x")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"scan",
        b"scan x\n",
        b"scan {}\n",
        b"SCAN\n",
        b"scan []\n",
        b"scan " + b"{" * 30_000 + b"}\n",
        b'scan {"client":' + b"[" * 30_000 + b"}\n",
        encode_request(WHOLE).replace(b'"pc"', b"7"),
        encode_request(WHOLE).replace(b'"pc"', b"null"),
        encode_request(WHOLE).replace(b'["score"]', b"7"),
        encode_request(WHOLE).replace(b'["score"]', b"[[]]"),
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode_request(line)


def test_octets_at_random_never_do_more_than_be_refused() -> None:
    chance, line = random.Random(7), encode_request(WHOLE)
    for _ in range(2000):
        broken = bytearray(line)
        for _ in range(chance.randint(1, 5)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            decode_request(bytes(broken))
        except ValueError:
            continue


REPORT = ScanReport(
    Verdict.INFECTED,
    ("clamd: Worm",),
    (Attachment(("a.zip", "b"), "text/plain", 3, True, True),),
    7.5,
    (EngineResult("clamd", "found", 0.25),),
)


@pytest.mark.parametrize("report", [REPORT, ScanReport(None, (), None, None), ScanReport(Verdict.CLEAN, (), ())])
def test_a_report_arrives(report: ScanReport) -> None:
    assert decode_report(encode_report(report)) == report


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"7.5", b"NaN"),
        (b"7.5", b"Infinity"),
        (b"7.5", b"[]"),
        (b"7.5", b"1" + b"0" * 400),
        (b"0.25", b"NaN"),
        (b'"infected"', b'"fine"'),
        (b'[["clamd", "found", 0.25]]', b"7"),
        (b'["clamd: Worm"]', b"[" * 100_000),
    ],
)
def test_what_is_no_report_is_refused(old: bytes, new: bytes) -> None:
    line = encode_report(REPORT)
    assert old in line
    with pytest.raises(ValueError):
        decode_report(line.replace(old, new))
