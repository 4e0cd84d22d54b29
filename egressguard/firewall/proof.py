"""Whether what the kernel has keeps the invariants, and is what the rules say: for all packets. Pure.

Contract
    The ruleset is read back from its listing, not from what was rendered: nothing of firewall.render is asked.
    What every site has, besides what policy.proof knows: the kernel lets pass what the rules let pass and nothing
    else; port 25 from this machine itself is the relay's user's only.
    "Passes" is: forwarded to where the packet wants to, or handed to a flowtable that will do so.
    The kernel is compared with the rules for packets that rules are about: no fragments, no answers, no host that a
    limit shuts out, nothing above a rate. `never` is about those too, but for answers.
    What a listing has that is not understood is NotUnderstood: no proof, and no word about any invariant.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from egressguard.firewall.contain import CONTAINED
from egressguard.firewall.fates import SEEN_BY_NAT, Ask, Fate, Fates
from egressguard.firewall.fates import Asked as Answered
from egressguard.firewall.host import Host
from egressguard.firewall.listing import Listing
from egressguard.firewall.table import ALLOW_MARK, GUARD_RULE, JUDGED, REJECT_MARK, is_queued, queue_mark
from egressguard.net.speech import BEHIND_GREETING, CASE, GREETINGS, OPENING, opening_mask
from egressguard.policy.decision import FlowAction
from egressguard.policy.model import Policy
from egressguard.policy.proof import BUILT_IN, Proof, asked_of, in_short, prove, rule_actions
from egressguard.policy.space import axes
from egressguard.policy.space.flows import NO_RULE, FlowRegions
from egressguard.policy.space.region import Outcomes, Region, Space
from egressguard.policy.space.witness import SPEAKS_SMTP

AS_THE_RULES = "as-the-rules"
_CLIENT_PORTS = [(1024, 65536)]
_SYN, _ACK = 0x02, 0x10


def prove_listing(policy: Policy, host: Host, listing: Listing) -> list[Proof]:
    """Everything that must hold of the table `listing`. Raises NotUnderstood."""
    return _Prover(policy, host, listing).proofs()


@dataclass(slots=True)
class _Prover:
    policy: Policy
    host: Host
    listing: Listing

    def proofs(self) -> list[Proof]:
        space = Space()
        regions = FlowRegions(space, self.policy, self.host.inside_interfaces, self.host.utc_offset_minutes)
        said = smtp_is_said(space)
        ask = _ask(regions)
        usual = Fates(space, self.listing, ask, may=False).through()
        best = Fates(space, self.listing, ask, may=True)
        through, sent = best.through(), best.sent()
        judged = ~through.region(None) - answers(space) - _facts_about(space, JUDGED)
        ordinary = judged & whole(space) & space.one_of(axes.MARK, [0]) - _facts_about(space, CONTAINED)
        asked = [replace(each, packets=each.packets.known(SPEAKS_SMTP, said)) for each in asked_of(regions)]
        never = prove([each for each in asked if each.never], passing(through), judged, ordinary)
        certain = ordinary - regions.mapped()
        always = prove([each for each in asked if not each.never], passing(usual), judged, certain)
        return [
            self._same(regions, usual, ordinary, said),
            *never,
            *always,
            *self._own_processes(space, sent),
        ]

    def _same(self, regions: FlowRegions, through: Outcomes[Fate | None], ordinary: Region, said: Region) -> Proof:
        """The kernel's fates beside the rules' decisions.

        Flows are sent elsewhere by the packet that opens them, whatever is said in it."""
        new = regions.space.state(*SEEN_BY_NAT)
        outcomes = rule_actions(regions)
        passes, allowed = passing(through), outcomes.region(FlowAction.ALLOW).known(SPEAKS_SMTP, said)
        broken = (passes - allowed) | (allowed - passes)
        elsewhere = through.region(*(fate for fate in through.labels() if fate is not None and fate.kind == "redirect"))
        sent = self._sent_elsewhere(regions).known(SPEAKS_SMTP, said)
        broken |= new & ((sent - elsewhere) | (elsewhere - sent))
        broken &= ordinary - (new & said & self._matched_elsewhere(regions))
        says = "the kernel lets pass what the rules let pass, and nothing else"
        return Proof(AS_THE_RULES, BUILT_IN, says, broken.witness(), in_short(broken))

    def _sent_elsewhere(self, regions: FlowRegions) -> Region:
        """Flows that rules send elsewhere, where there is a port for it. Once the daemon is asked, it is too late."""
        mapped, *others, tunnels = regions.decisions()
        rules = [rule for rule in self.policy.flows if not rule.staged]
        asked = [
            (regions.whatever_host(rule), None) if is_queued(rule) else (region, label.action)
            for rule, (region, label) in zip(rules, others, strict=True)
        ]
        ends = [(region, label.action) for region, label in (mapped, tunnels)]
        return regions.space.first_match([ends[0], *asked, ends[1]], NO_RULE.action).region(*self._elsewhere())

    def _matched_elsewhere(self, regions: FlowRegions) -> Region:
        actions = {action.value for action in self._elsewhere()}
        those = (rule for rule in self.policy.flows if rule.action in actions and not rule.staged)
        return regions.space.union(map(regions.rule, those))

    def _elsewhere(self) -> list[FlowAction]:
        """The actions that send flows to a port of this machine, where it is known."""
        ports = {FlowAction.REDIRECT: self.host.redirect_port, FlowAction.TARPIT: self.host.tarpit_port}
        return [action for action, port in ports.items() if port is not None]

    def _own_processes(self, space: Space, sent: Outcomes[Fate | None]) -> list[Proof]:
        if not self.policy.site.packet_plane.guard_own_processes or self.host.relay_uid is None:
            return []
        others = space.one_of(axes.OWNER, [self.host.relay_uid, axes.NO_OWNER])
        beyond = ~space.interfaces(["lo"], axes.OUT_INTERFACE) & whole(space)
        broken = (passing(sent) & space.protocol("tcp") & space.to_ports([25]) & beyond) - others
        says = f"port 25 from this machine itself is for the user {self.host.relay_uid} only"
        return [Proof(GUARD_RULE, BUILT_IN, says, broken.witness(), in_short(broken))]


def passing(fates: Outcomes[Fate | None]) -> Region:
    """The packets that get to where they want to."""
    return fates.region(*(fate for fate in fates.labels() if fate is not None and fate.kind in {"pass", "offload"}))


def answers(space: Space) -> Region:
    """Packets of flows that somebody else opened, as firewall.chains has them: rules do not judge those."""
    reply = space.state("established, an answer", "related, an answer")
    opens = space.one_of(axes.FLAGS, (flags for flags in range(256) if flags & (_SYN | _ACK) == _SYN))
    tcp = space.protocol("tcp") & space.among(axes.TO_PORT, _CLIENT_PORTS)
    return reply & ((tcp - opens) | space.protocol("udp"))


def whole(space: Space) -> Region:
    """Packets that are no fragments."""
    unsplit = (number for number in range(65536) if not number & 0x3FFF)
    four = space.family(4) & space.one_of(axes.FRAGMENT_4, unsplit)
    return four | (space.family(6) & space.one_of(axes.FRAGMENT_6, [0]))


def _facts_about(space: Space, sets: str) -> Region:
    """Packets of which one of our sets of this name, filled at run time, holds what is asked."""
    return space.union(space.fact(fact) for fact in space.facts if f"@{sets}_" in fact)


def smtp_is_said(space: Space) -> Region:
    """TCP whose payload begins as net.speech says that an SMTP client's does."""
    greetings = space.union(
        _begins(space, verb + bytes([behind]), bytes([CASE] * 4 + [0xFF]))
        for verb in GREETINGS
        for behind in BEHIND_GREETING
    )
    return (greetings | _begins(space, OPENING, opening_mask())) & space.protocol("tcp")


def _begins(space: Space, octets: bytes, mask: bytes) -> Region:
    region = space.among(axes.PAYLOAD_LENGTH, [(len(octets), 65536)])
    for axis, octet, bits in zip(axes.PAYLOAD, octets, mask, strict=False):
        region &= space.one_of(axis, (number for number in range(256) if number & bits == octet & bits))
    return region


def _ask(regions: FlowRegions) -> Ask:
    """The daemon's decision on packets that a rule queued: its mark says from which rule on."""
    rules = [(rule.name, rule.staged) for rule in regions.policy.flows]

    def ask(mark: int | None) -> Answered | None:
        index = -1 if mark is None else mark - queue_mark(0)
        if not 0 <= index < len(rules):
            nothing = regions.space.nothing
            return Answered(nothing, nothing, ALLOW_MARK, REJECT_MARK)  # verdicts: not a packet that a rule queues
        skipped = sum(not staged for _, staged in rules[:index])
        first, *later = regions.decisions()
        asked = [(region, label.action) for region, label in (first, *later[skipped:])]
        outcomes = regions.space.first_match(asked, NO_RULE.action)
        refused = outcomes.labels() - {FlowAction.ALLOW, FlowAction.DROP}
        return Answered(outcomes.region(FlowAction.ALLOW), outcomes.region(*refused), ALLOW_MARK, REJECT_MARK)

    return ask
