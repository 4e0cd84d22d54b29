"""Local delivery: from a recipient of the site's own domains to a store, or on to others.

Contract
    `plan` decides and does nothing; it is pure but for what it is given. First what goes on to others is durable in
    the spool, then what stays is durable in its store; each is done once, however often an attempt is repeated.
    What its own rules cannot do now (a forward that would go round, or that the site does not allow) leaves the
    message in the account's inbox.
    Trouble of our own is transient, never permanent. An account that is full makes its message wait.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from egressguard.mail.outcome import Outcome, delivered, permanent, transient
from egressguard.mailbox.deposit import Deposit, Store, outcome_of
from egressguard.mailbox.forwarding import EXPANDED, Forwarder, Onward, goes_round
from egressguard.mailbox.metrics import MailboxMetrics
from egressguard.mailbox.quota import Usages, has_plenty, is_full
from egressguard.mailbox.recipients import Recipients, Whom
from egressguard.mailbox.rule_files import RuleFiles
from egressguard.mailbox.sieve_mail import PAST_SIEVE
from egressguard.policy.mailbox_rules import INBOX, Letter, MailboxRule, MailboxRules, choose
from egressguard.policy.mailboxes import Quota, Target
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.relay.facts import header_facts
from egressguard.store.content import Content
from egressguard.store.interface import Claim, Due, SpoolBroken, SpoolFull

log = logging.getLogger(__name__)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LOOP = permanent("5.4.6", "the message was here before: it goes round in a loop")
NOBODY = permanent("5.1.1", "no such mailbox")


@dataclass(frozen=True, slots=True)
class Plan:
    """`folder` None: nothing stays here. `rule` is the account's rule that said so, `why` what kept it from it."""

    folder: str | None
    onward: tuple[Onward, ...] = ()
    rule: str = ""
    why: str = ""


def plan(policy: Policy, whom: Whom, forward_path: str, rule: MailboxRule | None, section: bytes) -> Plan | Outcome:
    """What is to be done. `section` may be empty where nobody sends anything on."""
    sends = bool(whom.others) or (rule is not None and bool(rule.to))
    round_again = sends and goes_round(policy, forward_path, section)
    if not whom.account:
        return LOOP if round_again else Plan(None, (Onward("alias", whom.others),))
    aliased = (Onward("alias", whom.others),) if whom.others and not round_again else ()
    if rule is None:
        return Plan(INBOX, aliased)
    if not rule.to:
        return Plan(rule.folder or INBOX, aliased, rule.name)
    if round_again:
        return Plan(rule.folder or INBOX, aliased, rule.name, "it would go round in a loop")
    if not policy.site.mailboxes.forward_outside and not all(is_local(policy, path) for path in rule.to):
        return Plan(rule.folder or INBOX, aliased, rule.name, "site.mailboxes.forward_outside does not allow it")
    return Plan(rule.folder, (*aliased, Onward("forward", rule.to)), rule.name)


class LocalMail:
    """relay.attempt.LocalDelivery. `record` is the journal's."""

    def __init__(
        self,
        recipients: Recipients,
        rules: RuleFiles,
        stores: Mapping[Target, Store],
        forwarder: Forwarder,
        usages: Usages,
        metrics: MailboxMetrics,
        record: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self._recipients = recipients
        self._rules = rules
        self._stores = stores
        self._forwarder = forwarder
        self._usages = usages
        self._metrics = metrics
        self._record = record

    async def deliver(self, policy: Policy, claim: Claim, due: Due, content: Content) -> Outcome:
        """`content` is header section and body, with CRLF."""
        if _CONTROL.search(due.forward_path + claim.reverse_path):
            return permanent("5.1.3", "the path has control characters")
        try:
            if content.file is None:  # what is asked is in memory, but for the times of two files
                whom, planned = self._planned(policy, claim, due, content)
            else:
                whom, planned = await asyncio.to_thread(self._planned, policy, claim, due, content)
            if isinstance(planned, Outcome):
                return planned
            if planned.why:
                fields = {"queue_id": claim.queue_id, "account": whom.account, "rule": planned.rule}
                log.warning("a message is not sent on, it stays here", extra={"fields": fields | {"why": planned.why}})
            outcome = await self._send_on(policy, claim, due, content, planned)
            if planned.folder is None or outcome is not None:
                return outcome or delivered("sent on")
            return await self._keep(policy, claim, due, content, whom, planned)
        except OSError as wrong:
            return outcome_of(wrong)

    def _planned(self, policy: Policy, claim: Claim, due: Due, content: Content) -> tuple[Whom, Plan | Outcome]:
        """Blocks. Raises OSError."""
        whom = self._recipients.whom(policy, due.forward_path, expanded=EXPANDED in claim.tags)
        if whom is None:
            return Whom(""), NOBODY
        mailboxes = policy.site.mailboxes
        sorts = whom.account and mailboxes.target_of(whom.account) != "lmtp"  # there its Sieve script does
        rules = self._rules.of(whom.account) if sorts else None
        section = content.header_section() if rules is not None or whom.others else b""
        rule = _rule_for(policy, claim, due, content, whom, rules, section) if rules is not None else None
        return whom, plan(policy, whom, due.forward_path, rule, section)

    async def _send_on(self, policy: Policy, claim: Claim, due: Due, content: Content, planned: Plan) -> Outcome | None:
        """None: all of it is in the spool. Raises OSError."""
        for onward in planned.onward:
            trouble = None
            try:
                queue_id = await self._forwarder.send(policy, claim, due, content, onward)
            except (SpoolFull, SpoolBroken) as wrong:
                trouble = transient("4.3.1", f"what is sent on cannot be stored now: {wrong}")
            self._metrics.delivered(onward.by, (trouble or delivered("")).result)
            if trouble is not None:
                return trouble
            fields = {"queue_id": claim.queue_id, "recipient": due.forward_path, "rule": planned.rule, "by": onward.by}
            self._record("mailbox.sent-on", fields | {"recipients": list(onward.paths), "as": queue_id})
        return None

    async def _keep(
        self, policy: Policy, claim: Claim, due: Due, content: Content, whom: Whom, planned: Plan
    ) -> Outcome:
        """Raises OSError."""
        account, target = whom.account, policy.site.mailboxes.target_of(whom.account)
        if target == "lmtp" and PAST_SIEVE in claim.tags:
            target = "maildir"  # the same mailbox
        quota = policy.site.mailboxes.quota_of(account)
        if quota.limits and await self._is_full(policy, account, quota, content.size_octets):
            self._metrics.over_quota()
            return transient("4.2.2", "the mailbox is full")
        deposit = Deposit(
            account,
            planned.folder or INBOX,
            claim.queue_id,
            claim.reverse_path,
            due.forward_path,
            content,
            whom.detail,
            is_again=due.attempts > 1,
        )
        try:
            outcome = await self._stores[target].store(policy, deposit)
        except OSError as wrong:
            outcome = outcome_of(wrong)
        self._metrics.delivered(target, outcome.result)
        if planned.rule:
            fields = {"queue_id": claim.queue_id, "recipient": due.forward_path, "account": account}
            told = {"folder": planned.folder, "rule": planned.rule, "outcome": outcome.result.value}
            self._record("mailbox.filed", fields | told | ({"why": planned.why} if planned.why else {}))
        return outcome

    async def _is_full(self, policy: Policy, account: str, quota: Quota, size_octets: int) -> bool:
        """Raises OSError."""
        usage = self._usages.at_hand(policy, account)
        if usage is not None and has_plenty(quota, usage, size_octets):
            return False
        return is_full(quota, await asyncio.to_thread(self._usages.of, policy, account))


def _rule_for(
    policy: Policy, claim: Claim, due: Due, content: Content, whom: Whom, rules: MailboxRules, section: bytes
) -> MailboxRule | None:
    letter = Letter(
        claim.reverse_path,
        due.forward_path,
        whom.detail,
        header_facts(section),
        content.size_octets,
        claim.tags,
        policy.site.domains,
    )
    return choose(rules, letter)
