"""Everything by which the gate hears: NFLOG for what the kernel did, NFQUEUE for what it asks, DNS for host names.

Contract
    `open` never raises: what cannot be listened to is a reason, with its cure, and the wall stands all the same.
    Between `close` and the next `open` nobody gives verdicts: a mark names a rule of one policy only. TCP asks again.
    Sightings live through both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from egressguard.firewall.flow_classes import FlowClasses, Seen
from egressguard.firewall.host import QueueBackend
from egressguard.firewall.metrics import GateMetrics
from egressguard.firewall.names import Names
from egressguard.firewall.nflog import NflogReader, Observation
from egressguard.firewall.sightings import Sightings
from egressguard.firewall.table import (
    BUILT_IN_RULES,
    PASSED,
    QUESTION,
    QUESTION_SNAPLEN,
    REDIRECTED,
    WOULD,
    is_queued,
)
from egressguard.firewall.verdicts import Verdicts
from egressguard.net.dns_question import mx_names
from egressguard.net.flow import Flow, Protocol
from egressguard.net.headers import Packet
from egressguard.net.speech import speaks
from egressguard.observe.clock import local_moment
from egressguard.policy.decision import FlowAction, FlowDecision
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy
from egressguard.policy.networks import zones_of
from egressguard.policy.recorded import FlowFacts

Record = Callable[[str, Mapping[str, object]], None]
_KINDS = {REDIRECTED: "flow.redirected", WOULD: "flow.would"}


class Ears:
    def __init__(self, policy: Policy, metrics: GateMetrics, record: Record) -> None:
        self._policy = policy
        self._inside: frozenset[str] = frozenset()
        self._metrics = metrics
        self.sightings = Sightings(record)
        self._classes = FlowClasses(record)
        self._actions = _actions(policy)
        self._hosts = _hosts(policy)
        self.reasons: list[str] = []
        self._names: Names | None = None
        self._reader: NflogReader | None = None
        self._verdicts: list[Verdicts] = []

    @property
    def is_open(self) -> bool:
        return self._names is not None

    def open(self, policy: Policy, inside: frozenset[str], queue: QueueBackend) -> None:
        self._policy, self._inside, self.reasons = policy, inside, []
        self._actions, self._hosts = _actions(policy), _hosts(policy)
        plane = policy.site.packet_plane
        try:
            self._reader = NflogReader(plane.nflog_group, self._observe, QUESTION_SNAPLEN)
            self._reader.start()
        except OSError as wrong:
            self.reasons.append(f"blocked flows are counted but not journaled: {wrong.strerror or wrong}")
        self._names = Names(policy.site.resolvers)
        if queue == "none":
            return
        fails = {rule.fail for rule in policy.flows if is_queued(rule)}
        for fail, number in (("closed", plane.queue_number), ("open", plane.queue_number + 1)):
            if fail in fails:
                self._listen_to_queue(number, fail_open=fail == "open")

    def _listen_to_queue(self, number: int, *, fail_open: bool) -> None:
        try:
            verdicts = Verdicts(
                number,
                self._policy,
                self._surroundings(),
                self._observe_verdict,
                fail_open=fail_open,
                note=self._note_verdicts,
            )
            verdicts.start()
        except OSError as wrong:  # most likely another program's
            happens = "pass" if fail_open else "are dropped"
            self.reasons.append(f"NFQUEUE {number}: {wrong}; flows that need thought {happens}")
        else:
            self._verdicts.append(verdicts)

    def follow(self, inside: frozenset[str]) -> None:
        """Other interfaces are inside now."""
        self._inside = inside
        for verdicts in self._verdicts:
            verdicts.follow(self._surroundings())

    def close(self) -> None:
        for listener in (self._reader, *self._verdicts, self._names):
            if listener is not None:
                listener.close()
        self._reader, self._verdicts, self._names = None, [], None
        self.sightings.flush(time.time())
        self._classes.close(time.time())

    def count(self) -> None:
        """Bring journal and metrics up to what was heard."""
        for verdicts in self._verdicts:
            verdicts.settle()
        self.sightings.flush(time.time())
        self._classes.flush(time.time())
        self._metrics.lost_classes.set(self._classes.lost)
        if self._reader is not None:
            self._metrics.lost.set(self._reader.lost)

    def _surroundings(self) -> Surroundings:
        assert self._names is not None
        return Surroundings(self._inside, self._names.addresses_of, lambda: local_moment(time.time()))

    def _observe(self, seen: Observation) -> None:
        if seen.action == QUESTION:
            self._hear_question(seen)
            return
        if seen.action != WOULD:
            self._note_class(seen)
        if seen.action == PASSED:
            return
        fields = self._fields(seen.packet, seen.rule, seen.interface) | {"mac": seen.mac}
        self.sightings.see(time.time(), _KINDS.get(seen.action, "flow.blocked"), _place(seen.packet), fields)

    def _hear_question(self, seen: Observation) -> None:
        """`seen.rule` is the zone that the question came from."""
        for name in mx_names(seen.payload):
            self._metrics.mx_questions.labels(seen.rule).inc()
            fields = self._fields(seen.packet, "", seen.interface) | {"mac": seen.mac, "name": name}
            self.sightings.see(time.time(), "dns.mx", name, fields)

    def _note_class(self, seen: Observation) -> None:
        """What the kernel decided. Which rule let a connection pass it does not say: the same policy is asked."""
        packet, now = seen.packet, time.time()
        said = speaks(seen.payload) if packet.protocol is Protocol.TCP else ""
        action, rule = self._actions.get(seen.rule, "reject"), seen.rule
        if seen.action == PASSED:
            flow = replace(packet.flow(seen.interface), source_mac=seen.mac, speaks=said)
            decision = decide_flow(self._policy, flow, self._surroundings())
            action, rule = "allow", decision.rule if decision.action is FlowAction.ALLOW else ""
        self._classes.see(now, _seen(packet, seen.interface, seen.mac, said, action, rule), self._facts)

    def _facts(self, seen: Seen) -> FlowFacts:
        protocol = Protocol(seen.protocol)
        flow = Flow(
            seen.source, seen.destination, seen.port, seen.interface, protocol, source_mac=seen.mac, speaks=seen.speaks
        )
        return FlowFacts(flow, seen.action, seen.rule, seen.interface in self._inside, self._hosts_of(seen))

    def _hosts_of(self, seen: Seen) -> Mapping[str, bool]:
        """Which host names of rules the destination belongs to, as far as is known now."""
        assert self._names is not None
        answers = {name: self._names.addresses_of(name) for name in self._hosts}
        return {name: seen.destination in found for name, found in answers.items() if found is not None}

    def _note_verdicts(self, packet: Packet, interface: str, mac: str, decision: FlowDecision, count: int) -> None:
        if decision.action is not None:
            seen = _seen(packet, interface, mac, "", decision.action.value, decision.rule)
            self._classes.see(time.time(), seen, self._facts, count)

    def _observe_verdict(self, packet: Packet, interface: str, decision: FlowDecision) -> None:
        verdict = "unknown" if decision.action is None else decision.action.value
        self._metrics.verdict(verdict)
        if decision.action not in {None, FlowAction.ALLOW}:
            fields = self._fields(packet, decision.rule, interface)
            self.sightings.see(time.time(), "flow.blocked", _place(packet), fields)

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


def _seen(packet: Packet, interface: str, mac: str, said: str, action: str, rule: str) -> Seen:
    protocol = packet.protocol.value
    return Seen(
        packet.source, packet.destination, packet.destination_port, protocol, interface, mac, said, action, rule
    )


def _actions(policy: Policy) -> dict[str, str]:
    """Rule -> what happens to a packet that it stops."""
    return BUILT_IN_RULES | {rule.name: rule.action for rule in policy.flows}


def _hosts(policy: Policy) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for rule in policy.flows if is_queued(rule) for name in rule.destination_host))


def _place(packet: Packet) -> str:
    host = f"[{packet.destination}]" if packet.destination.version == 6 else str(packet.destination)
    return f"{host}:{packet.destination_port}" if packet.destination_port else f"{host} {packet.protocol.value}"
