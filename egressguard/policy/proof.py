"""Whether invariants hold of all packets, and a packet of which one does not.

Contract
    Pure and exact: a proof is about every packet there is, not about a sample of them.
    Who is asked says which packets pass: the rules themselves (`prove_rules`), or a ruleset that was read back.
    `never` is about packets that open flows or belong to who opened them; answers are judged by nobody.
    Invariants that nobody has to write: port 25 from a zone is left open by rules that name it only; an IPv4-mapped
    address passes nowhere; the flows of site.apply.management pass.
    Rules without which every flow would come to the same are named, and what decides in their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from egressguard.policy.decision import FlowAction
from egressguard.policy.flows import MAPPED_RULE
from egressguard.policy.invariants import INTERNET, Invariant, Packets
from egressguard.policy.model import FlowRule
from egressguard.policy.networks import PrefixSet
from egressguard.policy.site import ManagementFlow
from egressguard.policy.space import axes
from egressguard.policy.space.flows import NO_RULE, FlowRegions
from egressguard.policy.space.region import Outcomes, Region
from egressguard.policy.space.witness import SPEAKS_SMTP, Witness

SMTP_PORT = 25
BUILT_IN = "(built in)"
PORT_25, MANAGEMENT = "port-25", "management"


@dataclass(frozen=True, slots=True)
class Proof:
    """One invariant: it holds of all packets, or `witness` is a packet of which it does not. `words` says which."""

    name: str
    at: str
    says: str
    witness: Witness | None = None
    words: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return self.witness is None


@dataclass(frozen=True, slots=True)
class Asked:
    """What an invariant says: none of `packets` passes, or all of them do."""

    name: str
    at: str
    says: str
    packets: Region
    never: bool


@dataclass(frozen=True, slots=True)
class Idle:
    """A rule that does nothing: it is empty (no flow matches), shadowed (others decide all that do) or redundant (the
    same would happen without it). `by` are the rules that decide in its place."""

    rule: str
    at: str
    why: str
    by: tuple[str, ...]

    def __str__(self) -> str:
        where = f" by {', '.join(self.by)}" if self.by else ""
        return f"{self.why}: {self.rule} at {self.at}{where}"


def asked_of(regions: FlowRegions) -> list[Asked]:
    """What every site has, then what the policy's invariants say, in their order."""
    policy = regions.policy
    built_in = [
        Asked(PORT_25, BUILT_IN, "port 25 is open from a zone only by rules that name it", _unnamed_25(regions), True),
        Asked(MAPPED_RULE, BUILT_IN, "no IPv4-mapped address passes", regions.mapped(), True),
    ]
    managed = [_managed(regions, flow) for flow in policy.site.apply.management]
    return [*built_in, *managed, *(_said(regions, each) for each in policy.invariants)]


def prove(asked: Sequence[Asked], passes: Region, judged: Region, certain: Region) -> list[Proof]:
    """`passes`: packets that reach where they want to; `judged`: those that `never` is about; `certain`: those that
    `always` is about, which are lost by no accident."""
    return [_proof(each, passes, judged, certain) for each in asked]


def _proof(asked: Asked, passes: Region, judged: Region, certain: Region) -> Proof:
    broken = asked.packets & judged & passes if asked.never else (asked.packets & certain) - passes
    return Proof(asked.name, asked.at, asked.says, broken.witness(), in_short(broken))


_SHOWN = (axes.FAMILY, axes.PROTOCOL, axes.TO_PORT, axes.INTERFACE, axes.FROM_4, axes.FROM_6, axes.TO_4, axes.TO_6)


def in_short(region: Region) -> tuple[str, ...]:
    """A region in a few words: where from, where to; the witness has the rest."""
    return tuple(region.whatever_but(*_SHOWN).words(limit=3))


def prove_rules(regions: FlowRegions) -> list[Proof]:
    """Of the rules by themselves, whatever kernel they will be in: what a reviewer wants to know before."""
    everything = regions.space.everything
    passes = rule_actions(regions).region(FlowAction.ALLOW)
    return prove(asked_of(regions), passes, everything, everything - regions.mapped())


def rule_actions(regions: FlowRegions) -> Outcomes[FlowAction]:
    """What flows come to, by whatever rule."""
    return regions.space.first_match([(region, label.action) for region, label in regions.decisions()], NO_RULE.action)


def packets_of(regions: FlowRegions, packets: Packets) -> Region:
    """The packets that one mapping of an invariant means."""
    space = regions.space
    region = space.protocol(packets.protocol)
    if packets.port:
        region &= space.to_ports(packets.port)
    if packets.from_zone:
        region &= regions.zones(packets.from_zone)
    if packets.to_zone:
        region &= space.union(_to_zone(regions, name) for name in packets.to_zone)
    if packets.source:
        region &= regions.listed("from", packets.source)
    if packets.destination:
        region &= regions.listed("to", packets.destination)
    if packets.speaks:
        region &= space.fact(SPEAKS_SMTP)
    return region


def _to_zone(regions: FlowRegions, name: str) -> Region:
    """Packets that leave on an interface of the zone or for an address of it; of no zone: for the Internet."""
    if name == INTERNET:
        return ~regions.space.union(_to_zone(regions, each) for each in regions.policy.site.zones)
    zone = regions.policy.site.zones[name]
    leaves = regions.space.interfaces(regions.interfaces_of(name), axes.OUT_INTERFACE)
    return leaves | regions.space.destination(PrefixSet.of(zone.networks))


def _said(regions: FlowRegions, invariant: Invariant) -> Asked:
    packets = invariant.never or invariant.always
    assert packets is not None  # the model has one of the two
    region = packets_of(regions, packets)
    for besides in invariant.besides:
        region -= packets_of(regions, besides)
    says = f"{'never' if invariant.never else 'always'}: {_words(packets)}"
    if invariant.besides:
        says += f"; except: {' or '.join(map(_words, invariant.besides))}"
    return Asked(invariant.name, invariant.at, says, region, invariant.never is not None)


def _words(packets: Packets) -> str:
    """The mapping as it was written, on one line."""
    written = ((key.alias or name, getattr(packets, name)) for name, key in Packets.model_fields.items())
    said = ((key, value) for key, value in written if value not in ((), None))
    shown = [f"{key} {', '.join(map(str, value)) if isinstance(value, tuple) else value}" for key, value in said]
    return ", ".join(shown)


def _managed(regions: FlowRegions, flow: ManagementFlow) -> Asked:
    space = regions.space
    region = space.protocol("tcp") & space.to_ports([flow.port])
    region &= space.source(PrefixSet.of([ip_network(flow.source)]))
    region &= space.destination(PrefixSet.of([ip_network(flow.destination)]))
    region -= space.fact(SPEAKS_SMTP)
    if flow.interface:
        region &= space.interfaces([flow.interface])
    says = f"always: from {flow.source} to {flow.destination}, port {flow.port}"
    return Asked(MANAGEMENT, "site.apply.management", says, region, never=False)


def _unnamed_25(regions: FlowRegions) -> Region:
    """Port 25 from zones, less what rules let pass that name this very port, or SMTP."""
    space, policy = regions.space, regions.policy
    named = (rule for rule in policy.flows if (SMTP_PORT in rule.port or rule.speaks) and not rule.staged)
    opened = space.union(map(regions.let_pass, named))
    return (space.protocol("tcp") & space.to_ports([SMTP_PORT]) & regions.zones(policy.site.zones)) - opened


def idle_rules(regions: FlowRegions) -> Iterator[Idle]:
    """Flow rules in force without which every flow would come to the same; not looked for among very many rules.

    What a rule decides is cut by each rule that it meets: most meet few, at the first fields that are asked for."""
    rules = [rule for rule in regions.policy.flows if not rule.staged]
    if len(rules) > MOST_RULES:
        return
    matched = [regions.rule(rule) - regions.mapped() for rule in rules]
    for number, rule in enumerate(rules):
        earlier = (n for n in range(number) if _may_meet(rules[n], rule))
        decided, took = _cut(matched[number], earlier, matched)
        if not decided:
            why = "shadowed" if matched[number] else "empty"
            yield Idle(rule.name, rule.at, why, tuple(sorted(rules[n].name for n in took)))
            continue
        later = [(other, matched[n]) for n, other in enumerate(rules) if n > number and _may_meet(other, rule)]
        instead = _replaced(decided, rule.action, later, regions.tunnels())
        if instead is not None:
            yield Idle(rule.name, rule.at, "redundant", tuple(sorted(instead)))


MOST_RULES = 1000
"""Of more, those that do nothing are not looked for: each would be held against each."""


def _may_meet(one: FlowRule, other: FlowRule) -> bool:
    """Whether two rules can match one flow, by what costs nothing to ask."""
    ports = not one.port or not other.port or not set(one.port).isdisjoint(other.port)
    return ports and one.protocol == other.protocol


def _cut(rest: Region, numbers: Iterable[int], matched: Sequence[Region]) -> tuple[Region, list[int]]:
    """What these leave of a region, and who took something."""
    took = []
    for number in numbers:
        if hit := rest & matched[number]:
            took.append(number)
            rest -= hit
            if not rest:
                break
    return rest, took


def _replaced(rest: Region, action: str, later: Iterable[tuple[FlowRule, Region]], tunnels: Region) -> list[str] | None:
    """The rules that would do the same in a rule's place, or None where something else would be done."""
    found = []
    for other, matches in later:
        if hit := rest & matches:
            if other.action != action:
                return None
            found.append(other.name)
            rest -= hit
    closed, left = rest & tunnels, rest - tunnels
    if (closed and action != "reject") or (left and action != "allow"):
        return None
    return found
