"""One question to clamd on a connection of its own, and what it says (clamd(8)).

Contract
    Whoever is not there, not heard in time or hangs up is EngineDown. What comes first is the answer, up to
    ANSWER_OCTETS; clamd may say it before it has heard all, and why.
"""

from __future__ import annotations

from collections.abc import Callable

from egressguard.scan.engine_words import EngineDown, printable
from egressguard.scan.link import Link, connect

ANSWER_OCTETS = 4096

Speak = Callable[[Link], None]


def ask_clamd(address: str, speak: Speak, seconds: float) -> str:
    """The answer to what `speak` says, without the NUL that ends it. Raises EngineDown."""
    try:
        with connect(address, seconds) as link:
            try:
                speak(link)
            except (BrokenPipeError, ConnectionResetError):  # it has heard enough: what it says tells why
                return _read(link)
            return _read(link)
    except OSError as wrong:
        raise EngineDown(str(wrong.strerror or wrong)) from wrong


def clamd_version(address: str, seconds: float) -> str:
    """ "ClamAV 1.0.9/27810/Thu Nov 26 09:26:43 2026": program, signatures, their date. Raises EngineDown."""
    said = ask_clamd(address, lambda link: link.sendall(b"zVERSION\0"), seconds)
    if not said.startswith("ClamAV"):
        raise EngineDown(f"said {printable(said) or 'nothing'}")
    return printable(said)


def _read(link: Link) -> str:
    answer = b""
    while b"\0" not in answer and len(answer) < ANSWER_OCTETS:
        chunk = link.recv(ANSWER_OCTETS)
        if not chunk:
            break
        answer += chunk
    return answer.partition(b"\0")[0].rstrip(b"\n").decode("utf-8", "replace")
