"""The smart hosts of a way out, as peers to dial: their addresses and passwords.

Contract
    Trouble with a smart host (no address in DNS, no longer in the rules, its password not to be read) is ours to
    mend, so it is transient; the others of the way are tried.
    In which order, and who is left alone: relay.turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from pathlib import Path

from egressguard.mail.outcome import Outcome, transient
from egressguard.policy.model import Policy
from egressguard.policy.smart_host import SmartHost
from egressguard.relay.mx_hosts import Lookups
from egressguard.relay.mx_tls import Judge
from egressguard.smtp.certificates import OwnCertificate
from egressguard.smtp.dial import Peer
from egressguard.store.secret import read_secret


def ranked(names: Sequence[str], policy: Policy, chance: Callable[[], float]) -> list[list[str]]:
    """Those of the first rank first. Neighbours that have a weight are of one rank, in an order by chance."""
    if len(names) == 1:
        return [list(names)]
    weights = {name: host.weight if (host := policy.site.smart_hosts.get(name)) else None for name in names}
    ranks: list[list[str]] = []
    for shares, group in groupby(names, key=lambda name: weights[name] is not None):
        if shares:
            ranks.append(_by_weight({name: weights[name] or 0 for name in group}, chance))
        else:
            ranks += [[name] for name in group]
    return ranks


def _by_weight(weights: dict[str, int], chance: Callable[[], float]) -> list[str]:
    """Each place goes to one of those that are left, as likely as its weight says (as RFC 2782 has it)."""
    left, order = dict(weights), []
    while left:
        below = chance() * sum(left.values())
        reached = zip(left, accumulate(left.values()), strict=True)
        order.append(next((name for name, so_far in reached if below < so_far), next(reversed(left))))
        del left[order[-1]]
    return order


async def find_smart_hosts(
    names: Sequence[str], policy: Policy, resolver: Lookups, secrets: Path, judge: Judge
) -> Sequence[Peer] | Outcome:
    """The smart hosts that can be tried now; an outcome when there is none."""
    peers: list[Peer] = []
    trouble = transient("4.3.5", "the route names no smart host")
    for name in names:
        host = policy.site.smart_hosts.get(name)
        if host is None:
            trouble = transient("4.3.5", f"the smart host {name} is no longer in the rules")
            continue
        found = await _smart_peer(name, host, resolver, secrets, judge)
        if isinstance(found, Outcome):
            trouble = found
        else:
            peers.append(found)
    return peers or trouble


async def _smart_peer(name: str, host: SmartHost, resolver: Lookups, secrets: Path, judge: Judge) -> Peer | Outcome:
    answer = await resolver.resolve_addresses(host.host)
    if not answer.addresses:
        return transient("4.4.3", f"the smart host {host.host} has no address ({answer.answer.value})")
    try:
        password = await asyncio.to_thread(read_secret, host.auth.secret, secrets) if host.auth else None
    except (OSError, ValueError) as wrong:
        return transient("4.3.5", f"the password of the smart host {name} cannot be read: {wrong}")
    user = host.auth.user if host.auth else None
    ours = OwnCertificate(*host.client_certificate.files) if host.client_certificate else None
    peer = Peer(
        host.host, answer.addresses, host.port, host.tls, host.ca_file, user, password, ours=ours, smart_host=name
    )
    return await judge.by_tlsa(peer, answer) if host.tls == "dane" else peer
