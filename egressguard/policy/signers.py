"""Who signs for an author's domain. Pure.

Contract
    The closest domain that a signer names counts: the author's own, else one above it whose signers take subdomains.
    All signers of that domain sign, in the order of the rules; staged ones (`sign: false`) never do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from egressguard.policy.index import prepared
from egressguard.policy.model import Policy
from egressguard.policy.signing import Signer


@dataclass(frozen=True, slots=True)
class Signing:
    """A signer, and the domain in whose name it signs (d=), in lower case."""

    domain: str
    signer: Signer


def signings_for(policy: Policy, author_domain: str) -> tuple[Signing, ...]:
    """`author_domain` as DNS is asked for it; () = nobody signs for it."""
    if not policy.site.signing:
        return ()
    table = prepared(policy, _Table)
    for domain in _upwards(author_domain):
        if found := (table.exact if domain == author_domain else table.above).get(domain):
            return found
    return ()


def _upwards(domain: str) -> Iterator[str]:
    while domain:
        yield domain
        domain = domain.partition(".")[2]


@dataclass(frozen=True, slots=True)
class _Table:
    """`exact`: by an author's domain; `above`: by a domain above an author's."""

    made_from: object
    exact: dict[str, tuple[Signing, ...]]
    above: dict[str, tuple[Signing, ...]]

    def is_of(self, policy: Policy) -> bool:
        return self.made_from is policy.site.signing

    @classmethod
    def prepare(cls, policy: Policy) -> Self:
        exact: dict[str, tuple[Signing, ...]] = {}
        above: dict[str, tuple[Signing, ...]] = {}
        for signer in policy.site.signing.values():
            for domain in (name.lower() for name in signer.domains if signer.sign):
                signing = (Signing(domain, signer),)
                exact[domain] = exact.get(domain, ()) + signing
                if signer.subdomains:
                    above[domain] = above.get(domain, ()) + signing
        return cls(policy.site.signing, exact, above)
