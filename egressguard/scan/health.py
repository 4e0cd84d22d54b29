"""Leave an engine alone that fails: longer each time, then try it with one message. Pure: `now` is an argument.

Contract
    After a failure the engine is not asked for FIRST_SECONDS, twice as long after each further one, at most
    LONGEST_SECONDS; who asks meanwhile hears the last failure at once.
    One message tries whether it is back. An answer, whatever it says, means that it is.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 60.0


@dataclass(slots=True)
class Health:
    failures: int = 0
    not_before: float = 0.0
    why: str = ""

    def may_ask(self, now: float) -> bool:
        """Whoever hears yes after a failure is the one to try: the next hears no until that is told."""
        if not self.failures:
            return True
        if now < self.not_before:
            return False
        self.not_before = now + self._pause()
        return True

    def answered(self) -> None:
        self.failures, self.not_before, self.why = 0, 0.0, ""

    def failed(self, now: float, why: str) -> None:
        self.failures += 1
        self.not_before, self.why = now + self._pause(), why

    def _pause(self) -> float:
        return min(FIRST_SECONDS * 2.0 ** min(self.failures - 1, 30), LONGEST_SECONDS)
