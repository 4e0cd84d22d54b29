"""What a session must answer, known without looking into it: RFC 5321 s4.1.4's order as a small state machine.

Contract
    Pure. `Model.classes(command)` is the set of a reply's allowed first digits, and moves the model on.
    It knows no reply texts and no codes: those may change, what they mean may not.
    `stored` is what the server must have handed to its hooks when the session is over: no more, no less.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

OVERSIZE = 4000
"""Octets of a message that the server does not take (tests/smtp/test_session_model.py sets its limit below)."""
MAX_RECIPIENTS = 2


class Verb(Enum):
    EHLO = auto()
    HELO = auto()
    MAIL = auto()
    RCPT = auto()
    DATA = auto()
    BDAT = auto()
    RSET = auto()
    STARTTLS = auto()
    AUTH = auto()
    ALWAYS = auto()  # NOOP, VRFY, HELP: yes, whatever the state
    NEVER = auto()  # what is no command, or one that is not offered: no, and the session goes on
    QUIT = auto()
    FATAL = auto()  # no, and the session ends: its octets cannot be trusted


@dataclass(frozen=True, slots=True)
class Command:
    """`octets` go over the wire; `value` is the path, the password's fitness or the counted content they carry.

    `flawed`: right verb, wrong argument. `extended`: has a parameter that only EHLO allows.
    """

    octets: bytes
    verb: Verb
    value: bytes = b""
    flawed: bool = False
    extended: bool = False

    def __repr__(self) -> str:
        return repr(self.octets[:60])


@dataclass(slots=True)
class Model:
    """`logs_in`: a listener where people log in, over TLS."""

    logs_in: bool
    chunking: bool
    helo: str = ""
    tls: bool = False
    user: bool = False
    wrong_passwords: int = 0
    reverse_path: str | None = None
    forward_paths: list[str] = field(default_factory=list)
    chunks: bytes | None = None
    closed: bool = False
    stored: list[tuple[str, tuple[str, ...], bytes]] = field(default_factory=list)

    def classes(self, command: Command) -> str:
        answer = getattr(self, f"_{command.verb.name.lower()}")
        return str(answer(command))

    def content(self, content: bytes) -> str:
        """The final dot's reply, after a 3yz."""
        assert self.reverse_path is not None
        envelope = (self.reverse_path, tuple(self.forward_paths), content)
        self._forget()
        if len(content) >= OVERSIZE or b"\n" in content.replace(b"\r\n", b""):
            return "5"
        self.stored.append(envelope)
        return "2"

    def _forget(self) -> None:
        self.reverse_path, self.forward_paths, self.chunks = None, [], None

    def _always(self, _: Command) -> str:
        return "2"

    def _never(self, _: Command) -> str:
        return "5"

    def _fatal(self, _: Command) -> str:
        self.closed = True
        return "45"

    def _quit(self, command: Command) -> str:
        if command.flawed:
            return "5"
        self.closed = True
        return "2"

    def _rset(self, command: Command) -> str:
        if command.flawed:
            return "5"
        self._forget()
        return "2"

    def _ehlo(self, command: Command) -> str:
        if command.flawed:
            return "5"
        self.helo = "EHLO"
        self._forget()
        return "2"

    def _helo(self, command: Command) -> str:
        answer = self._ehlo(command)
        self.helo = "HELO" if answer == "2" else self.helo
        return answer

    def _starttls(self, command: Command) -> str:
        if command.flawed or self.tls:
            return "5"
        self._forget()
        self.helo, self.tls, self.user = "", True, False
        return "2"

    def _auth(self, command: Command) -> str:
        if not self.logs_in or not self.tls or self.helo != "EHLO" or self.user or self.reverse_path is not None:
            return "5"
        if command.flawed:
            return "5"
        self.user = command.value == b"right"
        if self.user:
            return "2"
        self.wrong_passwords += 1
        self.closed = self.wrong_passwords >= 3
        return "4" if self.closed else "5"

    def _mail(self, command: Command) -> str:
        stranger = not self.helo or (self.logs_in and not (self.tls and self.user))
        if stranger or self.reverse_path is not None or command.flawed or (command.extended and self.helo == "HELO"):
            return "5"
        self.reverse_path = command.value.decode()
        return "2"

    def _rcpt(self, command: Command) -> str:
        path = command.value.decode()
        if self.reverse_path is None or command.flawed or self.chunks is not None:
            return "5"
        if path in self.forward_paths:
            return "2"
        if len(self.forward_paths) >= MAX_RECIPIENTS:
            return "4"
        if path.startswith(("goaway", "broken")):  # Remembering's: a 421, and a hook that raises
            self.closed = True
            return "4"
        if path.startswith("unknown"):
            return "5"
        self.forward_paths.append(path)
        return "2"

    def _data(self, command: Command) -> str:
        if command.flawed or not self.forward_paths or self.chunks is not None:
            return "5"
        return "3"

    def _bdat(self, command: Command) -> str:
        """`extended`: LAST."""
        if not self.chunking or not self.forward_paths:
            return "5"
        assert self.reverse_path is not None
        self.chunks = (self.chunks or b"") + command.value
        if command.extended:
            self.stored.append((self.reverse_path, tuple(self.forward_paths), self.chunks))
            self._forget()
        return "2"
