"""The gate: the policy in the kernel, kept there, watched, and counted.

Contract
    `start` loads the table before it returns, or goes to plan mode: the ruleset is written to a file instead.
    A load that fails leaves the table that was there. `stop` leaves the table standing; `take_down` removes it.
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
from egressguard.firewall.host import Host, read_inside_interfaces
from egressguard.firewall.metrics import GateMetrics
from egressguard.firewall.names import Names
from egressguard.firewall.nflog import NflogReader, Observation
from egressguard.firewall.render import LOG_SNAPLEN, REDIRECTED, TABLE, WOULD, render_ruleset
from egressguard.firewall.verdicts import Verdicts, can_decide
from egressguard.net.headers import Packet
from egressguard.policy.decision import FlowAction, FlowDecision
from egressguard.policy.flows import Surroundings
from egressguard.policy.model import FlowRule, Policy
from egressguard.policy.networks import zones_of

log = logging.getLogger(__name__)

WATCH_SECONDS = 10
COUNT_SECONDS = 2

Record = Callable[[str, Mapping[str, object]], None]
AskContained = Callable[[], Awaitable[Mapping[str, float] | None]]
"""Address -> until (seconds since 1970) of the hosts that are shut out; None: whoever knows does not answer."""


async def _nobody() -> Mapping[str, float] | None:
    return None


class Gate:
    def __init__(
        self,
        policy: Policy,
        *,
        redirect_port: int | None,
        relay_uid: int | None,
        record: Record,
        registry: CollectorRegistry,
        plan_path: Path,
        plan_only: bool = False,
        contained: AskContained = _nobody,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self._policy = policy
        self._redirect_port = redirect_port
        self._relay_uid = relay_uid
        self._record = record
        self._metrics = GateMetrics(registry, policy)
        self._plan_path = plan_path
        self._plan_only = plan_only
        self._watch_seconds = watch_seconds
        self._ask_contained = contained
        self._contained: Mapping[str, float] = {}
        self._capabilities = nft.Capabilities(False, "none", "not started")
        self._inside: frozenset[str] = frozenset()
        self._applying = asyncio.Lock()  # a reload and a change of interfaces never load their tables at once
        self._loaded = False
        self._plan_reason = ""
        self._deaf_reasons: list[str] = []
        self._names: Names | None = None
        self._reader: NflogReader | None = None
        self._verdicts: Verdicts | None = None

    @property
    def enforcing(self) -> bool:
        return self._capabilities.may_change

    async def start(self) -> None:
        """Probe, load (or plan), and begin to listen. Raises NftError when the kernel refuses our ruleset."""
        self._capabilities = await self._probe()
        await self._apply(self._policy, await asyncio.to_thread(read_inside_interfaces))
        if self.enforcing:
            self._listen()
        mode = "enforcing" if self.enforcing else "plan"
        self._metrics.mode.labels(mode).set(1)
        log.info("packet plane ready", extra={"fields": self.status()})

    async def run(self) -> None:
        """Follow the interfaces and the kernel's counters until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count())
            group.create_task(self._watch())

    async def reload(self, policy: Policy) -> None:
        """Replace the table by another policy's; on an NftError the old table and policy stay.

        Nobody gives verdicts in between: a mark names a rule of one policy only. TCP asks again.
        """
        async with self._applying:
            listening = self._names is not None
            self._close_listeners()
            try:
                await self._apply(policy, self._inside)
                self._policy = policy
                self._metrics.flows.policy = policy
            finally:
                if listening:
                    self._listen()

    async def stop(self) -> None:
        """Stop listening. The table stays in the kernel."""
        if self.enforcing:
            self._metrics.flows.update(await nft.read_counters())
        self._close_listeners()

    def status(self) -> dict[str, Any]:
        """For `egressguard status` and the first lines of `run`."""
        mode = "enforcing" if self.enforcing else "plan"
        where = "in the kernel: table inet egressguard" if self.enforcing else f"only planned: {self._plan_path}"
        return {
            "mode": mode,
            "queue_backend": self._capabilities.queue,
            "revision": self._policy.revision,
            "inside_interfaces": sorted(self._inside),
            "reasons": self._reasons(),
            "summary": f"{_guarded(self._policy)} ({where})",
        }

    def _reasons(self) -> list[str]:
        """Why less than everything works, each with its cure."""
        reasons = [self._plan_reason] if self._plan_reason else []
        if self.enforcing and self._capabilities.queue == "none" and _thinks(self._policy):
            cure = "load nfnetlink_queue" if can_decide() else "install the Python package netfilterqueue"
            reasons.append(f"no NFQUEUE: flows that need thought are dropped ({cure})")
        return reasons + self._deaf_reasons

    async def _probe(self) -> nft.Capabilities:
        if self._plan_only:
            found = nft.Capabilities(False, "none", "run as root for the real thing")
        else:
            found = await nft.probe()
        if not can_decide():
            found = replace(found, queue="none")
        if not found.may_change:
            self._plan_reason = f"packet plane in plan mode, nothing is enforced: {found.why}"
        return found

    async def _apply(self, policy: Policy, inside: frozenset[str]) -> None:
        """Load the table, or write it down; `inside` is taken over when that worked."""
        ruleset = render_ruleset(policy, Host(inside, self._redirect_port, self._relay_uid, self._capabilities.queue))
        if self.enforcing:
            await self._load(ruleset, policy)
        else:
            await asyncio.to_thread(self._plan_path.write_text, ruleset)
        self._inside = inside

    async def _load(self, ruleset: str, policy: Policy) -> None:
        if self._loaded:  # the table is ours and not a former life's: keep what it counted
            self._metrics.flows.update(await nft.read_counters())
        try:
            await nft.load(ruleset, self._capabilities.queue, policy.site.packet_plane.queue_number)
        except nft.NftError:
            self._metrics.applied.labels("failed").inc()
            raise
        self._loaded = True
        self._contained = {}  # a new table knows of nobody
        self._metrics.applied.labels("ok").inc()
        self._metrics.flows.restarted()
        self._metrics.flows.update(await nft.read_counters())

    def _listen(self) -> None:
        plane = self._policy.site.packet_plane
        self._deaf_reasons = []
        try:
            self._reader = NflogReader(plane.nflog_group, self._observe, LOG_SNAPLEN)
            self._reader.start()
        except OSError as wrong:
            self._deaf_reasons.append(f"blocked flows are counted but not journaled: {wrong.strerror or wrong}")
        self._names = Names(self._policy.site.resolvers)
        if self._capabilities.queue != "none" and _thinks(self._policy):
            self._listen_to_queue(plane.queue_number)

    def _listen_to_queue(self, number: int) -> None:
        try:
            self._verdicts = Verdicts(number, self._policy, self._surroundings(), self._observe_verdict)
            self._verdicts.start()
        except OSError as wrong:  # most likely another program's
            self._deaf_reasons.append(f"NFQUEUE {number}: {wrong}; flows that need thought are dropped")

    def _close_listeners(self) -> None:
        for listener in (self._reader, self._verdicts, self._names):
            if listener is not None:
                listener.close()
        self._reader = self._verdicts = self._names = None

    def _surroundings(self) -> Surroundings:
        assert self._names is not None
        return Surroundings(self._inside, self._names.addresses_of)

    def _observe(self, seen: Observation) -> None:
        kind = {REDIRECTED: "flow.redirected", WOULD: "flow.would"}.get(seen.action, "flow.blocked")
        self._record(kind, self._fields(seen.packet, seen.rule, seen.interface) | {"mac": seen.mac})

    def _observe_verdict(self, packet: Packet, interface: str, decision: FlowDecision) -> None:
        verdict = "unknown" if decision.action is None else decision.action.value
        self._metrics.verdicts.labels(verdict).inc()
        if decision.action not in {None, FlowAction.ALLOW}:
            self._record("flow.blocked", self._fields(packet, decision.rule, interface))

    def _fields(self, packet: Packet, rule: str, interface: str) -> dict[str, object]:
        zones = zones_of(self._policy, packet.source, interface, self._inside) if interface else frozenset({"gateway"})
        return {
            "rule": rule,
            "source": str(packet.source),
            "destination": str(packet.destination),
            "port": packet.destination_port,
            "protocol": packet.protocol.value,
            "interface": interface,
            "zones": sorted(zones),
        }

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            if self.enforcing:
                self._metrics.flows.update(await nft.read_counters())
                async with self._applying:
                    await self._contain()
            if self._reader is not None:
                self._metrics.lost.set(self._reader.lost)

    async def _contain(self) -> None:
        """Bring the sets of contained hosts up to what the relay says; nobody answering changes nothing."""
        wanted = await self._ask_contained() if contains(self._policy) else None
        if wanted is None or wanted == self._contained:
            return
        try:
            await nft.change(render_contained(wanted, time.time(), TABLE))
            self._contained = wanted
        except nft.NftError as wrong:
            log.error("contained hosts are not shut out", extra={"fields": {"why": str(wrong)}})

    async def _watch(self) -> None:
        """Interfaces come and go; "@inside" follows them."""
        while True:
            await asyncio.sleep(self._watch_seconds)
            inside = await asyncio.to_thread(read_inside_interfaces)
            if inside == self._inside:
                continue
            fields = {"before": sorted(self._inside), "now": sorted(inside)}
            log.info("the inside interfaces changed", extra={"fields": fields})
            async with self._applying:
                await self._follow(inside)

    async def _follow(self, inside: frozenset[str]) -> None:
        try:
            await self._apply(self._policy, inside)
        except nft.NftError as wrong:  # the old table stands, and the next look tries again
            log.error("the rules do not follow the interfaces", extra={"fields": {"why": str(wrong)}})
        if self._verdicts is not None:
            self._verdicts.surroundings = self._surroundings()


def _thinks(policy: Policy) -> bool:
    """Whether a rule needs the daemon's verdict."""
    return any(rule.decide == "queue" and not rule.staged for rule in policy.flows)


def _guarded(policy: Policy) -> str:
    """What the wall stops, in a few words: "port 25 from lan rejected, port 25 from guest redirected"."""
    words = {"reject": "rejected", "drop": "dropped", "redirect": "redirected into the relay"}
    stops = [rule for rule in policy.flows if rule.action in words and not rule.staged]
    said = [f"{_ports(rule)} from {'/'.join(rule.from_zone) or 'anywhere'} {words[rule.action]}" for rule in stops]
    return ", ".join(said) or "nothing: no flow rule stops anything"


def _ports(rule: FlowRule) -> str:
    return f"port {', '.join(map(str, rule.port))}" if rule.port else f"all of {rule.protocol}"


async def take_down() -> bool:
    """Remove our table; False when there was none. Raises NftError."""
    return await nft.delete()
