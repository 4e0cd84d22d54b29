"""Next hops that stand in a rule, or that a sender chose, as peers to dial.

Contract
    A next hop is this very host: no MX look-up. One that has no address now, or is ourselves, is passed over.
    No next hop to dial is transient: whoever programmed the route may mend it.
    Rules of `tls` hold for it by its name, if it speaks SMTP; who has written the name vouches for it as DNSSEC does
    for an MX host's.
"""

from __future__ import annotations

from collections.abc import Sequence

from egressguard.mail.outcome import Outcome, transient
from egressguard.policy.model import Policy
from egressguard.policy.next_hop import NextHop, parse_next_hop
from egressguard.relay.mx_hosts import Lookups, is_ours
from egressguard.relay.mx_tls import Judge
from egressguard.smtp.dial import Peer, TlsMode


async def find_next_hosts(
    texts: Sequence[str], policy: Policy, resolver: Lookups, hostname: str, judge: Judge, *, requiretls: bool = False
) -> Sequence[Peer] | Outcome:
    """`texts` are next hops in the order of trying; `hostname` is our own name."""
    peers: list[Peer] = []
    trouble = transient("4.3.5", "the route names no next hop")
    for text in texts:
        found = await _peer(parse_next_hop(text), policy, resolver, hostname, judge, requiretls=requiretls)
        if isinstance(found, Outcome):
            trouble = found
        else:
            peers.append(found)
    return peers or trouble


async def _peer(
    hop: NextHop, policy: Policy, resolver: Lookups, hostname: str, judge: Judge, *, requiretls: bool
) -> Peer | Outcome:
    if hop.path:
        return Peer(hop.path, (hop.path,), 0, "none", lmtp=True)
    answer = await resolver.resolve_addresses(hop.host)
    if not answer.addresses:
        return transient("4.4.3", f"the next hop {hop} has no address ({answer.answer.value})")
    if any(is_ours(name, hop.port, policy, hostname) for name in (hop.host, *answer.addresses)):
        return transient("4.4.6", f"the next hop {hop} is this gateway itself")
    if hop.transport != "smtp":
        tls: TlsMode = "implicit" if hop.transport == "smtps" else "opportunistic"
        return Peer(hop.host, answer.addresses, hop.port, tls, lmtp=hop.transport == "lmtp")
    peer, answers = Peer(hop.host, answer.addresses, hop.port), {hop.host: answer}
    judged = await judge.demands("", [peer], policy, certain=True, answers=answers, requiretls=requiretls)
    return judged if isinstance(judged, Outcome) else judged[0]
