"""MTA-STS policies of domains: looked up, fetched, kept in memory and on disk until they are over (RFC 8461).

Contract
    A policy that was fetched holds for its max_age, whatever DNS or the web server say meanwhile (s5.1): who can
    block them cannot take it away. A new id in DNS, or an age of REFRESH_SECONDS, has it fetched anew.
    A fetch that fails is not tried again for QUIET_SECONDS (s3.3); all who want one domain's wait for the same.
    Bounded: KEPT_DOMAINS. Never raises for what others do; a disk that fails costs the memory of it after a restart.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from egressguard.relay.dns import TextAnswer
from egressguard.relay.route import AddressAnswer
from egressguard.relay.sts_fetch import FetchFailed, fetch_policy
from egressguard.relay.sts_policy import StsPolicy, parse_policy, record_id
from egressguard.store import durable

log = logging.getLogger(__name__)

KEPT_DOMAINS = 10_000
REFRESH_SECONDS = 24 * 3600.0
QUIET_SECONDS = 300.0
DOMAIN_CHARACTERS = 253 - len("_mta-sts.")
_FILE_OCTETS = 256 * 1024


class Lookups(Protocol):
    async def resolve_text(self, name: str) -> TextAnswer: ...

    async def resolve_addresses(self, host: str) -> AddressAnswer: ...


Fetch = Callable[[str, Lookups, str | None], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A domain's policy, as it was fetched at a time for an id."""

    domain: str
    id: str
    fetched_at: float
    policy: StsPolicy

    @property
    def age_seconds(self) -> float:
        """What is over at once would be fetched for each message."""
        return max(self.policy.max_age_seconds, QUIET_SECONDS)

    def holds(self, now: float) -> bool:
        return now < self.fetched_at + self.age_seconds

    def is_fresh(self, record: str, now: float) -> bool:
        """Nothing says that there is another one."""
        return self.id == record and now - self.fetched_at < min(REFRESH_SECONDS, self.age_seconds / 2)


@dataclass(frozen=True, slots=True)
class Sts:
    """What holds for a domain: its policy, or None; `fault` in the words of RFC 8460 s4.3.2.2, "" = none."""

    policy: StsPolicy | None = None
    fault: str = ""


class MtaSts:
    """`directory` None: nothing is kept on disk."""

    def __init__(
        self,
        lookups: Lookups,
        directory: Path | None = None,
        *,
        fetch: Fetch = fetch_policy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._lookups = lookups
        self._directory = directory
        self._fetch = fetch
        self._clock = clock
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._quiet: OrderedDict[str, tuple[float, str]] = OrderedDict()  # until when, after which fault
        self._fetching: dict[str, asyncio.Task[str]] = {}

    def load(self) -> None:
        """What was kept before. Blocks."""
        try:
            if self._directory is not None:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                self._load(self._directory)
        except OSError as wrong:
            log.error("MTA-STS policies of before cannot be read", extra={"fields": {"why": str(wrong)}})

    def _load(self, directory: Path) -> None:
        """Raises OSError."""
        for path in sorted(directory.iterdir()):
            found = _read(path)
            if found is None or not found.holds(self._clock()) or len(self._kept) >= KEPT_DOMAINS:
                path.unlink(missing_ok=True)
            else:
                self._kept[found.domain] = found

    async def policy_for(self, domain: str, ca_file: str | None = None) -> Sts:
        """`domain` in ASCII, lower case."""
        if len(domain) > DOMAIN_CHARACTERS:
            return Sts()
        record = record_id((await self._lookups.resolve_text(f"_mta-sts.{domain}")).texts)
        kept, now = self._holding(domain), self._clock()
        if record is None or (kept is not None and kept.is_fresh(record, now)):
            return Sts(kept.policy if kept else None)
        fault = await self._renewed(domain, record, ca_file)
        kept = self._holding(domain)
        return Sts(kept.policy) if kept else Sts(fault=fault)

    def _holding(self, domain: str) -> Kept | None:
        kept = self._kept.get(domain)
        if kept is None:
            return None
        if not kept.holds(self._clock()):
            del self._kept[domain]
            return None
        self._kept.move_to_end(domain)
        return kept

    async def _renewed(self, domain: str, record: str, ca_file: str | None) -> str:
        """Fetch it unless that failed just now; the fault, or ""."""
        until, fault = self._quiet.get(domain, (0.0, ""))
        if self._clock() < until:
            return fault
        fetching = self._fetching.get(domain)
        if fetching is None:
            fetching = self._fetching[domain] = asyncio.create_task(self._fetched(domain, record, ca_file))
            fetching.add_done_callback(lambda _task: self._fetching.pop(domain, None))
        return await asyncio.shield(fetching)

    async def _fetched(self, domain: str, record: str, ca_file: str | None) -> str:
        try:
            policy = parse_policy(await self._fetch(domain, self._lookups, ca_file))
            if policy is None:
                raise FetchFailed("that is no policy", "sts-policy-invalid")
        except FetchFailed as failed:
            fields = {"domain": domain, "why": str(failed)}
            log.info("an MTA-STS policy cannot be had", extra={"fields": fields})
            self._be_quiet(domain, failed.trouble)
            return failed.trouble
        self._quiet.pop(domain, None)
        await self._keep(Kept(domain, record, self._clock(), policy))
        return ""

    def _be_quiet(self, domain: str, fault: str) -> None:
        self._quiet[domain] = (self._clock() + QUIET_SECONDS, fault)
        self._quiet.move_to_end(domain)
        if len(self._quiet) > KEPT_DOMAINS:
            self._quiet.popitem(last=False)

    async def _keep(self, kept: Kept) -> None:
        self._kept[kept.domain] = kept
        self._kept.move_to_end(kept.domain)
        oldest = self._kept.popitem(last=False)[0] if len(self._kept) > KEPT_DOMAINS else None
        if self._directory is None:
            return
        try:
            await asyncio.to_thread(_write, self._directory, kept, oldest)
        except OSError as wrong:
            log.error("an MTA-STS policy is not kept on disk", extra={"fields": {"why": str(wrong)}})


def _place(directory: Path, domain: str) -> Path:
    return directory / f"{hashlib.sha256(domain.encode()).hexdigest()}.json"


def _write(directory: Path, kept: Kept, oldest: str | None) -> None:
    """Raises OSError."""
    text = "\n".join(kept.policy.lines)
    fields = {"domain": kept.domain, "id": kept.id, "fetched_at": kept.fetched_at, "policy": text}
    durable.put(_place(directory, kept.domain), json.dumps(fields).encode())
    if oldest is not None:
        _place(directory, oldest).unlink(missing_ok=True)


def _read(path: Path) -> Kept | None:
    """None for what is not ours or not whole. Raises OSError."""
    with path.open("rb") as file:
        octets = file.read(_FILE_OCTETS)
    try:
        fields = json.loads(octets)
        policy = parse_policy(fields["policy"].encode())
        return Kept(str(fields["domain"]), str(fields["id"]), float(fields["fetched_at"]), policy) if policy else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
