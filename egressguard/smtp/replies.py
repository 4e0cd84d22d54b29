"""The replies the server gives of its own accord, and how a Reply becomes octets (RFC 5321 s4.2, RFC 2034).

Contract
    Pure. Whatever stands in a text, the octets are printable ASCII and each line is at most 512 octets long.
    No reply tells the program, its version or what went wrong inside.
"""

from __future__ import annotations

from functools import lru_cache

from egressguard.mail.reply import Reply

LINE_OCTETS = 512  # RFC 5321 s4.5.3.1.5, with CRLF


class Refusal(Exception):
    """What a client sent is not taken; `reply` says why."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


OK = Reply(250, "2.0.0", "OK")
BYE = Reply(221, "2.0.0", "Bye")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
START_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
HELP = Reply(214, "2.0.0", "See RFC 5321")
CANNOT_VERIFY = Reply(252, "2.5.0", "Send some mail, I will try")  # RFC 5321 s7.3: neither yes nor no
LOGGED_IN = Reply(235, "2.7.0", "Authentication successful")

TROUBLE = Reply(451, "4.3.0", "Local trouble, try again later")
"""Our own fault, whatever it was: never a 5yz, never the cause's words."""
STOPPING = Reply(421, "4.3.2", "Service is closing down, try again")
TIMED_OUT = Reply(421, "4.4.2", "Time is up, closing")
TOO_MANY_CONNECTIONS = Reply(421, "4.7.0", "Too many connections, try again later")
LOG_IN_AGAIN = Reply(421, "4.7.0", "The account has changed, log in again")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors, closing")
TOO_MANY_COMMANDS = Reply(421, "4.7.0", "Too many commands without a message, closing")
NO_ROOM = Reply(452, "4.3.1", "No room for the message now, try again later")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients, send the rest in another transaction")

UNKNOWN_COMMAND = Reply(500, "5.5.1", "Command not recognised")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
LINE_TOO_LONG = Reply(500, "5.5.2", "Line too long")
BAD_LINE = Reply(500, "5.5.2", "Lines end with CR LF, and hold neither CR, LF nor NUL")
NOT_UTF8 = Reply(500, "5.5.2", "Not UTF-8")
NO_ARGUMENT = Reply(501, "5.5.4", "This command takes no argument")
BAD_HELO = Reply(501, "5.5.4", "Expected a domain or an address literal")
HELO_FIRST = Reply(503, "5.5.1", "Send EHLO or HELO first")
MAIL_FIRST = Reply(503, "5.5.1", "Send MAIL first")
NESTED_MAIL = Reply(503, "5.5.1", "A transaction is open already")
CHUNKS_ONLY = Reply(503, "5.5.1", "Only BDAT chunks and RSET now")
BAD_BDAT = Reply(501, "5.5.4", "Expected BDAT octets [LAST]")
NO_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
EARLY_INPUT = Reply(503, "5.5.1", "Wait for the reply before you go on")
EARLY_TALKER = Reply(554, "5.5.1", "No service for who talks before the greeting")
TLS_ALREADY = Reply(503, "5.5.1", "TLS is active already")
TLS_FIRST = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
LOG_IN_FIRST = Reply(530, "5.7.0", "Authentication required")
TOO_BIG = Reply(552, "5.3.4", "The message is over the size limit")
BAD_DATA = Reply(554, "5.6.0", "The message has a bare CR, a bare LF or a NUL; refused (RFC 5321 s2.3.8)")

AUTH_ALREADY = Reply(503, "5.5.1", "Already authenticated")
AUTH_IN_MAIL = Reply(503, "5.5.1", "Not inside a mail transaction")
AUTH_NEEDS_TLS = Reply(538, "5.7.11", "Encryption required for authentication")
AUTH_MECHANISM = Reply(504, "5.5.4", "Unrecognised authentication mechanism")
AUTH_SYNTAX = Reply(501, "5.5.2", "Expected base64")
AUTH_CANCELLED = Reply(501, "5.7.0", "Authentication cancelled")
AUTH_WRONG = Reply(535, "5.7.8", "Authentication credentials invalid")
AUTH_CANNOT_TELL = Reply(454, "4.7.0", "Temporary authentication failure")
AUTH_LIMITED = Reply(421, "4.7.0", "Too many failed attempts, try again later")


@lru_cache(256)
def render_reply(reply: Reply) -> bytes:
    """The reply's octets. A line feed in the text starts another line of the same reply."""
    if reply.text.isascii() and reply.text.isprintable() and len(reply.text) < LINE_OCTETS - 20:
        return f"{reply} \r\n".encode() if not reply.text else f"{reply}\r\n".encode()
    lines = reply.text.split("\n")
    prefix = f"{reply.status} " if reply.status else ""
    rendered = [f"{reply.code}-{prefix}{_printable(line)}" for line in lines[:-1]]
    rendered.append(f"{reply.code} {prefix}{_printable(lines[-1])}")
    return b"".join(line.encode("ascii")[: LINE_OCTETS - 2] + b"\r\n" for line in rendered)


def _printable(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)


_REASONS = {
    "1.1": "unknown_recipient",
    "1.3": "bad_address",
    "1.7": "bad_address",
    "3.0": "trouble",
    "3.1": "no_room",
    "3.2": "stopping",
    "3.4": "too_big",
    "4.2": "time_out",
    "4.6": "loop",
    "5.1": "protocol",
    "5.2": "protocol",
    "5.3": "too_many_recipients",
    "5.4": "protocol",
    "6.0": "bad_octets",
    "6.7": "bad_address",
    "7.0": "limit",
    "7.1": "policy",
    "7.8": "credentials",
    "7.11": "tls_required",
}
REASONS = tuple(sorted({*_REASONS.values(), "login_required", "other"}))


def reason_of(reply: Reply) -> str:
    """The word a refusal is counted under: one of REASONS."""
    if reply in (TLS_FIRST, LOG_IN_FIRST):
        return "tls_required" if reply == TLS_FIRST else "login_required"
    return _REASONS.get(reply.status.partition(".")[2], "other")
