"""The schema of `site.mailboxes`: whose mail lies here, how much of it, and where. Each class is one mapping.

Contract
    Which accounts there are is not known here (they come and go without a rule change): an alias may name one that
    does not exist. Domains, addresses and aliases that go round are checked by policy.mailboxcheck.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from egressguard.policy.fields import DOMAIN_PATTERN, Domain, Some, Strict

ACCOUNT_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
_LOCAL_FORM = r'[^\x00-\x20@"\\<>()\[\],;:\x7f]{1,64}'
MAILBOX_PATTERN = rf"^{_LOCAL_FORM}(@{DOMAIN_PATTERN[1:-1]})?$"
"""A local part, or an address."""
PLACE_PATTERN = r"^(/[A-Za-z0-9{][A-Za-z0-9._{}-]{0,63}){1,16}$"
SEPARATOR_PATTERN = r"^[+=#~_-]?$"

AccountName = Annotated[str, Field(pattern=ACCOUNT_PATTERN)]
Mailbox = Annotated[str, Field(pattern=MAILBOX_PATTERN)]
Place = Annotated[str, Field(pattern=PLACE_PATTERN, max_length=255)]
Target = Literal["maildir", "mbox", "lmtp"]
"""How a message gets to its account."""


class Quota(Strict):
    """The most that an account's folders may hold, all together."""

    octets: Annotated[int, Field(ge=1, le=2**53)] | None = Field(
        None, description="the most octets of all messages; left out = no limit", examples=[5368709120]
    )
    messages: Annotated[int, Field(ge=1, le=10**9)] | None = Field(
        None, description="the most messages; left out = no limit", examples=[100000]
    )

    @property
    def limits(self) -> bool:
        return self.octets is not None or self.messages is not None


class MailboxAccount(Strict):
    """What is other for one account than for the rest."""

    quota: Quota | None = Field(
        None, description="its quota, in place of the one of all; left out = that one", examples=[{"octets": 10**10}]
    )
    deliver: Target | None = Field(
        None, description="how its mail gets to it; left out = as `deliver` of all says", examples=["mbox"]
    )


class Mbox(Strict):
    """Where mail lies for accounts with `deliver: mbox`; {account} stands for the account's name."""

    inbox: Place = Field("/var/mail/{account}", description="the file of the inbox", examples=["/home/{account}/mbox"])
    folders: Place | None = Field(
        None,
        description="the directory of the other folders' files; left out = everything goes into the inbox",
        examples=["/home/{account}/mail"],
    )


class Mailboxes(Strict):
    """Mail for `site.domains` that stays here."""

    separator: Annotated[str, Field(pattern=SEPARATOR_PATTERN)] = Field(
        "+",
        description='what parts the account from a detail of its own in a local part: anna+lists; "" = nothing does',
        examples=["="],
    )
    aliases: Annotated[dict[Mailbox, Some[Mailbox]], Field(max_length=10_000)] = Field(
        default_factory=dict,
        description="local parts (in all of site.domains) or addresses that stand for others: accounts here, or "
        "addresses anywhere; an account that is named by its own alias gets the mail, too; left out = none",
        examples=[{"info": ["anna", "bert@example.net"]}, {"sales@example.org": "anna"}],
    )
    catch_all: dict[Domain, Some[Mailbox]] = Field(
        default_factory=dict,
        description="by domain, who gets what is for nobody there; left out = it is refused (550)",
        examples=[{"example.org": "anna"}],
    )
    quota: Quota = Field(
        Quota(),
        description="the quota of each account; mail that would be above it is put off (452) at RCPT; left out = none",
        examples=[{"octets": 5368709120, "messages": 100000}],
    )
    deliver: Target = Field(
        "maildir",
        description="how mail gets to its account: maildir = here, as IMAP and POP3 read it; mbox = a file of the "
        "system's user of that name; lmtp = here, by Dovecot, with its Sieve scripts",
        examples=["lmtp"],
    )
    accounts: Annotated[dict[AccountName, MailboxAccount], Field(max_length=10_000)] = Field(
        default_factory=dict,
        description="what is other for some accounts; left out = nothing",
        examples=[{"anna": {"quota": {"octets": 10737418240}}}],
    )
    mbox: Mbox = Field(
        Mbox(),
        description="where mbox files lie; left out = its defaults",
        examples=[{"inbox": "/home/{account}/mbox"}],
    )
    forward_outside: bool = Field(
        False,
        description="accounts' own rules and Sieve scripts may forward mail to addresses that are not ours; aliases "
        "always may",
        examples=[True],
    )

    @property
    def has_quotas(self) -> bool:
        """Whether any account may have one."""
        return self.quota.limits or bool(self.accounts)

    def quota_of(self, account: str) -> Quota:
        own = self.accounts.get(account)
        return self.quota if own is None or own.quota is None else own.quota

    def target_of(self, account: str) -> Target:
        own = self.accounts.get(account)
        return self.deliver if own is None or own.deliver is None else own.deliver
