"""Which mail must meet other TLS demands: choose_tls over the classes of domains and MX hosts. Pure and exact."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from egressguard.policy.difference.change import Change, Place
from egressguard.policy.difference.classes import unnamed
from egressguard.policy.difference.settings import tls_words
from egressguard.policy.model import Policy, TlsRule
from egressguard.policy.patterns import LOCAL
from egressguard.policy.tls import NO_RULE, choose_tls

MOST_NAMES = 1000
"""More domains or hosts than these are not looked at in all pairs, only each by itself."""


def tls_changes(old: Policy, new: Policy) -> Iterator[Change]:
    """One change for each pair of rules, with a domain and a host of which both say so."""
    seen: set[object] = set()
    for domain, host in _pairs(old, new):
        before, after = choose_tls(old, domain, host), choose_tls(new, domain, host)
        key = before.name, after.name
        if _meaning(before) != _meaning(after) and key not in seen:
            seen.add(key)
            which = f"mail to {domain} at the host {host}"
            yield Change("tls", which, tls_words(before), tls_words(after), _place(before), _place(after))


def _place(rule: TlsRule) -> tuple[Place, ...]:
    return (Place("" if rule is NO_RULE else rule.name, rule.at),)


def _meaning(rule: TlsRule) -> object:
    return rule.level, rule.names, rule.ca_file, rule.client_certificate


def _pairs(old: Policy, new: Policy) -> Iterator[tuple[str, str]]:
    rules = [rule for policy in (old, new) for rule in policy.tls if not rule.staged]
    local = list(chain(old.site.domains, new.site.domains))
    domains = _samples([*chain(*(rule.match.recipient_domain for rule in rules))], local)
    hosts = _samples([*chain(*(rule.match.next_hop for rule in rules))], [])
    if len(domains) * len(hosts) <= MOST_NAMES * MOST_NAMES // 4:
        yield from ((domain, host) for domain in domains for host in hosts)
    else:
        yield from ((domain, hosts[0]) for domain in domains)
        yield from ((domains[0], host) for host in hosts)


def _samples(patterns: list[str], local: list[str]) -> list[str]:
    """One name of each class: what is named, what lies below, and what nobody names."""
    named = [p.lower() for p in patterns if p != LOCAL and not p.startswith(".")] + [d.lower() for d in local]
    below = [p.lower() for p in patterns if p.startswith(".")]
    taken = {*named}
    labels = ["other", *(f"other{number}" for number in range(2, len(taken) + 3))]
    under = [next(f"{label}{domain}" for label in labels if f"{label}{domain}" not in taken) for domain in below]
    return list(dict.fromkeys([unnamed(taken, below), *named, *under]))
