"""What several engines say, made into one: the truth table of findings, fail modes and scores."""

from __future__ import annotations

from typing import Any

import pytest

from egressguard.scan.engine import Answer
from egressguard.scan.merged import NOBODY_ASKED, Said, merge


def clamd(answer: Answer | None, fail: Any = "defer") -> Said:
    return Said("clamd", "verdict", fail, answer, "" if answer else "hangs")


def yara(answer: Answer | None, fail: Any = "defer") -> Said:
    return Said("yara", "verdict", fail, answer, "" if answer else "hangs")


def rspamd(score: float | None, fail: Any = "defer") -> Said:
    answer = None if score is None else Answer(score=score, symbols=("BAD",))
    return Said("rspamd", "score", fail, answer, "" if answer else "hangs")


def spamd(score: float) -> Said:
    return Said("spamd", "score", "defer", Answer(score=score))


CLEAN, FOUND, UNSEEN = Answer(), Answer(found=("Worm",)), Answer(unseen="too large")


@pytest.mark.parametrize(
    ("said", "infected", "denied", "known", "score"),
    [
        ([clamd(CLEAN)], (), (), True, 0.0),
        ([clamd(FOUND)], ("clamd: Worm",), (), True, 0.0),
        ([clamd(UNSEEN)], (), ("clamd: too large",), True, 0.0),
        ([clamd(CLEAN), yara(FOUND)], ("yara: Worm",), (), True, 0.0),
        ([clamd(FOUND), yara(FOUND)], ("clamd: Worm", "yara: Worm"), (), True, 0.0),
        # One that is down.
        ([clamd(None)], (), (), False, 0.0),
        ([clamd(None, "hold")], (), ("clamd: hangs",), True, 0.0),
        ([clamd(None, "pass")], (), (), True, 0.0),
        ([clamd(None), yara(FOUND)], ("yara: Worm",), (), False, 0.0),
        ([clamd(None), yara(CLEAN)], (), (), False, 0.0),
        ([clamd(None, "pass"), yara(None)], (), (), False, 0.0),
        # Scores say nothing of the verdict, nor the other way round.
        ([rspamd(7.5)], (), (), True, 7.5),
        ([rspamd(7.5), spamd(9.0)], (), (), True, 9.0),
        ([rspamd(-1.0), spamd(-3.0)], (), (), True, -1.0),
        ([rspamd(None)], (), (), True, None),
        ([rspamd(None, "hold")], (), ("rspamd: hangs",), True, 0.0),
        ([rspamd(None, "pass"), spamd(3.0)], (), (), True, 3.0),
        ([rspamd(None), spamd(30.0)], (), (), True, None),
        ([clamd(None), rspamd(7.5)], (), (), False, 7.5),
    ],
)
def test_several_answers_are_one(
    said: list[Said], infected: tuple[str, ...], denied: tuple[str, ...], known: bool, score: float | None
) -> None:
    merged = merge(said)

    assert (merged.infected, merged.denied, merged.verdict_is_known, merged.score) == (infected, denied, known, score)


def test_nobody_asked_is_no_fact() -> None:
    assert merge([]) == NOBODY_ASKED


def test_whoever_is_down_is_named_whatever_its_silence_means() -> None:
    for fail in ("defer", "hold", "pass"):
        merged = merge([clamd(None, fail)])
        assert "clamd: hangs" in (*merged.denied, *merged.notes)


def test_a_score_comes_with_its_reasons_and_a_good_one_without_words() -> None:
    assert merge([rspamd(7.5)]).notes == ("rspamd: score 7.5 (BAD)",)
    assert merge([rspamd(-7.5)]).notes == ()


def test_the_result_of_each_engine_is_told() -> None:
    merged = merge([clamd(FOUND), yara(UNSEEN), rspamd(None), spamd(1.0)])
    results = [(told.engine, told.result) for told in merged.engines]

    assert results == [("clamd", "found"), ("yara", "unseen"), ("rspamd", "down"), ("spamd", "clean")]
