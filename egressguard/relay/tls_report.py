"""How TLS went with other hosts: counted, and told to tlsrpt-collectd, which makes the reports of RFC 8460.

Contract
    Nobody waits for it and nothing fails by it: what the collector does not take at once is lost, and counted.
    Only domains that ask for reports (a TXT record under _smtp._tls) are told of, never smart hosts or next hops.
    Bounded: TELLING domains are asked for that record at once, DATAGRAM_OCTETS are sent.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter

from egressguard.relay.dns import TextAnswer
from egressguard.smtp.dial import KINDS, Peer, TlsTerms

TELLING = 200
DATAGRAM_OCTETS = 60_000
RESULTS = ("verified", "encrypted", "plain", "failed", "refused")
_GOOD = frozenset({"verified", "encrypted"})

_POLICY_TYPES = {"dane": 1, "mta-sts": 2}
_NO_POLICY = 9
_TROUBLES = {
    "starttls-not-supported": 201,
    "certificate-host-mismatch": 202,
    "certificate-not-trusted": 203,
    "certificate-expired": 204,
    "validation-failure": 205,
    "sts-policy-fetch-error": 301,
    "sts-policy-invalid": 302,
    "sts-webpki-invalid": 303,
    "tlsa-invalid": 304,
    "dnssec-invalid": 305,
    "dane-required": 306,
}
"""What libtlsrpt's protocol has for the result types of RFC 8460 s4.3."""


class TextLookup(Protocol):
    async def resolve_text(self, name: str) -> TextAnswer: ...


class TlsReport:
    """`collector` gives the path of the collector's socket, or None."""

    def __init__(self, lookups: TextLookup, collector: Callable[[], str | None], registry: CollectorRegistry) -> None:
        self._lookups = lookups
        self._collector = collector
        self._telling: set[asyncio.Task[None]] = set()
        self._sessions = Counter(
            "egressguard_delivery_tls_sessions_total",
            f"TLS with other hosts, by what was demanded ({', '.join(KINDS)}) and result ({', '.join(RESULTS)}).",
            ["policy", "result"],
            registry=registry,
        )
        self._reports = Counter(
            "egressguard_delivery_tls_reports_total",
            "Outcomes for the tlsrpt collector: sent, lost.",
            ["result"],
            registry=registry,
        )
        for kind in KINDS:
            for result in RESULTS:
                self._sessions.labels(kind, result)
        for result in ("sent", "lost"):
            self._reports.labels(result)

    def observe(self, peer: Peer, address: str, result: str) -> None:
        """smtp.client.Observe."""
        terms = peer.terms or _own_terms(peer)
        self._sessions.labels(terms.kind, result if result in RESULTS else "failed").inc()
        self._tell(peer, terms, address, result)

    def refused(self, peer: Peer, trouble: str) -> None:
        """relay.mx_tls.Told."""
        terms = peer.terms or _own_terms(peer)
        self._sessions.labels(terms.kind, "refused").inc()
        self._tell(peer, terms, "", trouble)

    async def settle(self) -> None:
        """Wait until everything is told."""
        while self._telling:
            await asyncio.wait(self._telling)

    def _tell(self, peer: Peer, terms: TlsTerms, address: str, result: str) -> None:
        path = self._collector()
        if path is None or not terms.domain:
            return
        if len(self._telling) >= TELLING:
            self._reports.labels("lost").inc()
            return
        task = asyncio.get_running_loop().create_task(self._ask_and_send(path, peer, terms, address, result))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _ask_and_send(self, path: str, peer: Peer, terms: TlsTerms, address: str, result: str) -> None:
        answer = await self._lookups.resolve_text(f"_smtp._tls.{terms.domain}")
        record = wanted_by(answer.texts)
        if record is None:
            return
        octets = datagram(record, peer.name, terms, address, result)
        self._reports.labels("sent" if octets and _send(path, octets) else "lost").inc()


def _own_terms(peer: Peer) -> TlsTerms:
    """Of a host that nobody but our own rules has demanded anything of."""
    return TlsTerms({"starttls": "verify", "implicit": "verify"}.get(peer.tls, peer.tls))


def wanted_by(texts: Sequence[bytes]) -> str | None:
    """The domain's TLSRPT record; None unless there is exactly one (RFC 8460 s3)."""
    records = [text for text in texts if text.startswith(b"v=TLSRPTv1;")]
    return records[0].decode("ascii") if len(records) == 1 and records[0].isascii() else None


def datagram(record: str, host: str, terms: TlsTerms, address: str, result: str) -> bytes | None:
    """One outcome in the collector's protocol (JSON); None if it is too long. `address` "" = it was not dialled."""
    trouble = terms.fault or ("" if result in _GOOD else result)
    of_sts = bool(terms.mx) or terms.fault.startswith("sts-")
    policy: dict[str, Any] = {
        "policy-type": _POLICY_TYPES.get("mta-sts" if of_sts else terms.kind, _NO_POLICY),
        "policy-domain": terms.domain,
    }
    if terms.text:
        policy["policy-string"] = terms.text
    if terms.mx:
        policy["mx-host"] = terms.mx
    if trouble:
        code = _TROUBLES.get("starttls-not-supported" if trouble == "plain" else trouble, 205)
        policy["failure-details"] = [{"c": code, "n": host, **({"r": address} if address else {})}]
    policy |= {"t": 1 if trouble else 0, "f": 1 if trouble else 0}
    octets = json.dumps({"d": terms.domain, "pr": record, "policies": [policy]}).encode()
    return octets if len(octets) <= DATAGRAM_OCTETS else None


def _send(path: str, octets: bytes) -> bool:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(octets, path)
    except OSError:
        return False
    return True
