"""Teaching spam filters what a person says of a message: rspamd by its controller (HTTP), spamd by TELL.

Contract
    `teach` never raises: each filter that is taught and asked for has one Lesson. What it knew already is no fault.
    A lesson that was REFUSED would be so again; one who was AWAY may be asked later.
    A filter that knew the message as the other kind forgets that, which is its own doing (both do).
    Passwords are read when they are needed, and go nowhere but into the request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from egressguard.policy.scanning import Rspamd, RspamdController, Spamd
from egressguard.policy.site import Scan
from egressguard.scan import rspamd, spamd
from egressguard.scan.engine_words import EngineDown, printable
from egressguard.store.content import Content
from egressguard.store.secret import read_secret

KINDS = ("spam", "ham")
_SPAMD_STATUS = re.compile(r"SPAMD/[0-9.]{1,10} ([0-9]{1,3}) ([^\r\n]{0,200})\r\n")
_TEMPORARY = 75
"""EX_TEMPFAIL of sysexits: the only answer of spamd's that may be another one later."""


class Result(Enum):
    LEARNED = "learned"
    KNOWN = "known"
    REFUSED = "refused"
    AWAY = "away"


@dataclass(frozen=True, slots=True)
class Lesson:
    """`words`: why not, for people; "" when it is in its memory now."""

    engine: str
    result: Result
    words: str = ""

    @property
    def is_remembered(self) -> bool:
        return self.result in {Result.LEARNED, Result.KNOWN}


class Teachers:
    """`settings` is asked anew each time; `secrets` is where passwords lie."""

    def __init__(self, settings: Callable[[], Scan], secrets: Path) -> None:
        self._settings = settings
        self._secrets = secrets

    @property
    def engines(self) -> tuple[str, ...]:
        """Who is taught, by the rules."""
        scan = self._settings()
        taught = {
            "rspamd": scan.rspamd is not None and scan.rspamd.controller is not None,
            "spamd": scan.spamd is not None and scan.spamd.learns,
        }
        return tuple(name for name, is_taught in taught.items() if is_taught)

    async def teach(self, kind: str, content: Content, engines: Collection[str]) -> list[Lesson]:
        """`engines` are among those of the property."""
        asked = [asyncio.to_thread(self._teach, name, kind, content) for name in self.engines if name in engines]
        return list(await asyncio.gather(*asked))

    def _teach(self, name: str, kind: str, content: Content) -> Lesson:
        scan = self._settings()
        settings: Rspamd | Spamd | None = scan.rspamd if name == "rspamd" else scan.spamd
        if settings is None:
            return Lesson(name, Result.REFUSED, "the rules do not name it any more")
        if content.size_octets > settings.max_octets:
            return Lesson(name, Result.REFUSED, f"more than {settings.max_octets} octets (max_octets)")
        try:
            octets = content.whole()
            if isinstance(settings, Spamd):
                return teach_spamd(settings, kind, octets)
            return self._teach_rspamd(settings, kind, octets)
        except EngineDown as wrong:
            return Lesson(name, Result.AWAY, f"does not answer: {wrong}")
        except OSError as wrong:
            return Lesson(name, Result.AWAY, f"the message cannot be read: {wrong.strerror}")

    def _teach_rspamd(self, settings: Rspamd, kind: str, octets: bytes) -> Lesson:
        controller = settings.controller
        if controller is None:
            return Lesson("rspamd", Result.REFUSED, "the rules do not name its controller any more")
        try:
            password = "" if controller.secret is None else read_secret(controller.secret, self._secrets)
        except (OSError, ValueError) as wrong:
            return Lesson("rspamd", Result.REFUSED, f"its password cannot be read: {controller.secret}: {wrong}")
        return teach_rspamd(controller, password, kind, octets, settings.timeout_seconds)


def teach_rspamd(controller: RspamdController, password: str, kind: str, octets: bytes, seconds: float) -> Lesson:
    """Raises EngineDown."""
    fields = [("Password", printable(password, 1000))] if password else []
    response, _ = rspamd.exchange(controller.address, "POST", f"/learn{kind}", octets, fields, seconds)
    words = printable(response.reason)
    if response.status == 200:
        return Lesson("rspamd", Result.LEARNED)
    if "already learned" in words:  # 404 in 3.4, 208 in later ones
        return Lesson("rspamd", Result.KNOWN)
    if response.status >= 500:
        raise EngineDown(f"said {response.status} {words}")
    return Lesson("rspamd", Result.REFUSED, f"said {response.status} {words}")


def teach_spamd(settings: Spamd, kind: str, octets: bytes) -> Lesson:
    """Raises EngineDown."""
    head = f"TELL SPAMC/1.5\r\nMessage-class: {kind}\r\nSet: local\r\nContent-length: {len(octets)}\r\n\r\n"
    answer = spamd.said(settings.address, (head.encode(), octets), settings.timeout_seconds)
    status = _SPAMD_STATUS.match(answer)
    if status is None:
        raise EngineDown(f"said {printable(answer.partition(chr(13))[0], 100) or 'nothing'}")
    if int(status[1]) == _TEMPORARY:
        raise EngineDown(f"said {printable(status[2])}")
    if status[1] != "0":
        return Lesson("spamd", Result.REFUSED, f"said {printable(status[2])}")
    did = "didset" in answer.lower()
    return Lesson("spamd", Result.LEARNED if did else Result.KNOWN)
