"""The gate: the policy in the kernel, kept there, watched, and counted.

Contract
    `start` loads the table before it returns, or goes to plan mode: the ruleset is written to a file instead.
    A load that fails leaves the table that was there. `stop` leaves the table standing; `take_down` removes it.
    The table follows the interfaces and the local time; when somebody else changed it, that is told, counted, and
    mended where the policy says so.
    What was blocked or redirected is recorded at the bounded rate at which the kernel logs it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from egressguard.firewall import nft
from egressguard.firewall.contain import contains, render_contained
from egressguard.firewall.ears import Ears, Record
from egressguard.firewall.generation import read_generation
from egressguard.firewall.host import Host, read_inside_interfaces, read_own_addresses
from egressguard.firewall.metrics import GateMetrics
from egressguard.firewall.render import render_ruleset
from egressguard.firewall.table import FAMILIES, SEEN, TABLE, is_queued
from egressguard.firewall.verdicts import can_decide
from egressguard.observe.clock import utc_offset_minutes
from egressguard.policy.model import FlowRule, Policy

log = logging.getLogger(__name__)

WATCH_SECONDS = 10
COUNT_SECONDS = 2

AskContained = Callable[[], Awaitable[Mapping[str, float] | None]]
"""Address -> until (seconds since 1970) of the hosts that are shut out; None: whoever knows does not answer."""


async def _nobody() -> Mapping[str, float] | None:
    return None


class Gate:
    def __init__(
        self,
        policy: Policy,
        *,
        host: Host,
        record: Record,
        registry: CollectorRegistry,
        plan_path: Path,
        plan_only: bool = False,
        contained: AskContained = _nobody,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        """`host` has what the caller knows: ports and users; the rest is found out here."""
        self._policy = policy
        self._host = host
        self._record = record
        self._metrics = GateMetrics(registry, policy)
        self._ears = Ears(policy, self._metrics, record)
        self._plan_path = plan_path
        self._plan_only = plan_only
        self._watch_seconds = watch_seconds
        self._ask_contained = contained
        self._contained: Mapping[str, float] = {}
        self._capabilities = nft.Capabilities(False, "none", "not started")
        self._applying = asyncio.Lock()  # a reload and a change of interfaces never load their tables at once
        self._ruleset = ""
        self._generation = 0
        self._fingerprint = ""
        self._stood_down = False
        self._reason = ""
        self._drift = ""

    @property
    def enforcing(self) -> bool:
        return self._capabilities.may_change

    async def start(self) -> None:
        """Probe, load (or plan), and begin to listen. Raises NftError when the kernel refuses our ruleset."""
        self._capabilities = await self._probe()
        await self._apply(self._policy, await self._look())
        if self.enforcing:
            self._listen()
        mode = "enforcing" if self.enforcing else "plan"
        self._metrics.mode.labels(mode).set(1)
        log.info("packet plane ready", extra={"fields": self.status()})

    async def run(self) -> None:
        """Follow the interfaces, the clock and the kernel's counters until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count())
            group.create_task(self._watch())

    async def reload(self, policy: Policy) -> None:
        """Replace the table by another policy's; on an NftError the old table and policy stay."""
        async with self._applying:
            listening = self._ears.is_open
            self._ears.close()
            try:
                await self._apply(policy, self._host)
                self._policy = policy
                self._metrics.flows.policy = policy
                self._stood_down = False
            finally:
                if listening:
                    self._listen()

    async def stop(self) -> None:
        """Stop listening. The table stays in the kernel."""
        if self.enforcing:
            self._metrics.flows.update(await nft.read_counters())
        self._ears.close()

    async def stand_down(self) -> bool:
        """Remove the table, and do not take that for drift; the next reload puts it back. Raises NftError."""
        async with self._applying:
            self._stood_down = True
            self._ruleset = self._fingerprint = ""
            removed = await nft.delete() if self.enforcing else False
            self._metrics.flows.restarted()
        self._record("firewall.down", {"removed": removed})
        return removed

    def ruleset(self) -> str:
        """What is in the kernel, or would be: the text of the last transaction; "" after `stand_down`."""
        return self._ruleset

    async def check(self, policy: Policy) -> str:
        """The text that `policy` becomes here; where the kernel may be asked, it would take it. Raises NftError."""
        ruleset = render_ruleset(policy, self._host)
        if self.enforcing:
            await nft.check(ruleset)
        return ruleset

    def status(self) -> dict[str, Any]:
        """For `egressguard status` and the first lines of `run`."""
        mode = "enforcing" if self.enforcing else "plan"
        where = f"in the kernel: table inet {TABLE}" if self.enforcing else f"only planned: {self._plan_path}"
        summary = f"{_guarded(self._policy)} ({where})"
        if self._stood_down:
            summary = "the wall is down: `egressguard apply` puts it back"
        return {
            "mode": mode,
            "queue_backend": self._capabilities.queue,
            "revision": self._policy.revision,
            "inside_interfaces": sorted(self._host.inside_interfaces),
            "drift": self._drift,
            "reasons": self._reasons(),
            "summary": summary,
        }

    async def sources(self) -> dict[str, Any]:
        """Who was stopped, and who asks for mail servers: {"rows": sightings, "packets": source -> packets stopped}."""
        packets: dict[str, int] = {}
        for family, _, _ in FAMILIES if self.enforcing else ():
            packets |= await nft.read_set(f"{SEEN}_{family}")
        return {"rows": list(self._ears.sightings.rows()), "packets": packets}

    def _reasons(self) -> list[str]:
        """Why less than everything works, each with its cure."""
        reasons = [self._reason] if self._reason else []
        if self.enforcing and self._capabilities.queue == "none" and any(map(is_queued, self._policy.flows)):
            cure = "load nfnetlink_queue" if can_decide() else "install the Python package netfilterqueue"
            reasons.append(f"no NFQUEUE: flows that need thought do as their rule's `fail` says ({cure})")
        if self._drift:
            reasons.append(self._drift)
        return reasons + self._ears.reasons

    async def _probe(self) -> nft.Capabilities:
        if self._plan_only:
            found = nft.Capabilities(False, "none", "run as root for the real thing")
        else:
            found = await nft.probe()
        if not can_decide():
            found = replace(found, queue="none")
        if not found.may_change:
            self._reason = f"packet plane in plan mode, nothing is enforced: {found.why}"
        return found

    async def _look(self) -> Host:
        """The host as it is now."""
        return replace(
            self._host,
            inside_interfaces=await asyncio.to_thread(read_inside_interfaces),
            own_addresses=await asyncio.to_thread(read_own_addresses),
            utc_offset_minutes=utc_offset_minutes(time.time()),
            queue=self._capabilities.queue,
        )

    async def _apply(self, policy: Policy, host: Host) -> None:
        """Load the table, or write it down; `host` is taken over when that worked."""
        ruleset = render_ruleset(policy, host)
        if self.enforcing:
            await self._load(ruleset, policy)
        else:
            await asyncio.to_thread(self._plan_path.write_text, ruleset)
        self._host, self._ruleset = host, ruleset

    async def _load(self, ruleset: str, policy: Policy) -> None:
        if self._ruleset:  # the table is ours and not a former life's: keep what it counted
            self._metrics.flows.update(await nft.read_counters())
        try:
            await nft.load(ruleset, self._capabilities.queue, policy.site.packet_plane.queue_number)
        except nft.NftError:
            self._metrics.applied.labels("failed").inc()
            raise
        self._contained = {}  # a new table knows of nobody
        self._metrics.applied.labels("ok").inc()
        self._metrics.flows.restarted()
        self._metrics.flows.update(await nft.read_counters())
        self._generation = await asyncio.to_thread(read_generation)
        self._fingerprint = await nft.fingerprint()
        self._set_drift("")

    def _listen(self) -> None:
        self._ears.open(self._policy, self._host.inside_interfaces, self._capabilities.queue)

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            if self.enforcing and not self._stood_down:
                self._metrics.flows.update(await nft.read_counters())
                async with self._applying:
                    await self._contain()
            self._ears.count()

    async def _contain(self) -> None:
        """Bring the sets of contained hosts up to what the relay says; nobody answering changes nothing."""
        wanted = await self._ask_contained() if contains(self._policy) else None
        if wanted is None or wanted == self._contained or self._stood_down:
            return
        try:
            unchanged = await asyncio.to_thread(read_generation) == self._generation
            await nft.change(render_contained(wanted, time.time(), TABLE))
            self._contained = wanted
            if unchanged:  # else `_watch` has something to look at still
                self._generation = await asyncio.to_thread(read_generation)
        except (nft.NftError, OSError) as wrong:
            log.error("contained hosts are not shut out", extra={"fields": {"why": str(wrong)}})

    async def _watch(self) -> None:
        """Interfaces come and go, the clock changes to summer time, and others change tables."""
        while True:
            await asyncio.sleep(self._watch_seconds)
            async with self._applying:
                host = await self._look()
                if self._stood_down:
                    continue
                if host != self._host:
                    await self._follow(host)
                elif self.enforcing:
                    await self._look_for_drift()

    async def _follow(self, host: Host) -> None:
        fields = {"before": sorted(self._host.inside_interfaces), "now": sorted(host.inside_interfaces)}
        log.info("the interfaces, the addresses or the local time changed", extra={"fields": fields})
        try:
            await self._apply(self._policy, host)
        except nft.NftError as wrong:  # the old table stands, and the next look tries again
            log.error("the rules do not follow the interfaces", extra={"fields": {"why": str(wrong)}})
        self._ears.follow(self._host.inside_interfaces)

    async def _look_for_drift(self) -> None:
        """Compare the table with what was loaded, when any table of this kernel was changed since."""
        try:
            generation = await asyncio.to_thread(read_generation)
            if generation == self._generation:
                return
            found = await nft.fingerprint()
        except (OSError, nft.NftError) as wrong:
            log.error("drift cannot be looked for", extra={"fields": {"why": str(wrong)}})
            return
        self._generation = generation
        if found == self._fingerprint:
            self._set_drift("")  # another table, or whoever changed ours changed it back
            return
        what = "changed" if found else "removed"
        self._metrics.drifts.inc()
        self._set_drift(f"somebody else {what} table inet {TABLE}: `egressguard apply` loads it again")
        log.error(self._drift)
        self._record("firewall.drift", {"table": what, "mended": self._policy.site.packet_plane.mend_drift})
        if self._policy.site.packet_plane.mend_drift:
            await self._mend()

    async def _mend(self) -> None:
        try:
            await self._load(self._ruleset, self._policy)
            log.warning("table loaded again")
        except nft.NftError as wrong:
            log.error("the table could not be loaded again", extra={"fields": {"why": str(wrong)}})

    def _set_drift(self, words: str) -> None:
        self._drift = words
        self._metrics.drifted.set(1 if words else 0)


def _guarded(policy: Policy) -> str:
    """What the wall stops, in a few words: "port 25 from lan rejected, port 25 from guest redirected"."""
    words = {
        "reject": "rejected",
        "drop": "dropped",
        "redirect": "redirected into the relay",
        "tarpit": "held in the tarpit",
    }
    stops = [rule for rule in policy.flows if rule.action in words and not rule.staged]
    said = [f"{_what(rule)} from {'/'.join(rule.from_zone) or 'anywhere'} {words[rule.action]}" for rule in stops]
    return ", ".join(said) or "nothing: no flow rule stops anything"


def _what(rule: FlowRule) -> str:
    kind = "SMTP on " if rule.speaks else ""
    ports = f"port {', '.join(map(str, rule.port))}" if rule.port else f"all of {rule.protocol}"
    return f"{kind}{'any port' if rule.speaks and not rule.port else ports}"


async def take_down() -> bool:
    """Remove our table; False when there was none. Raises NftError."""
    return await nft.delete()
