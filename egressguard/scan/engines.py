"""The engines that the rules name, asked about one message: those whose fact is wanted, side by side, each bounded.

Contract
    `ask` never raises: an engine that fails, hangs or is left alone (scan.health) is one that is down.
    The time given is for all of it; no engine is waited for longer than its own timeout_seconds.
    Health is each worker's own: of an engine that is back every worker finds out by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from egressguard.policy.facts import ScanRequest
from egressguard.policy.scanning import EngineSettings
from egressguard.policy.site import Scan
from egressguard.scan.archive import Member
from egressguard.scan.clamd import ClamdEngine
from egressguard.scan.engine import Answer, Engine, Seen, Subject
from egressguard.scan.engine_words import EngineDown
from egressguard.scan.health import Health
from egressguard.scan.merged import Merged, Said, beside, merge
from egressguard.scan.octets import Octets
from egressguard.scan.rspamd import RspamdEngine
from egressguard.scan.spamd import SpamdEngine
from egressguard.scan.turns import Turns

if TYPE_CHECKING:
    from egressguard.scan.yara import YaraEngine

ENGINES = ("clamd", "rspamd", "spamd", "yara")


@dataclass(slots=True)
class Asked:
    """An engine with its name, the fact it gives, its settings, its health and its places (None = never too few)."""

    name: str
    gives: str
    settings: EngineSettings
    engine: Engine
    turns: Turns | None = None
    health: Health = field(default_factory=Health)

    def ask(self, subject: Subject, seconds: float, clock: Callable[[], float]) -> Said:
        started = clock()
        if not self.health.may_ask(started):
            return self._said(None, self.health.why, 0.0)
        try:
            answer = self._answer(subject, min(seconds, self.settings.timeout_seconds))
        except EngineDown as wrong:
            self.health.failed(clock(), f"does not answer: {wrong}")
            return self._said(None, self.health.why, clock() - started)
        self.health.answered()
        return self._said(answer, "", clock() - started)

    def _answer(self, subject: Subject, seconds: float) -> Answer:
        until = time.monotonic() + seconds
        place: AbstractContextManager[bool] = self.turns.place(seconds) if self.turns else nullcontext(True)
        with place as held:
            if not held:
                raise EngineDown(f"{self.settings.at_once} messages are before this one")
            return self.engine.ask(subject, max(until - time.monotonic(), 0.01))

    def _said(self, answer: Answer | None, why: str, seconds: float) -> Said:
        return Said(self.name, self.gives, self.settings.fail, answer, why, seconds)


class Engines:
    """`rules` is the directory that holds the folder of YARA rules; `places` where the workers share their counts."""

    def __init__(
        self, settings: Scan, rules: Path, places: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engines = list(_engines(settings, rules, places))
        self._seeing = list(_seeing(self._engines))
        self._clock = clock
        self._threads = ThreadPoolExecutor(len(ENGINES), thread_name_prefix="engine") if self._are_many else None

    def left(self, until: float) -> float:
        return max(until - self._clock(), 0.0)

    @property
    def _are_many(self) -> bool:
        return sum(asked.name != "yara" for asked in self._engines) > 1

    def give_ahead(self, fd: int, size: int) -> int | None:
        """Let clamd look at a message that is asked about later; the number to ask by, None: nobody got it."""
        for asked in self._engines:
            if isinstance(asked.engine, ClamdEngine) and asked.turns is None and not asked.health.failures:
                return asked.engine.give_ahead(fd, size)
        return None

    def inquiry(
        self, request: ScanRequest, seconds: float, fd: int | None = None, number: int | None = None
    ) -> Inquiry:
        """About one message, which `fd` is the file of, where there is one. All answers are there in `seconds`."""
        return Inquiry(self, request, self._clock() + seconds, fd, number)

    def see(self, member: Member, seen: Seen, seconds: float) -> None:
        for engine, most in self._seeing:
            engine.see(member, seen, min(seconds, most))

    def ask(self, subject: Subject, seconds: float) -> Merged:
        wanted = [asked for asked in self._engines if asked.gives in subject.request.asks]
        calls = [partial(asked.ask, subject, seconds, self._clock) for asked in wanted]
        if self._threads is None or len(calls) < 2:
            return merge([call() for call in calls])
        futures = [self._threads.submit(call) for call in calls]
        return merge([future.result() for future in futures])

    def versions(self, seconds: float) -> Iterator[tuple[str, str | None]]:
        """Each engine's name and version; None: it does not say."""
        for asked in self._engines:
            try:
                yield asked.name, asked.engine.version(seconds)
            except EngineDown:
                yield asked.name, None


@dataclass(slots=True)
class Inquiry:
    """scan.examine's Scanners, for one message."""

    engines: Engines
    request: ScanRequest
    until: float
    fd: int | None = None
    number: int | None = None
    seen: Seen = field(default_factory=Seen)

    def see(self, member: Member) -> None:
        if "verdict" in self.request.asks:
            self.engines.see(member, self.seen, self.engines.left(self.until))

    def said(self, content: Octets, hidden: Sequence[Octets] = ()) -> Merged:
        """`hidden` is asked about until something is found or cannot be known; it has no score of its own."""
        subject = Subject(content, self.request, self.fd, self.seen, self.number)
        said = self.engines.ask(subject, self.engines.left(self.until))
        asks = self.request.asks & {"verdict"}
        for octets in hidden:
            if not asks or said.infected or not said.verdict_is_known:
                break
            part = Subject(octets, ScanRequest(asks=asks))
            said = beside(said, self.engines.ask(part, self.engines.left(self.until)))
        return said


def engine_versions(settings: Scan, rules: Path, seconds: float) -> dict[str, str | None]:
    """Each configured engine's version; None: it does not say. Blocks `seconds` for each at most."""
    return dict(Engines(settings, rules).versions(seconds))


def _engines(settings: Scan, rules: Path, places: Path | None) -> Iterator[Asked]:
    if (clamd := settings.clamd) is not None:
        yield Asked("clamd", "verdict", clamd, ClamdEngine(clamd), _turns("clamd", clamd, settings, places))
    if (yara := settings.yara) is not None:
        from egressguard.scan.yara import YaraEngine  # noqa: PLC0415  not loaded where nobody has rules

        yield Asked("yara", "verdict", yara, YaraEngine(rules / yara.folder), _turns("yara", yara, settings, places))
    if (rspamd := settings.rspamd) is not None:
        yield Asked("rspamd", "score", rspamd, RspamdEngine(rspamd), _turns("rspamd", rspamd, settings, places))
    if (spamd := settings.spamd) is not None:
        yield Asked("spamd", "score", spamd, SpamdEngine(spamd), _turns("spamd", spamd, settings, places))


def _seeing(engines: Iterable[Asked]) -> Iterator[tuple[YaraEngine, float]]:
    """Those that are shown each file by itself, with the time that each of them has."""
    for asked in engines:
        if asked.name == "yara":
            yield cast("YaraEngine", asked.engine), asked.settings.timeout_seconds


def _turns(name: str, engine: EngineSettings, settings: Scan, places: Path | None) -> Turns | None:
    """Nobody counts where there are not more workers than places."""
    if places is None or engine.at_once >= settings.workers:
        return None
    return Turns(places.with_name(f"{places.name}.{name}"), engine.at_once)
