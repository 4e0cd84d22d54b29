"""Who a recipient of the site's own domains is: an account here, others by an alias, or nobody.

Contract
    The order is the one of docs/rules.md, Mailboxes. OSError goes up untouched: accounts that cannot be read are
    "cannot tell", never "no such mailbox".
    What RCPT says: nobody there is 550, an account that is full 452, a message that never fits 552.
    An alias for several is not asked whether each has room: they get messages of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from egressguard.mail.reply import Reply
from egressguard.mailbox.account_name import is_account_name, local_part_of, names_in
from egressguard.mailbox.quota import Usages, excess, has_plenty
from egressguard.policy.aliases import catcher_of, targets_of
from egressguard.policy.mailboxes import Quota
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local

POSTMASTER = "postmaster"
NO_SUCH_MAILBOX = Reply(550, "5.1.1", "No such mailbox here")
FULL = Reply(452, "4.2.2", "The mailbox is full, try again later")
TOO_LARGE = Reply(552, "5.2.3", "The message is larger than the mailbox may be")


class AccountNames(Protocol):
    """What is asked of the accounts. Raises OSError when it cannot tell."""

    def exists(self, name: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Whom:
    """`account` gets the message here ("" = none does), `others` are addresses that get it as one of their own."""

    account: str
    detail: str = ""
    others: tuple[str, ...] = ()


class Recipients:
    """`over_quota` hears of each recipient that RCPT puts off. All calls block; `no_room` may read directories."""

    def __init__(self, accounts: AccountNames, usages: Usages, over_quota: Callable[[], object] = lambda: None) -> None:
        self._accounts = accounts
        self._usages = usages
        self._over_quota = over_quota

    def whom(self, policy: Policy, forward_path: str, *, expanded: bool = False) -> Whom | None:
        """None: nobody. `expanded`: an alias was gone through, only accounts are meant. Raises OSError."""
        local_part = local_part_of(forward_path)
        domain = forward_path[len(local_part) :]
        for name, detail in names_in(local_part, policy.site.mailboxes.separator):
            if not expanded and (targets := targets_of(policy, f"{name}{domain}")) is not None:
                return self._of_targets(policy, targets, forward_path)
            if is_account_name(name) and self._accounts.exists(name):
                return Whom(name, detail)
            if name == POSTMASTER and (instead := self._postmaster(policy)) is not None:
                return Whom(instead, detail)
        if not expanded and (targets := catcher_of(policy, forward_path)) is not None:
            return self._of_targets(policy, targets, forward_path)
        return None

    def refusal(self, policy: Policy, forward_path: str) -> Reply | None:
        """None: there is somebody. Raises OSError."""
        return NO_SUCH_MAILBOX if self.whom(policy, forward_path) is None else None

    def no_room(self, policy: Policy, forward_path: str, size_octets: int) -> Reply | None:
        """None: it fits. `size_octets` is what the client says of it, 0 = nothing. Raises OSError."""
        limited = self._limited(policy, forward_path)
        if limited is None:
            return None
        account, quota = limited
        if quota.octets is not None and size_octets > quota.octets:
            return TOO_LARGE
        usage = self._usages.of(policy, account)
        if excess(quota, usage, size_octets) is None:
            return None
        self._over_quota()
        return FULL

    def surely_fits(self, policy: Policy, forward_path: str, size_octets: int) -> bool:
        """False: ask `no_room`. Reads no directory. Raises OSError."""
        limited = self._limited(policy, forward_path)
        if limited is None:
            return True
        account, quota = limited
        usage = self._usages.at_hand(policy, account)
        return usage is not None and has_plenty(quota, usage, size_octets)

    def _limited(self, policy: Policy, forward_path: str) -> tuple[str, Quota] | None:
        """The account that it goes to, if that has a quota. Raises OSError."""
        found = self.whom(policy, forward_path)
        if found is None or not found.account:
            return None
        quota = policy.site.mailboxes.quota_of(found.account)
        return (found.account, quota) if quota.limits else None

    def _of_targets(self, policy: Policy, targets: tuple[str, ...], forward_path: str) -> Whom | None:
        """One that is here gets the message itself; so does the account that the alias is called after."""
        if len(targets) == 1 and is_local(policy, targets[0]):
            return self.whom(policy, targets[0], expanded=True)
        own = next((path for path in targets if path.lower() == forward_path.lower()), None)
        here = self.whom(policy, own, expanded=True) if own is not None else None
        if here is None:
            return Whom("", others=targets)
        return Whom(here.account, here.detail, tuple(path for path in targets if path != own))

    def _postmaster(self, policy: Policy) -> str | None:
        """Somebody has to read postmaster's mail (RFC 5321 s4.5.1)."""
        admins = policy.site.access.quarantine_admins
        return admins[0] if admins and self._accounts.exists(admins[0]) else None
