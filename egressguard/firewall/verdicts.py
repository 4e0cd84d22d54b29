"""Verdicts on flows that need thought: NFQUEUE on the event loop, headers sliced, the policy asked.

Contract
    Accept, drop, or accept with the mark that the table turns into a reset.
    Cannot tell = drop silently: TCP asks again.
    A packet that cannot be parsed is dropped. An exception of ours is a drop as well, reported, and the loop goes on.
    Nobody listening, or more packets waiting than WAITING_PACKETS: the kernel drops, or lets pass on the queue of the
    rules that say `fail: open`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from egressguard.firewall.nflog import interface_name
from egressguard.firewall.table import ALLOW_MARK, REJECT_MARK, queue_mark
from egressguard.net.headers import Packet, parse_packet
from egressguard.policy.decision import FlowAction, FlowDecision
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy

try:
    from netfilterqueue import NetfilterQueue
except ImportError:  # it needs a compiler to install: all but `decide: queue` works without it
    NetfilterQueue = None  # type: ignore[assignment, misc]

log = logging.getLogger(__name__)

HEADER_OCTETS = 128
WAITING_PACKETS = 4096
RECENT_SECONDS, RECENT_DECISIONS = 1.0, 4096
IP4_OCTETS, IP6_OCTETS = 28, 48
MAC_OCTETS = 6
NO_DECISION = FlowDecision(FlowAction.DROP, "", "no decision")
_PLAIN = frozenset({6, 17})
_CONFIG, _REQUEST = (3 << 8) | 2, 0x1  # NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG
_ATTRIBUTE_MASK, _ATTRIBUTE_FLAGS, _FAIL_OPEN = 4, 5, 1

Observe = Callable[[Packet, str, FlowDecision], None]
"""Told of every packet: where it arrived, and what was decided."""
Note = Callable[[Packet, str, str, FlowDecision, int], None]
"""Told of many at once: a packet, where it arrived, its link-layer source, what was decided, how many like it."""


def _nobody_notes(*_: object) -> None:
    pass


def can_decide() -> bool:
    """Whether the package netfilterqueue is there."""
    return NetfilterQueue is not None


def decide_packet(
    policy: Policy, octets: bytes, mark: int, interface: str, surroundings: Surroundings, mac: str = ""
) -> tuple[Packet | None, FlowDecision]:
    """The decision on a queued packet; `mark` names the rule that queued it, `mac` is its source. Pure."""
    packet = parse_packet(octets)
    index = mark - queue_mark(0)
    if packet is None or not 0 <= index < len(policy.flows):
        return packet, FlowDecision(FlowAction.DROP, "", "not a packet that a rule queues")
    start_at = policy.flows[index].name
    return packet, decide_flow(policy, replace(packet.flow(interface), source_mac=mac), surroundings, start_at=start_at)


def mac_of(card: bytes | None) -> str:
    """A link-layer address as rules write it; "" where there is none."""
    return ":".join(f"{octet:02x}" for octet in card[:6]) if card and len(card) >= MAC_OCTETS else ""


Judged = tuple[Packet | None, FlowDecision, str, str]
"""(the packet, what was decided, where it arrived, its link-layer source)."""
Key = tuple[bytes, int, int, bytes | None]
"""(flow_key, mark, number of the interface, link-layer source)."""


class Recent:
    """Decisions of the last second: of a flood only the first packet from here to there is thought about.

    `note` is told of them, counted, when the second is over. What could not be decided is not kept: the next packet
    may find the name resolved."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, note: Note = _nobody_notes) -> None:
        self._clock = clock
        self._note = note
        self._kept: dict[Key, Judged] = {}
        self._found: dict[Key, int] = {}
        self._until = 0.0

    def find(self, key: Key) -> Judged | None:
        self.settle()
        judged = self._kept.get(key)
        if judged is not None:
            self._found[key] += 1
        return judged

    def keep(self, key: Key, judged: Judged) -> None:
        packet, decision, interface, mac = judged
        if decision.action is None:
            return
        if key[0] and len(self._kept) < RECENT_DECISIONS:
            self._kept[key] = judged
            self._found[key] = 1
        elif packet is not None:
            self._note(packet, interface, mac, decision, 1)

    def settle(self) -> None:
        """Begin anew when the second is over."""
        now = self._clock()
        if now >= self._until:
            self.forget()
            self._until = now + RECENT_SECONDS

    def forget(self) -> None:
        """Tell what was found how often, and begin anew."""
        for key, (packet, decision, interface, mac) in self._kept.items():
            if packet is not None:
                self._note(packet, interface, mac, decision, self._found[key])
        self._kept.clear()
        self._found.clear()


def flow_key(octets: bytes) -> bytes:
    """All that a decision looks at, of a plain TCP or UDP packet; b"" for one that has to be parsed."""
    if len(octets) >= IP4_OCTETS and octets[0] == 0x45 and octets[9] in _PLAIN and not octets[6] & 0x3F | octets[7]:
        return octets[9:10] + octets[12:20] + octets[22:24]
    if len(octets) >= IP6_OCTETS and octets[0] >> 4 == 6 and octets[6] in _PLAIN:
        return octets[6:7] + octets[8:40] + octets[42:44]
    return b""


class Verdicts:
    """Serves one queue, by one policy."""

    def __init__(
        self,
        queue_number: int,
        policy: Policy,
        surroundings: Surroundings,
        observe: Observe,
        *,
        fail_open: bool = False,
        waiting_packets: int = WAITING_PACKETS,
        note: Note = _nobody_notes,
    ) -> None:
        self._policy = policy
        self._surroundings = surroundings
        self._recent = Recent(note=note)
        self._observe = observe
        self._queue = NetfilterQueue()
        self._queue.bind(queue_number, self._answer, max_len=waiting_packets, range=HEADER_OCTETS)
        if fail_open:
            let_pass_when_full(self._queue.get_fd(), queue_number)

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._queue.get_fd(), self._readable)

    def follow(self, surroundings: Surroundings) -> None:
        """Decide by these from now on."""
        self._recent.forget()
        self._surroundings = surroundings

    def settle(self) -> None:
        """Have what was decided noted, if no packet came since."""
        self._recent.settle()

    def close(self) -> None:
        self._recent.forget()
        asyncio.get_running_loop().remove_reader(self._queue.get_fd())
        self._queue.unbind()

    def _readable(self) -> None:
        try:
            self._queue.run(block=False)
        except OSError as wrong:
            if wrong.errno != errno.ENOBUFS:
                raise
            log.warning("the queue overflowed: the kernel dropped packets, which TCP sends again")

    def _answer(self, queued: Any) -> None:
        decision = NO_DECISION
        try:
            octets = queued.get_payload()
            key = (flow_key(octets), queued.get_mark(), queued.indev, queued.get_hw())
            judged = self._recent.find(key)
            if judged is None:
                judged = self._judge(octets, key)
                self._recent.keep(key, judged)
            packet, decision, interface, _mac = judged
        finally:  # whatever our own fault, which the loop reports: the packet gets its verdict
            _give(queued, decision)
        if packet is not None:
            self._observe(packet, interface, decision)

    def _judge(self, octets: bytes, key: Key) -> Judged:
        interface, mac = interface_name(key[2]), mac_of(key[3])
        return (*decide_packet(self._policy, octets, key[1], interface, self._surroundings, mac), interface, mac)


def let_pass_when_full(fd: int, queue_number: int) -> None:
    """Set NFQA_CFG_F_FAIL_OPEN on a bound queue: the package does not know the flag, its socket takes the message."""
    flags = b"".join(
        struct.pack("=HHI", 8, kind, socket.htonl(_FAIL_OPEN)) for kind in (_ATTRIBUTE_MASK, _ATTRIBUTE_FLAGS)
    )
    payload = struct.pack("!BBH", socket.AF_UNSPEC, 0, queue_number) + flags
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.send(struct.pack("=IHHII", 16 + len(payload), _CONFIG, _REQUEST, 0, 0) + payload)


def _give(queued: Any, decision: FlowDecision) -> None:
    if decision.action is FlowAction.ALLOW:
        queued.set_mark(ALLOW_MARK)
        queued.accept()
    elif decision.action is None or decision.action is FlowAction.DROP:
        queued.drop()
    else:  # reject; a redirect came too late (routing is done), so it is refused too
        queued.set_mark(REJECT_MARK)
        queued.accept()
