"""One message for one account, on its way into a store: a Maildir, an mbox, Dovecot over LMTP.

Contract
    A store answers DELIVERED when the message is on stable storage, and never before. Trouble of our own (disk, locks,
    a server that is away) is transient, never permanent.
    `is_again`: it may have been delivered before (a crash, a lost settlement); else the store need not look.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Protocol

from egressguard.mail.outcome import Outcome, transient
from egressguard.policy.model import Policy
from egressguard.store.content import Content


@dataclass(frozen=True, slots=True)
class Deposit:
    """`folder` as IMAP names it, `detail` what stood behind the separator. Paths come without angle brackets."""

    account: str
    folder: str
    queue_id: str
    reverse_path: str
    forward_path: str
    content: Content
    detail: str = ""
    is_again: bool = False

    @property
    def traced(self) -> Content:
        """RFC 5321 s4.4: final delivery puts the reverse-path at the very top. Delivered-To is what shows loops."""
        fields = f"Return-Path: <{self.reverse_path}>\r\nDelivered-To: {self.forward_path}\r\n"
        return self.content.in_front(fields.encode("utf-8", "replace"))


class Store(Protocol):
    async def store(self, policy: Policy, deposit: Deposit) -> Outcome:
        """Raises OSError."""
        ...


def outcome_of(wrong: OSError) -> Outcome:
    """Trouble of our own, told apart as far as it helps."""
    if wrong.errno == errno.EDQUOT:
        return transient("4.2.2", "the mailbox is over its quota")
    if wrong.errno == errno.ENOSPC:
        return transient("4.3.1", "no space for mailboxes")
    return transient("4.3.0", f"the mailbox cannot be written: {wrong.strerror or type(wrong).__name__}")
