"""The text of a digest: what is held, as plain text and HTML in one message (RFC 2046 s5.1.4). Pure.

Contract
    Strangers' words (subjects, senders, names of files) are shown, cut to a length, and act on nobody: what is not
    printable is "?", HTML is escaped, nothing in it is a link but ours, nothing is fetched from anywhere.
    From the null reverse-path, marked Auto-Submitted, so that nothing answers it (RFC 3834).
"""

from __future__ import annotations

import email.policy
import html
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage

from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope
from egressguard.mail.header import decode_words
from egressguard.mail.trace import date_time
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage

SHOWN = 120  # characters of any one value


@dataclass(frozen=True, slots=True)
class Item:
    """One message. `link`: where the addressee releases it, "" = nowhere."""

    message_id: str
    held_at: float
    sender: str
    subject: str
    why: str
    size_octets: int
    link: str = ""


def digest_message(
    address: str, items: Sequence[Item], count: int, *, hostname: str, now: float, digest_id: str, source_id: str
) -> NewMessage:
    """The digest for `address` as a message for the spool; `items` are the newest of `count`."""
    message = EmailMessage(policy=email.policy.SMTP if address.isascii() else email.policy.SMTPUTF8)
    message["From"] = f"EgressGuard <postmaster@{hostname}>"
    message["To"] = f"<{address}>"
    message["Subject"] = f"[EgressGuard] {count} held message{'' if count == 1 else 's'}"
    message["Date"] = date_time(now)
    message["Message-ID"] = f"<{digest_id}@{hostname}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_plain(items, count, hostname), cte="quoted-printable")
    message.add_alternative(_html(items, count, hostname), subtype="html", cte="quoted-printable")
    message.set_boundary(f"=_{digest_id}")
    octets = message.as_bytes()
    envelope = Envelope(NULL_REVERSE_PATH, (address,), smtputf8=not address.isascii(), body_8bit=not octets.isascii())
    return NewMessage(digest_id, envelope, Content.of(octets), now, rule="digest", source_id=source_id)


def subject_of(field: bytes) -> str:
    """A Subject field's value, decoded as far as it can be (RFC 2047)."""
    return shown(decode_words(field.decode("utf-8", "replace")))


def shown(text: str) -> str:
    one_line = " ".join(text[: 8 * SHOWN].split())
    visible = "".join(c if c.isprintable() else "?" for c in one_line)
    return visible if len(visible) <= SHOWN else f"{visible[: SHOWN - 3]}..."


def _plain(items: Sequence[Item], count: int, hostname: str) -> str:
    lines = [_head(count, hostname), ""]
    for item in items:
        lines += [
            f"{item.subject or '(no subject)'}",
            f"  from {item.sender or '<>'}, {date_time(item.held_at)}, {item.size_octets} octets",
            f"  held: {item.why}",
            f"  {item.message_id}" + (f"  release: {item.link}" if item.link else ""),
            "",
        ]
    lines += [_rest(items, count), ""] if len(items) < count else []
    return "\n".join(lines)


def _html(items: Sequence[Item], count: int, hostname: str) -> str:
    rows = "".join(_row(item) for item in items)
    rest = f"<p>{html.escape(_rest(items, count))}</p>\n" if len(items) < count else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Held messages</title></head>\n'
        f"<body><p>{html.escape(_head(count, hostname))}</p>\n"
        '<table border="1" cellpadding="4"><tr><th>Subject</th><th>From</th><th>Held</th><th>Why</th><th></th></tr>\n'
        f"{rows}</table>\n{rest}</body></html>\n"
    )


def _row(item: Item) -> str:
    cells = (item.subject or "(no subject)", item.sender or "<>", date_time(item.held_at), item.why)
    link = f'<a href="{html.escape(item.link)}">release</a>' if item.link else html.escape(item.message_id)
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + f"<td>{link}</td></tr>\n"


def _head(count: int, hostname: str) -> str:
    return f"The mail gateway {hostname} holds {count} new message{'' if count == 1 else 's'}."


def _rest(items: Sequence[Item], count: int) -> str:
    return f"{count - len(items)} more are not shown here; your administrator can list them."
