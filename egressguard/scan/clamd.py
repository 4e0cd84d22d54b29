"""clamd (clamd(8)): FILDES where the message can be handed over as a descriptor, else INSTREAM.

Contract
    Not OK and not FOUND is EngineDown, but for a message that clamd says is above its limits: that is `unseen`, for
    the next try would end the same.
    A clamd that may not read descriptors (AppArmor) is given the octets instead, from then on.
    A message given ahead (`scan.clamd_session`) that the session does not answer is asked about in the plain way.
"""

from __future__ import annotations

import socket
import struct
from array import array
from typing import TYPE_CHECKING

from egressguard.scan.clamd_question import Speak, ask_clamd, clamd_version
from egressguard.scan.clamd_session import Session, is_answer
from egressguard.scan.engine import Answer, Subject
from egressguard.scan.engine_words import EngineDown, printable
from egressguard.scan.link import Link
from egressguard.scan.octets import Octets

if TYPE_CHECKING:
    from egressguard.policy.scanning import Clamd

_CHUNK_OCTETS = 1 << 16
_ABOVE_LIMITS = "INSTREAM size limit exceeded"
_LIMIT_NAMES = "Heuristics.Limits.Exceeded"
"""What clamd calls a find when AlertExceedsMax is on: nothing was found, it stopped looking."""


class ClamdEngine:
    def __init__(self, settings: Clamd) -> None:
        self._settings = settings
        self._takes_descriptors = settings.address.startswith("unix:")
        self._session = Session(settings.address.removeprefix("unix:"))

    def give_ahead(self, fd: int, size: int) -> int | None:
        """The number of the message that `fd` is the file of; None: it is asked about when its turn comes."""
        if not self._takes_descriptors or size > self._settings.max_octets:
            return None
        return self._session.send(fd)

    def ask(self, subject: Subject, seconds: float) -> Answer:
        if len(subject.content) > self._settings.max_octets:
            return Answer(unseen=f"a message of more than {self._settings.max_octets} octets")
        if subject.number is not None:
            ahead = self._said_ahead(subject.number, seconds)
            if ahead is not None and is_answer(ahead):
                return _understood(ahead)
        if self._takes_descriptors and subject.fd is not None:
            said = self._said(lambda link: _send_descriptor(link, subject.fd or 0), seconds)
            if is_answer(said):
                return _understood(said)
            self._takes_descriptors = False
        return _understood(self._said(lambda link: _send_stream(link, subject.content), seconds))

    def version(self, seconds: float) -> str:
        return clamd_version(self._settings.address, seconds)

    def _said_ahead(self, number: int, seconds: float) -> str | None:
        try:
            return self._session.answer(number, seconds)
        except TimeoutError as wrong:
            raise EngineDown(str(wrong)) from wrong

    def _said(self, speak: Speak, seconds: float) -> str:
        return ask_clamd(self._settings.address, speak, seconds)


def _send_descriptor(link: Link, fd: int) -> None:
    """The descriptor travels with one octet of its own, which clamd drops."""
    link.sendall(b"zFILDES\0")
    link.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [fd]))])


def _send_stream(link: Link, content: Octets) -> None:
    link.sendall(b"zINSTREAM\0")
    for start in range(0, len(content), _CHUNK_OCTETS):
        chunk = content[start : start + _CHUNK_OCTETS]
        link.sendall(struct.pack("!I", len(chunk)) + chunk)
    link.sendall(struct.pack("!I", 0))


def _understood(said: str) -> Answer:
    """ "stream: OK", "stream: NAME FOUND", or an error."""
    if said.startswith(_ABOVE_LIMITS):
        return Answer(unseen="a message above its StreamMaxLength")
    if not is_answer(said):
        raise EngineDown(f"said {printable(said) or 'nothing'}")
    name = printable(said.partition(": ")[2].removesuffix(" FOUND"))
    if said.endswith(": OK"):
        return Answer()
    if name.startswith(_LIMIT_NAMES):
        return Answer(unseen=f"more than it looks at ({name})")
    return Answer(found=(name or "unnamed",))
