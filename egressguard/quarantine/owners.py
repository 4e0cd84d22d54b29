"""Whose a held message is, and what each of them may do with it. Pure.

Contract
    A recipient is an account that the message still waits for. A sender is the account that logged in, or an address
    of the site that wrote from the site's own hosts: any other sender's address may be forged.
    Only folders that the rules show have owners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.quarantine.envelope import waiting_for
from egressguard.quarantine.order import Order
from egressguard.quarantine.refusal import is_vouched_for

AccountOf = Callable[[Policy, str], str | None]
"""(policy, an address of the site's domains) -> the account that gets its mail, None: nobody does. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Owner:
    """`recipients`: those of the message's that are this account's; `sent`: it is the sender."""

    recipients: tuple[str, ...] = ()
    sent: bool = False


def owners_of(policy: Policy, folder: str, facts: Mapping[str, Any], account_of: AccountOf) -> dict[str, Owner]:
    """By account. Raises OSError as `account_of` does."""
    shown = policy.site.access.own_quarantine
    if shown is None or folder not in shown.folders:
        return {}
    found: dict[str, Owner] = {}
    for path in waiting_for(facts):
        if is_local(policy, path) and (account := account_of(policy, path)) is not None:
            before = found.get(account, Owner())
            found[account] = Owner((*before.recipients, path))
    sender = _sender(policy, facts, account_of) if shown.senders != "nothing" else None
    if sender is not None:
        found[sender] = Owner(found.get(sender, Owner()).recipients, sent=True)
    return found


def _sender(policy: Policy, facts: Mapping[str, Any], account_of: AccountOf) -> str | None:
    if user := facts.get("user"):
        return str(user)
    path = str(facts.get("reverse_path", ""))
    if path and is_local(policy, path) and is_vouched_for(policy, path, None, str(facts.get("client", ""))):
        return account_of(policy, path)
    return None


def order_of(policy: Policy, account: str, verb: str, message_id: str, owner: Owner | None) -> Order | None:
    """What it means that an account moved this message to be released or deleted; None: it may not."""
    by, why = f"{account} (IMAP)", "moved by a mail program"
    access = policy.site.access
    if account in access.quarantine_admins:
        return Order(verb, message_id, by, why)
    if owner is None or access.own_quarantine is None:
        return None
    if owner.sent and access.own_quarantine.senders == "release":
        return Order(verb, message_id, by, why)
    return Order(verb, message_id, by, why, recipients=owner.recipients) if owner.recipients else None
