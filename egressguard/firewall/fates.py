"""What becomes of every packet by the rules that the kernel has: chains -> fates. Pure, exact, or NotUnderstood.

Contract
    A packet is led through the base chains of our table, hook by hook, in the order of their priorities. Nothing of
    other tables is known here: they can stop more packets, not fewer.
    Before conntrack (priority below -200) nothing is known of connections. A nat chain sees the first packet of each.
    "accept" goes on with the next base chain, "drop" and "reject" are the end.
    Counts and rates (limit, ct count, a full set) are below what they limit; or, where `may` is asked for, whatever
    lets the packet go further: that it is stopped above a rate only stops nobody.
    A flow that is handed to a flowtable passes from then on, whatever the rules say.
    A queued packet goes where the daemon's decision (`ask`) says, and where it goes with nobody there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from egressguard.firewall.listing import NFQUEUE_TARGET, ListedChain, ListedRule, Listing, NotUnderstood
from egressguard.firewall.questions import OWN_FACT, Questions
from egressguard.firewall.table import OPEN_QUEUE_CHAIN
from egressguard.policy.space import axes
from egressguard.policy.space.diagram import LEAF, UNDECIDED, Node, Operation, values_in
from egressguard.policy.space.region import Outcomes, Region, Space

CONNTRACK_PRIORITY = -200
SEEN_BY_NAT = ("new", "related", "related, an answer")
"""The packets that a nat chain sees, as the first of their connections."""
MAX_DEPTH = 32  # the kernel takes 16 jumps
AWAY_FACT = "nobody serves the queue"


@dataclass(frozen=True, slots=True)
class Fate:
    """`kind`: pass, drop, reject, redirect, offload; inside chains also queue, return and on (go on with `mark`).

    `words` say more of it: where to, which number. `mark` is None while nobody has set it."""

    kind: str
    words: str = ""
    mark: int | None = None


PASS, DROP, REJECT, RETURN = Fate("pass"), Fate("drop"), Fate("reject"), Fate("return")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the daemon does with the packets that carry a mark to it: regions of those let pass and of those refused;
    all others are dropped. `allow_mark` and `reject_mark` are what they carry when they come back."""

    allowed: Region
    refused: Region
    allow_mark: int
    reject_mark: int


Ask = Callable[[int | None], Asked | None]
"""The mark of a queued packet -> the daemon's decision; None: not known."""


def _not_known(_mark: int | None) -> Asked | None:
    return None


class Fates:
    """Of one listing, in one space. `may`: what can become of a packet at the best, else what becomes of it while
    nothing is above its rate, no set full, and the daemon there."""

    def __init__(self, space: Space, listing: Listing, ask: Ask = _not_known, *, may: bool) -> None:
        self.space, self._listing, self._ask, self._may = space, listing, ask, may
        self._diagrams = space.diagrams
        self._questions = Questions(space, listing)
        self._chains: dict[str, Node] = {}
        self._depth = 0
        self._undecided = self._diagrams.leaf(UNDECIDED)
        self._where = Operation(self._answer_where)

    def through(self) -> Outcomes[Fate | None]:
        """What becomes of packets that come in on one interface and would leave on another; None: of all others."""
        space = self.space
        comes, leaves = ~space.interfaces([""]), ~space.interfaces([""], axes.OUT_INTERFACE)
        ours = comes & leaves & space.one_of(axes.OWNER, [axes.NO_OWNER])
        return self._journey(("prerouting", "forward", "postrouting"), ours)

    def sent(self) -> Outcomes[Fate | None]:
        """What becomes of packets that this machine itself makes and sends to others."""
        space = self.space
        ours = space.interfaces([""]) & ~space.interfaces([""], axes.OUT_INTERFACE)
        return self._journey(("output", "postrouting"), ours)

    def _journey(self, hooks: Sequence[str], packets: Region) -> Outcomes[Fate | None]:
        """From the last chain back to the first. Packets to this machine itself go another way."""
        rest = self._leaf(PASS)
        for hook in reversed(hooks):
            for chain in reversed(self._listing.base_chains(hook)):
                rest = self._then(self._base(chain), rest)
        told = self._diagrams.relabel(rest, lambda fate: replace(fate, mark=None) if isinstance(fate, Fate) else fate)
        to_others = self._diagrams.given(told, {self.space.fact_level(OWN_FACT): 0})
        return self.space.outcomes(to_others).within(packets)

    def _base(self, chain: ListedChain) -> Node:
        """One base chain with what it does at its end: leaves that end the way, and undecided where it goes on."""
        node = self._chain(chain.name)
        if chain.policy == "drop":
            node = self._first([self._when_on(node, DROP), self._leaf(DROP)])
        node = self._diagrams.relabel(node, _beyond)
        if chain.hook in {"prerouting", "output"} and chain.priority < CONNTRACK_PRIORITY:
            node = self._diagrams.given(node, {axes.STATE.level: axes.STATES.index("invalid")})
        if chain.kind == "nat":
            node = self._only(self.space.state(*SEEN_BY_NAT), node)
        return self._queued(node)

    def _when_on(self, node: Node, fate: Fate) -> Node:
        """Packets that went on with a mark meet this instead."""
        return self._diagrams.relabel(node, lambda told: fate if isinstance(told, Fate) and told.kind == "on" else told)

    def _queued(self, node: Node) -> Node:
        """What is queued, after the daemon has answered or is found away."""
        queues = {fate for fate in values_in(node) if isinstance(fate, Fate) and fate.kind == "queue"}
        answers = []
        for fate in queues:
            those = Region(self.space, self._diagrams.relabel(node, lambda told, fate=fate: told == fate))  # type: ignore[misc]
            answers.append(self._only(those, self._answered(fate)))
        rest = self._diagrams.relabel(node, lambda told: UNDECIDED if told in queues else told)
        return self._first([*answers, rest])

    def _answered(self, fate: Fate) -> Node:
        passed_by = fate.words == "bypass"
        away = self.space.fact(AWAY_FACT) if self._may else self.space.nothing
        nobody = Fate("on", mark=fate.mark) if fate.mark is not None else UNDECIDED
        asked = self._ask(fate.mark)
        if asked is None:
            asked = Asked(self.space.fact("the daemon lets it pass"), self.space.nothing, 0, 0)
        decided = [
            self._only(asked.allowed, self._leaf(Fate("on", mark=asked.allow_mark))),
            self._only(asked.refused, self._leaf(Fate("on", mark=asked.reject_mark))),
            self._leaf(DROP),
        ]
        there = self._only(~away, self._first(decided))
        return self._first([there, self._diagrams.leaf(nobody) if passed_by else self._leaf(DROP)])

    def _chain(self, name: str) -> Node:
        """Fates of what the chain decides, undecided where it leads back to whoever jumped."""
        if name in self._chains:
            return self._chains[name]
        chain = self._listing.chains.get(name)
        if chain is None:
            raise NotUnderstood(f"the chain {name} is not in the listing")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise NotUnderstood(f"chain {name}: more than {MAX_DEPTH} jumps one inside the other")
        rest = self._undecided
        together: list[Node] = []
        for rule in reversed(chain.rules):
            node = self._rule(rule)
            if any(_is_on(fate) for fate in values_in(node)):
                rest = self._then(node, self._first([*reversed(together), rest]))
                together = []
            else:
                together.append(node)
        node = self._first([*reversed(together), rest])
        self._depth -= 1
        self._chains[name] = self._diagrams.relabel(node, _returned)
        return self._chains[name]

    def _rule(self, rule: ListedRule) -> Node:
        try:
            return self._effect(rule)
        except NotUnderstood as wrong:
            if str(wrong).startswith("chain "):
                raise
            raise NotUnderstood(f"{rule.place}: {wrong}") from None
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as wrong:
            raise NotUnderstood(f"{rule.place}: {wrong!r} in it is not understood") from wrong

    def _effect(self, rule: ListedRule) -> Node:
        """What a rule does where all its statements before the verdict let it."""
        statements = _statements(rule)
        if not any(_decides(kind) for kind, _ in statements):
            return self._undecided
        last, decided = statements[-1]
        effect = self._undecided if last in _MAY_FOLLOW else self._verdict(last, decided, rule.chain)
        region, mark = self.space.everything, None
        offloaded: list[Node] = []
        for number, (kind, value) in enumerate(statements, 1):
            if kind in _CONDITIONS:
                region &= self._condition(kind, value, f"{rule.chain}, rule {rule.number}.{number}", effect)
            elif kind == "mangle":
                mark = _mark_set(value)
            elif kind == "flow":
                offloaded.append(self._offloaded(region, value))
        if mark is not None:
            effect = self._marked(effect, mark)
        return self._first([*offloaded, self._only(region, effect)])

    def _condition(self, kind: str, value: Mapping[str, Any], place: str, effect: Node) -> Region:
        return self._questions.holds(value) if kind == "match" else self._by_count(kind, value, place, effect)

    def _offloaded(self, region: Region, value: Mapping[str, Any]) -> Node:
        """Flows of TCP and UDP that stand; before that the kernel takes none."""
        flows = region & self.space.state("established", "established, an answer")
        ports = self.space.one_of(axes.PROTOCOL, (6, 17))
        return self._only(flows & ports, self._leaf(Fate("offload", str(value.get("flowtable", "")))))

    def _by_count(self, kind: str, value: Mapping[str, Any], place: str, effect: Node) -> Region:
        """Whether a statement that looks at a count lets its rule go on: a fact, where both has to be looked at."""
        space = self.space
        goes_on_above = bool(value.get("inv"))
        if not self._may:
            return space.nothing if goes_on_above else space.everything
        fates = {fate.kind if isinstance(fate, Fate) else "" for fate in values_in(effect)}
        if fates <= STOPPED:  # it may be that the rule does not stop the packet
            return space.nothing
        if fates == {"pass"}:
            return space.everything
        words = f"more than {value.get('rate')}/{value.get('per')}"
        if kind != "limit":
            words = f"{value['set']} is full" if kind == "set" else f"more than {value['val']} connections"
        above = space.fact(f"{words} ({place})")
        return above if goes_on_above else ~above

    def _mapped(self, value: Mapping[str, Any], chain: str) -> Node:
        key, data = value["key"], value["data"]
        if isinstance(data, str):
            found = self._listing.sets.get(data.removeprefix("@"))
            if found is None or found.at_run_time:
                raise NotUnderstood(f"the map {data} is not in the listing, or filled at run time")
            pairs: Sequence[Any] = found.elements
        else:
            pairs = data["set"]
        nodes = []
        for element, verdict in pairs:
            ((kind, where),) = verdict.items()
            nodes.append(self._only(self._questions.member(key, element), self._verdict(kind, where, chain)))
        return self._first(nodes)

    def _verdict(self, kind: str, value: Any, chain: str) -> Node:
        if kind in {"jump", "goto"}:
            node = self._chain(value["target"])
            return node if kind == "jump" else self._diagrams.relabel(node, _gone)
        if kind == "vmap":
            return self._mapped(value, chain)
        if kind in {"queue", "xt"}:
            return self._leaf(Fate("queue", "bypass" if _is_bypassed(kind, value, chain) else ""))
        if kind == "redirect":
            return self._leaf(Fate("redirect", f"to port {(value or {}).get('port', 'it asked for')} of this machine"))
        if kind == "continue":
            return self._undecided
        return self._leaf(_ENDS[kind])

    def _marked(self, node: Node, mark: int) -> Node:
        """What happens with the mark set: questions about it are answered, and who goes on carries it."""
        known = self._diagrams.given(node, {axes.MARK.level: mark})
        return self._diagrams.relabel(known, lambda fate: _with_mark(fate, mark))

    def _then(self, node: Node, rest: Node) -> Node:
        """One after the other: what the first leaves undecided, or sends on with a mark, meets the rest."""
        marked = {fate for fate in values_in(node) if _is_on(fate)}
        parts = []
        for fate in marked:
            assert isinstance(fate, Fate) and fate.mark is not None
            those = Region(self.space, self._diagrams.relabel(node, lambda told, fate=fate: told == fate))  # type: ignore[misc]
            parts.append(self._only(those, self._marked(rest, fate.mark)))
        undecided = self._diagrams.relabel(node, lambda told: UNDECIDED if told in marked else told)
        return self._first([*parts, undecided, rest])

    def _only(self, region: Region, node: Node) -> Node:
        return self._diagrams.combine(self._where, region.node, node)

    def _answer_where(self, inside: Node, then: Node) -> Node | None:
        if inside.level == LEAF:
            return then if inside.value else self._undecided
        return self._undecided if then is self._undecided else None

    def _first(self, nodes: Sequence[Node]) -> Node:
        return self.space.first_of(nodes or [self._undecided])

    def _leaf(self, fate: Fate) -> Node:
        return self._diagrams.leaf(fate)


STOPPED = frozenset({"drop", "reject"})
_WITHOUT_EFFECT = frozenset({"counter", "log"})
_CONDITIONS = frozenset({"match", "limit", "ct count", "set"})
_MAY_FOLLOW = frozenset({"match", "limit", "ct count", "set", "counter", "log", "mangle", "flow"})
"""Statements that others may stand behind; a verdict ends the rule."""
_ENDS = {"accept": PASS, "drop": DROP, "reject": REJECT, "return": RETURN, "masquerade": PASS, "snat": PASS}
_VERDICTS = frozenset({*_ENDS, "jump", "goto", "queue", "xt", "redirect", "continue", "vmap"})


def _decides(kind: str) -> bool:
    """Whether the statement does something to a packet, understood or not."""
    return kind not in _WITHOUT_EFFECT | _CONDITIONS


def _statements(rule: ListedRule) -> list[tuple[str, Any]]:
    """(kind, value) of each. Raises NotUnderstood where their order has no meaning here."""
    found = [next(iter(expression.items())) for expression in rule.expressions]
    marked = False
    for number, (kind, value) in enumerate(found, 1):
        if kind not in _MAY_FOLLOW | _VERDICTS:
            raise NotUnderstood(f"the statement {kind!r} is not understood")
        if kind not in _MAY_FOLLOW and number < len(found):
            raise NotUnderstood(f"{kind!r} with something behind it is not understood")
        if marked and kind == "match" and "mark" in str(value["left"]):
            raise NotUnderstood("a mark that is asked for where the same rule has set it is not understood")
        marked = marked or kind == "mangle"
    return found


def _is_bypassed(kind: str, value: Any, chain: str) -> bool:
    """Whether packets pass with nobody at the queue. iptables' target does not tell: our chains do."""
    if kind == "queue":
        return "bypass" in str((value or {}).get("flags", ""))
    if value != NFQUEUE_TARGET:
        raise NotUnderstood(f"iptables' own {value.get('name', 'extension')} is not understood")
    return bool(chain == OPEN_QUEUE_CHAIN)


def _mark_set(value: Mapping[str, Any]) -> int:
    key, number = value["key"], value["value"]
    if key != {"meta": {"key": "mark"}} or not isinstance(number, int):
        raise NotUnderstood(
            f"what changes {key} to {number} is not understood; expected a mark that is set to a number"
        )
    return number


# What leaves become on their way out of a chain.


def _is_on(fate: Hashable) -> bool:
    return isinstance(fate, Fate) and fate.kind == "on"


def _on(mark: int | None) -> Hashable:
    return UNDECIDED if mark is None else Fate("on", mark=mark)


def _returned(fate: Hashable) -> Hashable:
    """At the end of a chain that somebody jumped to."""
    return _on(fate.mark) if isinstance(fate, Fate) and fate.kind == "return" else fate


def _gone(fate: Hashable) -> Hashable:
    """At the end of a chain that somebody went to: there is no way back into the chain before."""
    if fate == UNDECIDED:
        return RETURN
    return replace(fate, kind="return") if isinstance(fate, Fate) and fate.kind == "on" else fate


def _beyond(fate: Hashable) -> Hashable:
    """At the end of a base chain: what is accepted goes on."""
    return _on(fate.mark) if isinstance(fate, Fate) and fate.kind in {"pass", "return"} else fate


def _with_mark(fate: Hashable, mark: int) -> Hashable:
    if fate == UNDECIDED:
        return Fate("on", mark=mark)
    return replace(fate, mark=mark) if isinstance(fate, Fate) and fate.mark is None else fate
