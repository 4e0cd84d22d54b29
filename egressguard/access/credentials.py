"""The account store as Dovecot needs it beside the password file itself: SCRAM's verifiers, and who is shut out.

Contract
    Pure. What is rendered holds no name and no address that is not one: nobody writes lines into Dovecot's files.
    A disabled account has no verifier here; its password cannot fit (store.passwd).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Iterable, Mapping

from egressguard.store.passwd import PasswdEntry
from egressguard.store.verifier import SCHEME, Verifier

_REST = "::::::"


def render_scram(verifiers: Iterable[tuple[str, Verifier]]) -> str:
    """A passwd-file of Dovecot's with SCRAM-SHA-256 credentials."""
    return "".join(f"{name}:{{{SCHEME}}}{_credential(verifier)}{_REST}\n" for name, verifier in verifiers)


def _credential(verifier: Verifier) -> str:
    octets = (verifier.salt, verifier.stored_key, verifier.server_key)
    return ",".join([str(verifier.iterations), *(base64.b64encode(one).decode() for one in octets)])


def render_shut_out(addresses: Iterable[str]) -> str:
    """A passwd-file whose names are digests of addresses: IPv6's colons would end a field."""
    return "".join(f"{address_key(address)}:{{PLAIN}}{_REST}\n" for address in addresses)


def address_key(address: str) -> str:
    """What Dovecot's `%Mr` and `%{remote_ip | md5}` are. Raises ValueError for what is no address."""
    ipaddress.ip_address(address)
    return hashlib.md5(address.encode(), usedforsecurity=False).hexdigest()


def lost_access(before: Mapping[str, PasswdEntry], now: Mapping[str, PasswdEntry]) -> list[str]:
    """Who may not go on with a session from before: removed, disabled, or with another password now."""
    return sorted(
        name
        for name, entry in before.items()
        if not entry.disabled
        and ((found := now.get(name)) is None or found.disabled or found.password_hash != entry.password_hash)
    )
