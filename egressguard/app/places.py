"""Where everything lies on disk: the one place that joins path names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_INSIDE = {"smtpd": "relay"}
"""A role that another starts has its directory in the other's."""


@dataclass(frozen=True, slots=True)
class Places:
    """`rules` is what the administrator edits, `state` survives a reboot, `runtime` does not.

    `site` names the overlay of the rules that this machine takes ("" = none)."""

    rules: Path
    state: Path
    runtime: Path
    site: str = ""

    @property
    def snapshot(self) -> Path:
        """The checked copy of the rules that every role reads: all of them see one policy."""
        return self.runtime / "rules"

    @property
    def provenance(self) -> Path:
        """JSON written by the supervisor: where the rules in `snapshot` come from."""
        return self.runtime / "provenance.json"

    @property
    def policy(self) -> Path:
        """The policies that were applied here (app.generations)."""
        return self.state / "policy"

    @property
    def candidate(self) -> Path:
        """A copy of rules that are looked at, and not in force."""
        return self.runtime / "candidate"

    @property
    def spool(self) -> Path:
        return self.state / "spool"

    @property
    def drafts(self) -> Path:
        """Messages while they arrive; the spool takes over what lies here (store.spool)."""
        return self.spool / "tmp"

    @property
    def drop(self) -> Path:
        """Where this machine's own programs put mail down (store.drop)."""
        return self.state / "drop"

    @property
    def limits(self) -> Path:
        return self.spool / "limits.sqlite"

    @property
    def mta_sts(self) -> Path:
        """Other domains' MTA-STS policies (relay.mta_sts)."""
        return self.spool / "mta-sts"

    @property
    def rates(self) -> Path:
        """What smart hosts and destinations were given lately (relay.rates)."""
        return self.spool / "rates.json"

    @property
    def digest(self) -> Path:
        """When the quarantine's digest went out last (quarantine.digest)."""
        return self.spool / "digest.json"

    @property
    def journals(self) -> Path:
        return self.state / "journal"

    def journal(self, role: str) -> Path:
        return self.journals / f"{role}.sqlite"

    @property
    def quarantine(self) -> Path:
        return self.state / "quarantine"

    @property
    def quarantine_views(self) -> Path:
        """What of the quarantine mail programs see (quarantine.views)."""
        return self.quarantine / "views"

    @property
    def mailboxes(self) -> Path:
        return self.state / "mailboxes"

    @property
    def takeover(self) -> Path:
        """Where mailboxes of other servers are built before they are put in their place (mailbox.takeover)."""
        return self.state / "takeover"

    @property
    def scan_memory(self) -> Path:
        """What `egressguard scan` found (scan.memory)."""
        return self.state / "scan" / "memory.sqlite"

    @property
    def secrets(self) -> Path:
        return self.state / "secrets"

    @property
    def signing_keys(self) -> Path:
        """Private keys to sign with; each is a file that only the relay's user reads."""
        return self.secrets / "dkim"

    @property
    def tls(self) -> Path:
        return self.state / "tls"

    @property
    def accounts(self) -> Path:
        return self.state / "accounts" / "passwd"

    @property
    def mailbox_rules(self) -> Path:
        """Accounts' own rules, a file each (mailbox.rule_files)."""
        return self.accounts.parent / "rules"

    @property
    def mbox_notes(self) -> Path:
        """What is about to be written into files of mail elsewhere (mailbox.mbox_delivery)."""
        return self.spool / "mbox"

    @property
    def lmtp(self) -> Path:
        """Where our Dovecot takes mail."""
        return self.dovecot_base / "lmtp"

    @property
    def dovecot_state(self) -> Path:
        return self.state / "dovecot"

    @property
    def sieve_scripts(self) -> Path:
        """A script an account (access.sieve_scripts)."""
        return self.dovecot_state / "sieve"

    @property
    def dovecot_base(self) -> Path:
        return self.role("access") / "dovecot"

    @property
    def plan(self) -> Path:
        """Where the packet plane writes the ruleset it would load, when it may not load it."""
        return self.runtime / "gate" / "ruleset.nft"

    def role(self, name: str) -> Path:
        """The runtime directory that only this role writes."""
        return self.runtime / _INSIDE.get(name, "") / name

    def control(self, role: str) -> Path:
        return self.role(role) / "control.sock"

    @property
    def handover(self) -> Path:
        """Where smtpd hands mail over to the relay (relay.handover)."""
        return self.role("relay") / "handover.sock"

    @property
    def scanner(self) -> Path:
        return self.role("scan") / "scanner.sock"

    @property
    def listening(self) -> Path:
        """JSON written by the supervisor: listener name -> list of [address, port]."""
        return self.runtime / "listening.json"
