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
from collections.abc import Callable
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
_CONFIG, _REQUEST = (3 << 8) | 2, 0x1  # NFNL_SUBSYS_QUEUE, NFQNL_MSG_CONFIG
_ATTRIBUTE_MASK, _ATTRIBUTE_FLAGS, _FAIL_OPEN = 4, 5, 1

Observe = Callable[[Packet, str, FlowDecision], None]


def can_decide() -> bool:
    """Whether the package netfilterqueue is there."""
    return NetfilterQueue is not None


def decide_packet(
    policy: Policy, octets: bytes, mark: int, interface: str, surroundings: Surroundings
) -> tuple[Packet | None, FlowDecision]:
    """The decision on a queued packet; `mark` names the rule that queued it. Pure."""
    packet = parse_packet(octets)
    index = mark - queue_mark(0)
    if packet is None or not 0 <= index < len(policy.flows):
        return packet, FlowDecision(FlowAction.DROP, "", "not a packet that a rule queues")
    start_at = policy.flows[index].name
    return packet, decide_flow(policy, packet.flow(interface), surroundings, start_at=start_at)


class Verdicts:
    """Serves one queue; `policy` and `surroundings` may be replaced at any time."""

    def __init__(
        self,
        queue_number: int,
        policy: Policy,
        surroundings: Surroundings,
        observe: Observe,
        *,
        fail_open: bool = False,
        waiting_packets: int = WAITING_PACKETS,
    ) -> None:
        self.policy = policy
        self.surroundings = surroundings
        self._observe = observe
        self._queue = NetfilterQueue()
        self._queue.bind(queue_number, self._answer, max_len=waiting_packets, range=HEADER_OCTETS)
        if fail_open:
            let_pass_when_full(self._queue.get_fd(), queue_number)

    def start(self) -> None:
        asyncio.get_running_loop().add_reader(self._queue.get_fd(), self._readable)

    def close(self) -> None:
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
        packet, decision, interface = None, FlowDecision(FlowAction.DROP, "", "no decision"), ""
        try:
            octets, mark = queued.get_payload(), queued.get_mark()
            interface = interface_name(queued.indev)
            packet, decision = decide_packet(self.policy, octets, mark, interface, self.surroundings)
        finally:  # whatever our own fault, which the loop reports: the packet gets its verdict
            _give(queued, decision)
        if packet is not None:
            self._observe(packet, interface, decision)


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
