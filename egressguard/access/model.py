"""What the private Dovecot is to be, whatever its version: one value, rendered by access.dovecot.

Contract
    Pure. A model that Dovecot's configuration could not hold as it is (odd characters, port 0) is refused here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from egressguard.mailbox.account_name import is_account_name
from egressguard.policy.mailboxes import Quota

# Blank, quote, "%", "#", "=" and the like mean something in Dovecot's files; none belongs in a path of ours.
_SAFE_PATH = re.compile(r"/[A-Za-z0-9_./+@,~-]*")
_SAFE_WORD = re.compile(r"[A-Za-z0-9_./+@,~-]*")
_SAFE_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_SAFE_SERVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MOST_SESSIONS = 20_000
# sun_path holds 108 octets (unix(7)); the longest socket below base_dir is "auth-token-secret.dat" and its kind.
BASE_DIRECTORY_OCTETS = 80


UNLIMITED = Quota()
SEPARATORS = ("", "+", "=", "#", "~", "_", "-")


class ModelError(ValueError):
    """The model cannot be rendered; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Ports:
    """None = not offered. 0 (any free port) has to be resolved before a model is made of it."""

    imap: int | None = None
    imaps: int | None = None
    pop3: int | None = None
    pop3s: int | None = None

    def items(self) -> Iterator[tuple[str, int]]:
        """(service, port) of those offered."""
        for service in ("imap", "imaps", "pop3", "pop3s"):
            port = getattr(self, service)
            if port is not None:
                yield service, port

    @property
    def protocols(self) -> tuple[str, ...]:
        offered = {service.removesuffix("s") for service, _ in self.items()}
        return tuple(protocol for protocol in ("imap", "pop3") if protocol in offered)


@dataclass(frozen=True, slots=True)
class AccessModel:
    """Directories are absolute. Everything Dovecot writes besides mail lies in `base_dir` or `state_dir`.

    `user` and `group` are names: whom Dovecot's processes run as, and whose the mailboxes are. Started by an
    ordinary user, that must be this user.
    `views_root` has a Maildir of links for each user, and one for all admins (quarantine.views).
    `quarantine_admins`: accounts that see all that is held below "Quarantine-all". `owners_see`: everybody has a
    folder "Quarantine"; else the admins do.
    `offers_scram`: everybody can log in by SCRAM. Some mail programs try nothing else where it is offered.
    `quota` is the one of all but those in `quotas`. `lmtp`: mail for accounts is taken on the socket base_dir/lmtp, and
    sorted by their Sieve scripts where the plugin is there (`sieve`); `separator` parts an account from a detail.
    `sends` is the command that takes what a script sends, the account's name after it (() = Dovecot's own way);
    `postmaster` is whose name is on what Dovecot itself says.
    """

    base_dir: Path
    state_dir: Path
    mailbox_root: Path
    views_root: Path
    accounts: Path
    certificate: Path
    private_key: Path
    user: str
    group: str
    ports: Ports
    addresses: tuple[str, ...] = ("*", "::")
    quarantine_admins: tuple[str, ...] = ()
    owners_see: bool = False
    max_sessions: int = 500
    max_user_sessions: int = 20
    pam_service: str | None = None
    offers_scram: bool = True
    quota: Quota = UNLIMITED
    quotas: tuple[tuple[str, Quota], ...] = ()
    lmtp: bool = False
    sieve: bool = False
    separator: str = "+"
    sends: tuple[str, ...] = ()
    postmaster: str = ""

    def __post_init__(self) -> None:
        for name in _PATHS:
            _check_path(name, getattr(self, name))
        if len(str(self.base_dir)) > BASE_DIRECTORY_OCTETS:
            raise ModelError(f"base_dir: over {BASE_DIRECTORY_OCTETS} octets, its sockets would not fit")
        for user in (self.user, self.group):
            if not _SAFE_USER.fullmatch(user):
                raise ModelError(f"not a user or group name: {user!r}")
        _check_ports(self.ports)
        _check_addresses(self.addresses)
        if self.pam_service is not None and not _SAFE_SERVICE.fullmatch(self.pam_service):
            raise ModelError(f"not the name of a PAM service: {self.pam_service!r}")
        if not (1 <= self.max_user_sessions <= MOST_SESSIONS and 1 <= self.max_sessions <= MOST_SESSIONS):
            raise ModelError(f"sessions: expected 1 to {MOST_SESSIONS}")
        if self.separator not in SEPARATORS:
            raise ModelError(f"not a separator: {self.separator[:10]!r}")
        for word in (*self.sends, self.postmaster):
            if not _SAFE_WORD.fullmatch(word):
                raise ModelError(f"cannot be written down for Dovecot: {word[:80]!r}")
        _check_accounts("quarantine admin", self.quarantine_admins)
        _check_accounts("quota:", (name for name, _ in self.quotas))

    @property
    def is_wanted(self) -> bool:
        """Whether there is anything for Dovecot to do."""
        return self.lmtp or bool(self.ports.protocols)

    @property
    def config(self) -> Path:
        """Where the rendered configuration is kept (Dovecot puts a link named dovecot.conf in base_dir)."""
        return self.state_dir / "access.conf"

    @property
    def candidate(self) -> Path:
        """The next configuration while doveconf(1) looks at it."""
        return self.state_dir / "access.conf.new"

    @property
    def rights(self) -> Path:
        """Dovecot 2.3's ACL file for the quarantine folders."""
        return self.state_dir / "quarantine.acl"

    @property
    def has_quotas(self) -> bool:
        return self.quota.limits or any(quota.limits for _, quota in self.quotas)

    @property
    def quota_users(self) -> Path:
        """Those with a quota of their own, as Dovecot's users."""
        return self.state_dir / "quota-users"

    @property
    def sieve_scripts(self) -> Path:
        """A script an account, NAME.sieve."""
        return self.state_dir / "sieve"

    @property
    def scram(self) -> Path:
        """SCRAM's verifiers as Dovecot reads them (access.credentials)."""
        return self.state_dir / "scram"

    @property
    def shut_out(self) -> Path:
        """Clients that no password lets in (access.credentials)."""
        return self.state_dir / "shut-out"

    @property
    def shows_quarantine(self) -> bool:
        return self.owners_see or bool(self.quarantine_admins)

    @property
    def temporary_dir(self) -> Path:
        return self.state_dir / "tmp"

    @property
    def quarantine_state(self) -> Path:
        """UIDs, indexes and each admin's own \\Seen flags: the views themselves hold messages only."""
        return self.state_dir / "quarantine"


_PATHS = (
    "base_dir",
    "state_dir",
    "mailbox_root",
    "views_root",
    "accounts",
    "certificate",
    "private_key",
)


def _check_path(name: str, path: Path) -> None:
    if not _SAFE_PATH.fullmatch(str(path)):
        raise ModelError(f"{name}: {str(path)!r} is not an absolute path of plain characters")


def _check_accounts(what: str, names: Iterable[str]) -> None:
    for name in names:
        if not is_account_name(name):
            raise ModelError(f"{what} {name!r} is not an account name")


def _check_ports(ports: Ports) -> None:
    numbers = [port for _, port in ports.items()]
    if any(not 1 <= port <= 65535 for port in numbers):
        raise ModelError("a port is not between 1 and 65535")
    if len(set(numbers)) < len(numbers):
        raise ModelError("two services share a port")


def _check_addresses(addresses: tuple[str, ...]) -> None:
    if not addresses:
        raise ModelError("no address to listen on")
    for address in addresses:
        try:
            if address != "*":
                ipaddress.ip_address(address)
        except ValueError:
            raise ModelError(f"not an address to listen on: {address!r}") from None
