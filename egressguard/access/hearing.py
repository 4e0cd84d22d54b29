"""What Dovecot's log means for the journal, the metrics and those who act on it.

Contract
    `hear` takes any line and never blocks. Dovecot's own troubles go into our log at a bounded rate.
    Too many failed logins of one client are an incident (`incident.password_guessing`), told once each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping

from egressguard.access.log_lines import Login, Ordered, Other, Removal, Started, parse_line
from egressguard.access.metrics import AccessMetrics
from egressguard.access.shut_out import Guesses

log = logging.getLogger(__name__)

FORWARDED_LINES_A_MINUTE = 60
REMEMBERED_NAMES = 10_000
"""Of those who logged in or gave an order since the last look; more than any second brings."""
_ERROR_CHARACTERS = 300

Record = Callable[[str, Mapping[str, object]], None]


class Hearing:
    """`started` is called when Dovecot listens; `ending`: whether it ends because we said so, so that what its
    processes tell of the signal is no trouble."""

    def __init__(
        self,
        record: Record,
        metrics: AccessMetrics,
        guesses: Guesses,
        *,
        started: Callable[[], None],
        ending: Callable[[], bool],
    ) -> None:
        self._record = record
        self._metrics = metrics
        self._guesses = guesses
        self._started = started
        self._ending = ending
        self._budget = _LineBudget(FORWARDED_LINES_A_MINUTE)
        self._logged_in: set[str] = set()
        self._ordered: set[str] = set()
        self._said = ""
        self.last_errors: deque[str] = deque(maxlen=2)  # the cause, and then the generic fatal line

    def hear(self, line: str) -> None:
        match parse_line(line):
            case Started():
                self._started()
            case Login() as login:
                self._hear_login(login)
            case Removal(protocol, user, event):
                self._metrics.removal(event)
                self._record("mailbox.removal", {"protocol": protocol, "user": user, "event": event})
            case Ordered(user):
                _remember(self._ordered, user)
            case Other(level, text):
                self._forward(level, text)

    def take_logged_in(self) -> set[str]:
        """Who has logged in since this was asked last."""
        taken, self._logged_in = self._logged_in, set()
        return taken

    def take_ordered(self) -> set[str]:
        """Whose order folders to look into."""
        taken, self._ordered = self._ordered, set()
        return taken

    def _hear_login(self, login: Login) -> None:
        self._metrics.login(login)
        kind = "mailbox.login" if login.accepted else "mailbox.login_refused"
        fields: dict[str, object] = {"protocol": login.protocol, "user": login.user, "client": login.address}
        self._record(kind, fields | ({"why": "shut out"} if login.shut_out else {}))
        if login.accepted and login.user:
            _remember(self._logged_in, login.user)
        if not login.accepted and not login.shut_out:
            self._count_guess(login)

    def _count_guess(self, login: Login) -> None:
        now = asyncio.get_running_loop().time()
        if not self._guesses.failed(login.address, login.attempts, now):
            return
        self._metrics.shut_outs.inc()
        fields = {
            "client": login.address,
            "protocol": login.protocol,
            "last_user": login.user,
            "failures": self._guesses.failures,
            "shut_out_seconds": self._guesses.shut_out_seconds,
        }
        self._record("incident.password_guessing", fields)
        log.warning("a client tries passwords and is shut out", extra={"fields": fields})

    def _forward(self, level: str, text: str) -> None:
        """The last ones explain an end."""
        said_before, self._said = self._said, text.removeprefix("master: ")  # the master says all twice
        if level in ("debug", "info") or self._said == said_before or self._ending():
            log.debug("dovecot", extra={"fields": {"line": text}})
            return
        if level != "warning":
            self.last_errors.append(self._said[:_ERROR_CHARACTERS])
        if self._budget.take(asyncio.get_running_loop().time()):
            log.warning("dovecot complains", extra={"fields": {"line": text}})


def _remember(names: set[str], name: str) -> None:
    if len(names) < REMEMBERED_NAMES:
        names.add(name)


class _LineBudget:
    """So many lines in a minute; the rest is dropped. A hostile client can make Dovecot complain a lot."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._left = lines
        self._since = 0.0

    def take(self, now: float) -> bool:
        if now - self._since >= 60:
            self._left, self._since = self._lines, now
        self._left -= 1
        return self._left >= 0
