"""Delivery by our private Dovecot, over LMTP: for accounts whose Sieve scripts sort their mail.

Contract
    What Dovecot says stands, but for two: an account that it does not know and we do is trouble of our own, and one
    that is full makes its message wait. A server that is away is transient, too.
    As with any LMTP server a reply that is lost may mean a second copy.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from egressguard.mail.outcome import Outcome, Result, transient
from egressguard.mailbox.deposit import Deposit
from egressguard.policy.model import Policy
from egressguard.smtp.client import Patience, Peer, Send, Transaction

PATIENCE = Patience.of(60)
UNKNOWN_THERE, FULL = "5.1.1", "5.2.2"


class LmtpDelivery:
    """`socket` is where Dovecot listens; `send` is the relay's own client."""

    def __init__(self, socket: Path, send: Send, hostname: str) -> None:
        self._peer = Peer("dovecot", (str(socket),), 0, "none", lmtp=True)
        self._send = send
        self._hostname = hostname

    async def store(self, policy: Policy, deposit: Deposit) -> Outcome:
        path = _path(policy.site.mailboxes.separator, deposit)
        content = deposit.content
        transaction = Transaction(deposit.reverse_path, (path,), content, body_8bit=not content.is_ascii)
        sent = await self._send(transaction, self._peer, self._hostname, PATIENCE)
        outcome = sent.outcomes[path]
        if outcome.result is Result.PERMANENT and outcome.status == UNKNOWN_THERE:
            return transient("4.3.5", f"Dovecot does not know the account: {outcome.text}", outcome.said_by)
        if outcome.result is Result.PERMANENT and outcome.status == FULL:
            return transient("4.2.2", "the mailbox is full")
        return replace(outcome, said_by="")


def _path(separator: str, deposit: Deposit) -> str:
    """Whom Dovecot delivers to. It takes the account's name from it; the rest is for Sieve, which answers and sends
    on in this address's name. An address that is not ASCII is none to Dovecot: it gets the name alone."""
    local_part = f"{deposit.account}{separator}{deposit.detail}" if separator and deposit.detail else deposit.account
    _, at, domain = deposit.forward_path.rpartition("@")
    return f"{local_part}@{domain}" if at and domain.isascii() else local_part
