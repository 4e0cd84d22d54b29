"""What became of one recipient at one attempt: made once, carried unchanged to log, journal, DSN and console."""

from __future__ import annotations

import enum

from egressguard.mail.reply import Reply
from egressguard.values import value

WORDS_CHARACTERS = 500


class Result(enum.Enum):
    DELIVERED = "delivered"
    TRANSIENT = "transient"
    PERMANENT = "permanent"


@value(frozen=True, slots=True)
class Outcome:
    """`status` is an RFC 3463 code; `said_by` the host that said so ("" = ourselves); `reply` its SMTP reply."""

    result: Result
    status: str
    text: str
    said_by: str = ""
    reply: Reply | None = None

    @staticmethod
    def of_reply(reply: Reply, said_by: str) -> Outcome:
        """A 2yz is delivered, a 5yz permanent; all else is transient: unknown means try again."""
        if reply.is_positive:
            return Outcome(Result.DELIVERED, reply.status or "2.0.0", reply.text, said_by, reply)
        if reply.is_permanent:
            return Outcome(Result.PERMANENT, reply.status or "5.0.0", reply.text, said_by, reply)
        return Outcome(Result.TRANSIENT, reply.status or "4.0.0", reply.text, said_by, reply)


def transient(status: str, text: str, said_by: str = "") -> Outcome:
    return Outcome(Result.TRANSIENT, status, text, said_by)


def permanent(status: str, text: str, said_by: str = "") -> Outcome:
    return Outcome(Result.PERMANENT, status, text, said_by)


def delivered(text: str, said_by: str = "") -> Outcome:
    return Outcome(Result.DELIVERED, "2.0.0", text, said_by)


def one_line(text: str) -> str:
    """Visible characters on one line, cut to a length that fits a log line and a DSN."""
    if text.isascii() and text.isprintable() and len(text) <= WORDS_CHARACTERS:
        return " ".join(text.split())
    visible = "".join(c if c.isprintable() else " " for c in text[: 4 * WORDS_CHARACTERS])
    return " ".join(visible.split())[:WORDS_CHARACTERS]
