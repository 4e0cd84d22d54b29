"""Mail that an account's Sieve script sends: what `redirect` may send on, and where it stays if it may not.

Contract
    Only the user that Dovecot runs as says whose script it was (relay.pickup asks).
    `redirect` may do what the account's own rules may: not out of the site unless `forward_outside` says so, and not
    to whom the message has been already. What it may not, or what the rules refuse, lies in the account's inbox:
    the script has given it away, and nobody else has it.
    Replies (vacation, reject) have the null reverse-path, so no program answers them; one that is refused is set aside.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping

from egressguard.mail.envelope import Envelope
from egressguard.mail.header import find_fields, split_header_section
from egressguard.mailbox.account_name import is_account_name
from egressguard.mailbox.forwarding import EXPANDED, goes_round
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.store.content import Content
from egressguard.store.drop import Dropped
from egressguard.store.interface import NewMessage

log = logging.getLogger(__name__)

PAST_SIEVE = "(past Sieve)"
"""The tag of what a script has given away and nobody takes: it goes into the inbox, and no script sees it again."""
REDIRECTED = "X-Sieve-Redirected-From"
"""Pigeonhole puts it in front of what `redirect` sends on, and looks at it to see a loop."""


class SieveMail:
    """relay.pickup.Scripts. `speaker` is the user id that Dovecot runs as."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        put: Callable[[NewMessage], Awaitable[str]],
        record: Callable[[str, Mapping[str, object]], None],
        *,
        speaker: int,
        clock: Callable[[], float],
        new_queue_id: Callable[[float], str],
    ) -> None:
        self._policy = policy
        self._put = put
        self._record = record
        self._speaker = speaker
        self._clock = clock
        self._new_queue_id = new_queue_id

    def may_speak(self, dropped: Dropped) -> bool:
        """Whether to believe whose script sent it."""
        return dropped.owner == self._speaker and is_account_name(dropped.account)

    def why_not(self, dropped: Dropped) -> str:
        """Why it is not sent on; "": nothing is against it, or it is a reply."""
        section, policy = split_header_section(dropped.content)[0], self._policy()
        if not _is_redirected(section):
            return ""
        if any(goes_round(policy, path, section) for path in dropped.recipients):
            return "it would go round in a loop"
        if policy.site.mailboxes.forward_outside or all(is_local(policy, path) for path in dropped.recipients):
            return ""
        return "site.mailboxes.forward_outside does not allow it"

    async def keep(self, dropped: Dropped, why: str) -> bool:
        """Into the account's inbox, durably; False: it is a reply, of which there is nothing to keep.

        Raises SpoolFull, SpoolBroken, OSError."""
        policy, now = self._policy(), self._clock()
        if not _is_redirected(split_header_section(dropped.content)[0]) or not policy.site.domains:
            return False
        queue_id = self._new_queue_id(now)
        path = f"{dropped.account}@{policy.site.domains[0]}"
        message = NewMessage(
            queue_id,
            Envelope(dropped.sender, (path,), body_8bit=not dropped.content.isascii()),
            Content.of(dropped.content),
            now,
            client="127.0.0.1",
            listener="drop",
            user=dropped.account,
            rule="(sieve)",
            source_id=_source_id(dropped),
            tags=(EXPANDED, PAST_SIEVE),
        )
        queue_id = await self._put(message)
        fields = {"queue_id": queue_id, "account": dropped.account, "recipients": list(dropped.recipients), "why": why}
        log.warning("what a Sieve script redirects is not sent on, it stays here", extra={"fields": fields})
        self._record("mailbox.kept", fields)
        return True


def _is_redirected(section: bytes) -> bool:
    return bool(find_fields(section, REDIRECTED, limit=1))


def _source_id(dropped: Dropped) -> str:
    """A script that redirects to several, of whom none is allowed, leaves one copy."""
    digest = hashlib.sha256(dropped.account.encode() + b"\0" + dropped.content).hexdigest()[:32]
    return f"sieve:{digest}"
