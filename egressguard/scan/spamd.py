"""SpamAssassin's spamd, asked with SYMBOLS (the protocol of its spamd/PROTOCOL, version 1.5).

Contract
    Only a finite number behind "Spam:" is an answer. The threshold of spamd's own configuration is not looked at.
"""

from __future__ import annotations

import math
import re
import socket
from collections.abc import Iterable
from itertools import chain

from egressguard.policy.scanning import Spamd
from egressguard.scan.engine import MAX_NAMES, Answer, Subject
from egressguard.scan.engine_words import EngineDown, printable
from egressguard.scan.link import connect, read_all
from egressguard.scan.octets import windows

_ANSWER_OCTETS = 65536
_STATUS = re.compile(r"SPAMD/[0-9.]{1,10} ([0-9]{1,3}) ([^\r\n]{0,100})\r\n")
_SPAM = re.compile(r"^Spam: *(?:True|False|Yes|No) *; *(-?[0-9.]{1,20}) */", re.MULTILINE | re.IGNORECASE)


class SpamdEngine:
    def __init__(self, settings: Spamd) -> None:
        self._settings = settings

    def ask(self, subject: Subject, seconds: float) -> Answer:
        if len(subject.content) > self._settings.max_octets:
            return Answer()
        head = f"SYMBOLS SPAMC/1.5\r\nContent-length: {len(subject.content)}\r\n\r\n"
        return understood(self._said(chain((head.encode(),), windows(subject.content)), seconds))

    def version(self, seconds: float) -> str:
        """That of its protocol: spamd tells of no other."""
        answer = self._said((b"PING SPAMC/1.5\r\n\r\n",), seconds)
        if not answer.startswith("SPAMD/"):
            raise EngineDown(f"said {printable(answer) or 'nothing'}")
        return printable(answer.split(" ")[0], 20)

    def _said(self, request: Iterable[bytes], seconds: float) -> str:
        return said(self._settings.address, request, seconds)


def said(address: str, request: Iterable[bytes], seconds: float) -> str:
    """What it answers to one request. Raises EngineDown."""
    try:
        with connect(address, seconds) as link:
            for piece in request:
                link.sendall(piece)
            link.shutdown(socket.SHUT_WR)
            return read_all(link, _ANSWER_OCTETS).decode("utf-8", "replace")
    except OSError as wrong:
        raise EngineDown(str(wrong.strerror or wrong)) from wrong


def understood(answer: str) -> Answer:
    """A status line, header lines, an empty line, names between commas. Raises EngineDown."""
    head, _, body = answer.partition("\r\n\r\n")
    status, spam = _STATUS.match(head + "\r\n"), _SPAM.search(head)
    if status is None or status[1] != "0" or spam is None:
        raise EngineDown(f"said {printable(answer.partition(chr(13))[0], 100) or 'nothing'}")
    try:
        score = float(spam[1])
    except ValueError as wrong:
        raise EngineDown("said something else than a score") from wrong
    if not math.isfinite(score):
        raise EngineDown("said something else than a score")
    names = (printable(name.strip(), 60) for name in body.split(","))
    return Answer(score=score, symbols=tuple(name for name in names if name)[:MAX_NAMES])
