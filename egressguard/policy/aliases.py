"""Whom an address of the site stands for, by `site.mailboxes.aliases` and `catch_all`. Pure.

Contract
    Case does not count. An alias of the address itself comes before one of its local part in all domains.
    What an alias names may be an alias again; one that has been gone through already means the account of its name.
    So it always ends, and each address stands in the answer once. (Aliases that go round are a fault of the rules.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from egressguard.mail.address import domain_of
from egressguard.policy.index import prepared
from egressguard.policy.model import Policy

MAX_TARGETS = 1000


def targets_of(policy: Policy, forward_path: str) -> tuple[str, ...] | None:
    """The addresses that this one, as an alias, stands for; None: it is none.

    Those of the site among them are accounts now: no alias is asked for them again."""
    known = prepared(policy, _Lowered)
    if not known.aliases:
        return None
    key = known.key_of(forward_path.lower())
    return None if key is None else _unique(known.expanded(key, _domain(policy, forward_path), {key}))


def catcher_of(policy: Policy, forward_path: str) -> tuple[str, ...] | None:
    """Who gets what is for nobody in this address's domain."""
    known = prepared(policy, _Lowered)
    targets = known.catch_all.get(domain_of(forward_path))
    if targets is None:
        return None
    domain = _domain(policy, forward_path)
    return _unique(path for target in targets for path in known.expanded_target(target, domain, set()))


def _domain(policy: Policy, forward_path: str) -> str:
    """Where names without a domain are: that of the address; a bare postmaster's is the site's first."""
    return domain_of(forward_path) or next(iter(policy.site.domains), "localhost")


def _unique(paths: Iterator[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for path in paths:
        found.setdefault(path)
        if len(found) == MAX_TARGETS:
            break
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Lowered:
    """Aliases and catchers by what they are looked up by."""

    written: object
    domains: frozenset[str]
    aliases: Mapping[str, Sequence[str]]
    catch_all: Mapping[str, Sequence[str]]

    def is_of(self, policy: Policy) -> bool:
        return self.written is policy.site

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        mailboxes = policy.site.mailboxes
        return cls(
            policy.site,
            frozenset(name.lower() for name in policy.site.domains),
            {name.lower(): targets for name, targets in mailboxes.aliases.items()},
            {name.lower(): targets for name, targets in mailboxes.catch_all.items()},
        )

    def key_of(self, path: str) -> str | None:
        """The alias that a path of the site is, as it is looked up."""
        local_part, at, domain = path.rpartition("@")
        if not at:
            local_part = domain
        elif domain not in self.domains:
            return None
        return next((key for key in (path, local_part) if key in self.aliases), None)

    def expanded(self, key: str, domain: str, seen: set[str]) -> Iterator[str]:
        for target in self.aliases[key]:
            yield from self.expanded_target(target, domain, seen)

    def expanded_target(self, target: str, domain: str, seen: set[str]) -> Iterator[str]:
        key = self.key_of(target.lower())
        if key is None or key in seen:
            yield target if "@" in target else f"{target}@{domain}"
            return
        seen.add(key)
        yield from self.expanded(key, domain, seen)
