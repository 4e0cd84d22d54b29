"""The smart hosts of a way out, as peers to dial: their addresses and passwords.

Contract
    Trouble with a smart host (no address in DNS, no longer in the rules, its password not to be read) is ours to
    mend, so it is transient; the others of the way are tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from egressguard.mail.outcome import Outcome, transient
from egressguard.policy.model import Policy
from egressguard.policy.site import SmartHost
from egressguard.relay.mx_hosts import Lookups
from egressguard.smtp.certificates import OwnCertificate
from egressguard.smtp.dial import Peer
from egressguard.store.secret import read_secret


async def find_smart_hosts(
    names: Sequence[str], policy: Policy, resolver: Lookups, secrets: Path
) -> Sequence[Peer] | Outcome:
    """The smart hosts that can be tried now; an outcome when there is none."""
    peers: list[Peer] = []
    trouble = transient("4.3.5", "the route names no smart host")
    for name in names:
        host = policy.site.smart_hosts.get(name)
        if host is None:
            trouble = transient("4.3.5", f"the smart host {name} is no longer in the rules")
            continue
        found = await _smart_peer(name, host, resolver, secrets)
        if isinstance(found, Outcome):
            trouble = found
        else:
            peers.append(found)
    return peers or trouble


async def _smart_peer(name: str, host: SmartHost, resolver: Lookups, secrets: Path) -> Peer | Outcome:
    answer = await resolver.resolve_addresses(host.host)
    if not answer.addresses:
        return transient("4.4.3", f"the smart host {host.host} has no address ({answer.answer.value})")
    try:
        password = await asyncio.to_thread(read_secret, host.auth.secret, secrets) if host.auth else None
    except (OSError, ValueError) as wrong:
        return transient("4.3.5", f"the password of the smart host {name} cannot be read: {wrong}")
    user = host.auth.user if host.auth else None
    ours = OwnCertificate(*host.client_certificate.files) if host.client_certificate else None
    return Peer(host.host, answer.addresses, host.port, host.tls, host.ca_file, user, password, ours=ours)
