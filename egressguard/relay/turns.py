"""Whose turn it is: which smart hosts a message may go to now, and what became of those that were tried.

Contract
    Smart hosts are taken in the order of the way; of one rank, by chance and weight. One that fails is left alone
    (relay.breaker), for all messages and ways at once, and the first one comes back as soon as it answers again.
    What would be more than a rate allows waits: an equal may take it, one of a later rank does not.
    Whoever has no turn waits, uncounted, until the time that he is told.
    A message whose smart host went away in the middle goes to another one soon.
    Each change of a smart host is logged, journalled and measured; what is kept is bounded by the rules.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from egressguard.mail.outcome import Outcome, transient
from egressguard.policy.model import Policy
from egressguard.policy.next_hop import is_next_hop
from egressguard.policy.pacing import destination_of
from egressguard.policy.routes import LOCAL, MX
from egressguard.relay.attempt import Way
from egressguard.relay.breaker import Circuit
from egressguard.relay.metrics import SmartHostMetrics
from egressguard.relay.pace import Heard, heard, is_loss
from egressguard.relay.rates import Quotas, Rates, quotas_of
from egressguard.relay.settling import Record
from egressguard.relay.smart_hosts import ranked
from egressguard.smtp.client import Patience, Peer, Send, Sent, Transaction

log = logging.getLogger(__name__)

SUSPENDED_SECONDS = 10.0
"""How long to wait before looking again whether a way's smart hosts are still suspended; `resume` ends it."""
AVOIDED_MESSAGES = 1000
LOGIN_REFUSED = "4.7.8"


def is_over_smart_hosts(way: Way) -> bool:
    return way.via[0] not in {LOCAL, MX} and not is_next_hop(way.via[0])


class Turns:
    """`suspended` has the names of smart hosts that somebody suspended; `returned` is called when one is back.

    Times are the caller's clock."""

    def __init__(
        self,
        policy: Policy,
        record: Record,
        metrics: SmartHostMetrics,
        suspended: Collection[str],
        returned: Callable[[], None],
        clock: Callable[[], float] = time.time,
        rates: Rates | None = None,
    ) -> None:
        self.rates = rates or Rates()
        self._record = record
        self._metrics = metrics
        self._suspended = suspended
        self._returned = returned
        self._clock = clock
        self._circuits: dict[str, Circuit] = {}
        self._quotas: dict[str, Quotas] = {}  # of those that have a rate
        self._avoid: OrderedDict[str, str] = OrderedDict()  # queue id -> the smart host that it was lost with
        self.take_policy(policy)

    def take_policy(self, policy: Policy) -> None:
        """The rules have changed: what is not in them is forgotten."""
        known, self._circuits = self._circuits, {}
        for name, host in policy.site.smart_hosts.items():
            circuit = self._circuits[name] = known.get(name, Circuit(host.breaker))
            circuit.settings = host.breaker
            self._metrics.known(name, up=not circuit.is_open)
        for name in known.keys() - self._circuits.keys():
            self._metrics.forget(name)
        site = policy.site
        rates = {name: host.rate for name, host in site.smart_hosts.items()}
        rates |= {_counted_as(name): destination.rate for name, destination in site.destinations.items()}
        self._quotas = {name: quotas for name, rate in rates.items() if (quotas := quotas_of(rate))}
        self.rates.keep(self._quotas)

    def turn(self, way: Way, queue_id: str, policy: Policy, chance: Callable[[], float]) -> Turn | float:
        """A turn for one attempt; or until when there is none."""
        if not is_over_smart_hosts(way):
            return self._by_destination(way, policy)
        now, recipients = self._clock(), len(way.forward_paths)
        free: list[str] = []
        waits: list[float] = []
        for rank in ranked(way.via, policy, chance):
            for name in rank:
                at = self._free_at(name, recipients, now)
                if at <= now:
                    free.append(name)
                else:
                    waits.append(at)
            if self._quotas and any(self._is_over_rate(name, recipients, now) for name in rank):
                break
        if not free:
            return min(waits)
        if self._avoid and (lost_with := self._avoid.pop(queue_id, None)) in free and len(free) > 1:
            free.remove(lost_with)
            free.append(lost_with)
        self._begin(free[0], recipients, now)
        names = tuple(free)
        return Turn(self, way if names == way.via else replace(way, via=names), way.via, queue_id)

    def _by_destination(self, way: Way, policy: Policy) -> Turn | float:
        found = destination_of(policy, way.domain) if way.via == (MX,) else None
        if found is None or (name := _counted_as(found[0])) not in self._quotas:
            return Turn(self, way)
        now, recipients = self._clock(), len(way.forward_paths)
        until = self.rates.free_at(name, self._quotas[name], recipients, now)
        if until > now:
            return until
        self._charge(name, recipients, now)
        return Turn(self, way, charged=name)

    def _free_at(self, name: str, recipients: int, now: float) -> float:
        """Of one smart host, whatever the reason."""
        if name in self._suspended:
            return now + SUSPENDED_SECONDS
        circuit, quotas = self._circuits.get(name), self._quotas.get(name)
        at = now if circuit is None else circuit.free_at(now)  # one that left the rules: the attempt will say so
        return at if quotas is None else max(at, self.rates.free_at(name, quotas, recipients, now))

    def _is_over_rate(self, name: str, recipients: int, now: float) -> bool:
        """Whether it would take mail, were there not its rate."""
        circuit, quotas = self._circuits.get(name), self._quotas.get(name)
        if circuit is None or quotas is None or name in self._suspended:
            return False
        return circuit.free_at(now) <= now < self.rates.free_at(name, quotas, recipients, now)

    def _begin(self, name: str, recipients: int, now: float) -> None:
        if (circuit := self._circuits.get(name)) is not None:
            circuit.begin(now)
        self._charge(name, recipients, now)

    def _charge(self, name: str, recipients: int, now: float, times: int = 1) -> None:
        if (quotas := self._quotas.get(name)) is not None:
            self.rates.charge(name, quotas, recipients, now, times=times)

    # What a turn tells.

    def is_free(self, name: str, recipients: int) -> bool:
        now = self._clock()
        return self._free_at(name, recipients, now) <= now

    def begin(self, name: str, recipients: int) -> None:
        self._begin(name, recipients, self._clock())

    def withdraw(self, name: str, recipients: int) -> None:
        """Nothing of a message was offered to it after all."""
        self._charge(name, recipients, self._clock(), times=-1)

    def unused(self, name: str) -> None:
        if (circuit := self._circuits.get(name)) is not None:
            circuit.withdraw()

    def answered(self, name: str) -> None:
        self._metrics.heard(name, answered=True)
        circuit = self._circuits.get(name)
        if circuit is None:
            return
        since = circuit.since
        if circuit.succeeded():
            fields = {"smart_host": name, "seconds": round(self._clock() - since)}
            log.warning("a smart host is back", extra={"fields": fields})
            self._record("smart_host.back", fields)
            self._metrics.known(name, up=True)
            self._returned()

    def failed(self, name: str, outcome: Outcome) -> None:
        self._metrics.heard(name, answered=False)
        refused = outcome.status == LOGIN_REFUSED
        if refused:
            self._metrics.login_refused(name)
        circuit, now = self._circuits.get(name), self._clock()
        if circuit is None:
            return
        began = not circuit.is_open
        if circuit.failed(now, outcome.text, for_sure=refused):
            fields = {"smart_host": name, "seconds": round(circuit.until - now), "why": outcome.text}
            log.warning("a smart host is left alone", extra={"fields": fields})
            self._metrics.known(name, up=False)
            if began:
                self._record("smart_host.left_alone", fields)

    def lost(self, name: str, queue_id: str) -> None:
        """This message's smart host went away in the middle."""
        self._avoid[queue_id] = name
        if len(self._avoid) > AVOIDED_MESSAGES:
            self._avoid.popitem(last=False)

    # What people ask.

    def rows(self) -> list[dict[str, Any]]:
        now = self._clock()
        return [
            {
                "smart_host": name,
                "up": not circuit.is_open,
                "left_alone_seconds": round(max(circuit.until - now, 0)),
                "down_seconds": round(now - circuit.since) if circuit.is_open else 0,
                "why": circuit.why,
                "suspended": name in self._suspended,
            }
            for name, circuit in self._circuits.items()
        ]

    def troubles(self) -> list[str]:
        """One line for each that gets no mail now."""
        return [
            f"smart host {row['smart_host']} is left alone for {row['left_alone_seconds']} s more, down for"
            f" {row['down_seconds']} s: {row['why']}"
            for row in self.rows()
            if not row["up"]
        ]


class Turn:
    """One attempt's turn: `way` has the smart hosts that may be tried, in order. `watching` tells what became of each.

    `transport` is who was tried last; "" = nobody was. `all_names` are those of the way whoever may be tried now."""

    def __init__(
        self,
        turns: Turns,
        way: Way,
        all_names: tuple[str, ...] = (),
        queue_id: str = "",
        charged: str = "",
    ) -> None:
        self.way = way
        self.transport = ""
        self._turns = turns
        self._recipients = len(way.forward_paths)
        self._all_names = all_names
        self._queue_id = queue_id
        self._charged = charged
        self._found: list[str] = []  # those that have an address and a password
        self._lost = False
        self._through: Send

    def watching(self, send: Send) -> Send:
        self._through = send
        return self._send

    async def _send(self, transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
        name, turns = peer.smart_host, self._turns
        if not name:
            return await self._through(transaction, peer, ehlo_name, patience)
        self._found.append(name)
        if name != self.way.via[0]:
            if not turns.is_free(name, self._recipients):
                words = f"the smart host {name} is left alone now, or has had what it may have"
                return Sent(dict.fromkeys(transaction.forward_paths, transient("4.4.5", words)), begun=False)
            turns.begin(name, self._recipients)
        self.transport = name
        sent = await self._through(transaction, peer, ehlo_name, patience)
        outcomes = sent.outcomes.values()
        result = heard(outcomes, begun=sent.begun, requiretls=transaction.requiretls)
        if result is Heard.ANSWER:
            turns.answered(name)
        elif result is Heard.SILENCE:
            turns.failed(name, next((o for o in outcomes if is_loss(o)), next(iter(outcomes))))
            self._lost = sent.begun
        else:
            turns.unused(name)
        if not sent.begun:
            turns.withdraw(name, self._recipients)
        return sent

    def ended(self, sent: Sent) -> bool:
        """The attempt is over. True when it is worth another one soon, over another smart host."""
        if not self._all_names:
            if self._charged and not sent.begun:
                self._turns.withdraw(self._charged, self._recipients)
            return False
        self._tell_of_unreachable(sent)
        others = [name for name in self._all_names if name != self.transport]
        if not (self._lost and any(self._turns.is_free(name, self._recipients) for name in others)):
            return False
        self._turns.lost(self.transport, self._queue_id)
        return True

    def cut_off(self) -> None:
        """A fault of ours ended the attempt: whoever was to be probed can be so by another."""
        self._turns.unused(self.transport or self.way.via[0])

    def _tell_of_unreachable(self, sent: Sent) -> None:
        """Those that should have been dialled, and were not: DNS or our own files keep us from it."""
        via, dialled = self.way.via, self.transport
        words = (
            transient("4.3.5", "no address, or no password to be read")
            if dialled
            else next(iter(sent.outcomes.values()))
        )
        for name in via[: via.index(dialled)] if dialled else via:
            if name not in self._found:
                self._turns.failed(name, words)
        if via[0] not in self._found:
            self._turns.withdraw(via[0], self._recipients)


def _counted_as(destination: str) -> str:
    """Whom the rate of one of `site.destinations` is counted for."""
    return f"destination {destination}"
