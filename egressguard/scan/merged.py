"""What several engines said of one message, made into one. Pure.

Contract
    Found by any engine is infected, whatever the others say or do not say.
    An engine that was to give the verdict and is down means: not known (`fail: defer`), denied (`hold`), or what the
    others say (`pass`). One that was to give the score: not known, denied, or the others' score.
    Of several scores the highest counts. Every finding names its engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from egressguard.policy.facts import EngineResult
from egressguard.policy.scanning import Fail
from egressguard.scan.engine import Answer


@dataclass(frozen=True, slots=True)
class Said:
    """`answer` None: it was down, for the reason `why`. `gives` is the fact it is asked for: verdict or score."""

    engine: str
    gives: str
    fail: Fail
    answer: Answer | None
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Merged:
    """`infected` and `denied` are reasons in words, `notes` words that are no reason. `score` None = not known."""

    infected: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    verdict_is_known: bool = True
    score: float | None = 0.0
    engines: tuple[EngineResult, ...] = ()


NOBODY_ASKED = Merged()


def merge(every: Iterable[Said]) -> Merged:
    said = tuple(every)
    answers = [(s.engine, s.gives, s.answer) for s in said if s.answer is not None]
    down = [s for s in said if s.answer is None]
    scores = [answer.score for _, gives, answer in answers if gives == "score"]
    unseen = [f"{engine}: {answer.unseen}" for engine, _, answer in answers if answer.unseen]
    waiting = {s.gives for s in down if s.fail == "defer"}
    return Merged(
        infected=tuple(f"{engine}: {name}" for engine, _, answer in answers for name in answer.found),
        denied=(*unseen, *(f"{s.engine}: {s.why}" for s in down if s.fail == "hold")),
        notes=(
            *(_scored(engine, answer) for engine, gives, answer in answers if gives == "score" and answer.score > 0),
            *(f"{s.engine}: {s.why}" for s in down if s.fail != "hold"),
        ),
        verdict_is_known="verdict" not in waiting,
        score=None if "score" in waiting else max(scores, default=0.0),
        engines=tuple(EngineResult(s.engine, result(s), s.seconds) for s in said),
    )


def beside(message: Merged, part: Merged) -> Merged:
    """What was said of a message and of a part of it by itself; the score is the message's."""
    return replace(
        message,
        infected=(*message.infected, *part.infected),
        denied=(*message.denied, *part.denied),
        notes=(*message.notes, *part.notes),
        verdict_is_known=message.verdict_is_known and part.verdict_is_known,
        engines=(*message.engines, *part.engines),
    )


def _scored(engine: str, answer: Answer) -> str:
    reasons = f" ({', '.join(answer.symbols)})" if answer.symbols else ""
    return f"{engine}: score {answer.score:.1f}{reasons}"[:400]


def result(said: Said) -> str:
    if said.answer is None:
        return "down"
    if said.answer.unseen:
        return "unseen"
    return "found" if said.answer.found else "clean"
