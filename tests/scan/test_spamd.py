"""SpamAssassin: the real spamd with one rule, and impostors that say anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from egressguard.policy.scanning import Spamd
from egressguard.scan.engine import Answer, Subject
from egressguard.scan.engine_words import EngineDown
from egressguard.scan.spamd import SpamdEngine, understood
from tests.scan import daemons
from tests.scan.daemons import MARKER, impostor
from tests.scan.samples import text_mail


@pytest.fixture(scope="module")
def spamd() -> Iterator[str]:
    with daemons.spamd() as address:
        yield address


@pytest.mark.peers
@pytest.mark.parametrize(
    ("text", "answer"), [(MARKER, Answer(score=7.5, symbols=("OUR_MARKER",))), (b"nothing", Answer(score=0.0))]
)
def test_the_real_spamd_is_asked(spamd: str, text: bytes, answer: Answer) -> None:
    assert SpamdEngine(Spamd(address=spamd)).ask(Subject(text_mail(text)), 20) == answer


@pytest.mark.peers
def test_it_tells_a_version(spamd: str) -> None:
    assert SpamdEngine(Spamd(address=spamd)).version(20).startswith("SPAMD/")


def test_a_message_above_our_limit_has_no_score() -> None:
    assert SpamdEngine(Spamd(address="unix:/nowhere", max_octets=1024)).ask(Subject(b"x" * 1025), 5) == Answer()


OK = "SPAMD/1.1 0 EX_OK\r\n"


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (OK + "Spam: True ; 15.5 / 5.0\r\n\r\nA,B\r\n", Answer(score=15.5, symbols=("A", "B"))),
        (OK + "Content-length: 0\r\nspam: False ; -1.2 / 5.0\r\n\r\n", Answer(score=-1.2)),
        (OK + "Spam: Yes;3/5\r\n\r\nA\x1b[0m, ,B", Answer(score=3.0, symbols=("A[0m", "B"))),
    ],
)
def test_a_score_is_understood(said: str, answer: Answer) -> None:
    assert understood(said) == answer


@pytest.mark.parametrize(
    "said",
    [
        "",
        "nonsense\r\n\r\n",
        OK + "\r\nSpam: True ; 15.5 / 5.0\r\n",
        "SPAMD/1.1 79 EX_TIMEOUT\r\nSpam: True ; 15.5 / 5.0\r\n\r\n",
        OK + "Spam: True ; nan / 5.0\r\n\r\n",
        OK + "Spam: True ; 1.2.3 / 5.0\r\n\r\n",
        OK + "Spam: True ; " + "9" * 400 + " / 5.0\r\n\r\n",
    ],
)
def test_what_is_no_score_is_down(said: str) -> None:
    with pytest.raises(EngineDown):
        understood(said)


@pytest.mark.parametrize("said", [b"", None, b"\xff" * 100_000])
def test_one_that_hangs_or_talks_nonsense_is_down_in_time(said: bytes | None) -> None:
    with impostor(said) as address, pytest.raises(EngineDown):
        SpamdEngine(Spamd(address=address)).ask(Subject(b"x"), 0.3)
