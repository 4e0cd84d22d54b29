"""What a session should have come to, from its octets alone: a plain second reading of both directions.

Contract
    Pure, and it shares no code with the server. It walks the client's octets and the server's replies side by side:
    one reply for each line, as RFC 5321 s4.2 has it, and whatever was said 250 to after DATA or BDAT is a message.
    What the server may not have taken, or has answered twice or not at all, is a Finding.
    It does not ask why something was refused: a server may always refuse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.fuzz.memory import Finding

LINE_OCTETS = 12288  # RFC 4954 s4: the longest a client may send
_REPLY = re.compile(rb"([2-5][0-9]{2})(?:([ -])([\x20-\x7e]*))\r\n")
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_YES_TO_ANYTHING = {"NOOP", "HELP", "VRFY"}


@dataclass(frozen=True, slots=True)
class Said:
    """One reply: its code, and its lines' texts."""

    code: str
    texts: tuple[str, ...]

    @property
    def good(self) -> bool:
        return self.code[0] == "2"


@dataclass(frozen=True, slots=True)
class Mail:
    reverse_path: str
    forward_paths: tuple[str, ...]
    content: bytes
    user: str | None


def replies_of(octets: bytes) -> list[Said]:
    """RFC 5321 s4.2.1, RFC 2034: whole lines, at most 512 octets, one code for all lines of a reply."""
    found: list[Said] = []
    texts: list[str] = []
    previous, at = "", 0
    while at < len(octets):
        match = _REPLY.match(octets, at)
        if match is None or match.end() - at > 512:
            raise Finding(f"not a reply line: {octets[at : at + 600]!r}")
        code, text = match[1].decode(), match[3].decode()
        if texts and code != previous:
            raise Finding(f"{code} among the lines of {previous}")
        previous = code
        texts.append(text)
        at = match.end()
        if match[2] == b" ":
            found.append(Said(code, tuple(texts)))
            texts = []
    if texts:
        raise Finding(f"a reply without its last line: {octets[-200:]!r}")
    return found


def _check_status(said: Said) -> None:
    """RFC 2034 s4: each line of a 2yz, 4yz or 5yz begins with a status of its class."""
    if not all(re.match(rf"{said.code[0]}\.\d{{1,3}}\.\d{{1,3}} ", text) for text in said.texts):
        raise Finding(f"no enhanced status code: {said}")


@dataclass
class Reading:
    """`people`: who sends here logs in first. `ended`: the server ended the session before the client did."""

    octets: bytes
    replies: list[Said]
    people: bool
    ended: bool
    most_octets: int
    most_recipients: int
    messages: list[Mail] = field(default_factory=list)
    at: int = 0
    greeted: bool = False
    extended: bool = False
    tls: bool = False
    user: str | None = None
    reverse_path: str | None = None
    forward_paths: list[str] = field(default_factory=list)
    chunks: bytes | None = None
    binary: bool = False

    def walk(self) -> list[Mail]:
        self._first()
        while (line := self._line()) is not None:
            if not self._one(line):
                break
        self._nothing_more()
        return self.messages

    def _first(self) -> None:
        if self.replies and self.replies[0].code in {"220", "421"}:
            if self.replies.pop(0).code == "421":
                self.at = len(self.octets)
        elif not self.ended:
            raise Finding(f"no greeting: {self.replies[:1]}")

    def _line(self) -> bytes | None:
        """The next line with its end; None: there is no whole one."""
        end = self.octets.find(b"\n", self.at)
        if end < 0:
            return None
        line = self.octets[self.at : end + 1]
        self.at = end + 1
        return line

    def _reply(self, about: bytes) -> Said | None:
        if self.replies:
            return self.replies.pop(0)
        if not self.ended:
            raise Finding(f"no reply to {about[:200]!r}")
        return None

    def _nothing_more(self) -> None:
        """What is said at the end of its own accord is why it ends."""
        last = self.replies
        if len(last) > 1 or (last and last[0].code not in {"421", "451", "500", "552"}):
            raise Finding(f"replies that nobody asked for: {last}")

    def _one(self, line: bytes) -> bool:
        """Whether the session goes on behind this line."""
        text = line[:-2]
        if not line.endswith(b"\r\n") or _BARE.search(text) or len(line) > LINE_OCTETS:
            reply = self._reply(line)
            if reply is not None and (reply.code[0] not in "45" or self.replies):
                raise Finding(f"{line[:100]!r} was answered {reply}, {self.replies}")
            self.at = len(self.octets)
            return False
        words = text.decode("utf-8", "replace").rstrip(" ")
        verb, _, argument = words.partition(" ")
        act = getattr(self, f"_{verb.lower()}", None) if verb.isascii() and verb.isalpha() else None
        if verb.upper() == "BDAT":
            return self._bdat(argument)
        reply = self._reply(line)
        if reply is None:
            return False
        if reply.code[0] != "3" and not (verb.upper() in {"EHLO", "HELO"} and reply.good):
            _check_status(reply)
        if verb.upper() == "AUTH":
            return self._auth(reply)
        if reply.code[0] == "3" and verb.upper() != "DATA":
            raise Finding(f"{reply} to {words!r}")
        if not reply.good and reply.code[0] != "3":
            return True
        if act is None and verb.upper() not in _YES_TO_ANYTHING:
            raise Finding(f"{words[:100]!r} was answered {reply}")
        return act is None or bool(act(argument, reply))

    def _drop(self) -> None:
        self.reverse_path, self.forward_paths, self.chunks, self.binary = None, [], None, False

    def _noop(self, _argument: str, _reply: Said) -> bool:
        return True

    _help = _vrfy = _noop

    def _ehlo(self, argument: str, _reply: Said) -> bool:
        if not argument or " " in argument:
            raise Finding(f"the name {argument!r} was taken")
        self.greeted = self.extended = True
        self._drop()
        return True

    def _helo(self, argument: str, reply: Said) -> bool:
        self._ehlo(argument, reply)
        self.extended = False
        return True

    def _rset(self, _argument: str, _reply: Said) -> bool:
        self._drop()
        return True

    def _quit(self, _argument: str, reply: Said) -> bool:
        if reply.code != "221" or self.replies:
            raise Finding(f"QUIT was answered {reply}, then {self.replies}")
        self.at = len(self.octets)
        return False

    def _starttls(self, _argument: str, reply: Said) -> bool:
        if self.tls or reply.code != "220":
            raise Finding(f"STARTTLS was answered {reply}")
        self.tls, self.greeted, self.user = True, False, None
        self._drop()
        return True

    def _auth(self, reply: Said) -> bool:
        if reply.code[0] in "23" and not (self.people and self.tls and self.extended and self.user is None):
            raise Finding(f"AUTH was answered {reply}")
        while reply.code == "334":
            line = self._line()
            if line is None:
                return False
            answer = self._reply(line)
            if answer is None:
                return False
            reply = answer
        _check_status(reply)
        if reply.good:
            self.user = "anna"
        return True

    def _mail(self, argument: str, _reply: Said) -> bool:
        if not self.greeted or self.reverse_path is not None or (self.people and not (self.tls and self.user)):
            raise Finding(f"MAIL {argument!r} was taken")
        path, parameters = _path_of("FROM:", argument)
        size = re.search(r"(?:^| )SIZE=(\d+)", parameters, re.IGNORECASE)
        if size and int(size[1]) > self.most_octets:
            raise Finding(f"MAIL {argument!r} was taken")
        self.reverse_path, self.binary = path, "BODY=BINARYMIME" in parameters.upper()
        return True

    def _rcpt(self, argument: str, _reply: Said) -> bool:
        path, _ = _path_of("TO:", argument)
        if self.reverse_path is None or self.chunks is not None or not path:
            raise Finding(f"RCPT {argument!r} was taken")
        if path not in self.forward_paths:
            self.forward_paths.append(path)
        if len(self.forward_paths) > self.most_recipients:
            raise Finding(f"{self.forward_paths} were taken")
        return True

    def _data(self, _argument: str, reply: Said) -> bool:
        if reply.code != "354" or not self.forward_paths or self.chunks is not None or self.binary:
            raise Finding(f"DATA was answered {reply}")
        text, end, _ = (b"\r\n" + self.octets[self.at :]).partition(b"\r\n.\r\n")
        if not end:
            self.at = len(self.octets)
            return False
        self.at += len(text) + len(end) - 2
        content = (text + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]
        return self._ended(content, flawed=_BARE.search(text[2:] + b"\r\n") is not None)

    def _ended(self, content: bytes, *, flawed: bool) -> bool:
        reply = self._reply(b"the end of a message")
        if reply is None:
            return False
        _check_status(reply)
        if reply.good:
            if flawed or len(content) > self.most_octets:
                raise Finding(f"{content[:200]!r} ({len(content)} octets) was taken")
            assert self.reverse_path is not None
            self.messages.append(Mail(self.reverse_path, tuple(self.forward_paths), content, self.user))
        self._drop()
        return True

    def _bdat(self, argument: str) -> bool:
        match = re.fullmatch(r"(\d{1,15})(?: (LAST))?", argument, re.IGNORECASE | re.ASCII)
        size = int(match[1]) if match else 0
        if match is None or size > len(self.octets) - self.at:  # a reply here is a refusal, and the last one
            self.at = len(self.octets)
            if self.replies and (self.replies.pop(0).code[0] not in "45" or self.replies):
                raise Finding(f"BDAT {argument!r}: half a chunk was taken")
            return False
        chunk = self.octets[self.at : self.at + size]
        self.at += size
        if match[2] and self.forward_paths:
            content = (self.chunks or b"") + chunk
            return self._ended(content, flawed=not self.binary and _BARE.search(content) is not None)
        reply = self._reply(b"BDAT")
        if reply is None:
            return False
        _check_status(reply)
        if reply.good and not self.forward_paths:
            raise Finding(f"BDAT {argument!r} for nobody was answered {reply}")
        if reply.good:
            self.chunks = (self.chunks or b"") + chunk
        elif self.forward_paths:
            self._drop()
        return True


def _path_of(keyword: str, argument: str) -> tuple[str, str]:
    """What stands between the brackets, and behind them; a quoted string may hold brackets."""
    rest = argument[len(keyword) :].lstrip(" ")
    if argument[: len(keyword)].upper() != keyword or not rest.startswith("<"):
        raise Finding(f"{argument!r} was taken")
    quoted = escaped = False
    for place, character in enumerate(rest):
        if character == ">" and not quoted:
            return rest[1:place], rest[place + 1 :]
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = quoted
        elif character == '"':
            quoted = not quoted
    raise Finding(f"{argument!r} was taken")
