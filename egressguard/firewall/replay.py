"""A recorded capture through the rules: what would have been blocked, allowed, redirected, host by host.

scapy (GPL-2.0-only) is imported here alone, when it is used, in the process of `egressguard replay`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from egressguard.net.flow import Flow, Protocol, plain_address
from egressguard.policy.decision import FlowDecision
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy


class NotACapture(Exception):
    """The file cannot be read as pcap or pcapng; the message says why."""


@dataclass(slots=True)
class Replayed:
    """`hosts`: source address -> how often each decision was taken on a flow that it opened."""

    packets: int = 0
    malformed: int = 0
    hosts: dict[str, Counter[tuple[str, str, int]]] = field(default_factory=dict)

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per host, decision and port: {source, action, rule, port, flows}."""
        for source in sorted(self.hosts):
            for (action, rule, port), flows in sorted(self.hosts[source].items()):
                yield {"source": source, "action": action, "rule": rule, "port": port, "flows": flows}


def replay(path: Path, policy: Policy, surroundings: Surroundings) -> Replayed:
    """Decide every flow that the capture shows the beginning of. Raises NotACapture."""
    seen: set[Flow] = set()
    result = Replayed()
    for packet in _packets(path):
        result.packets += 1
        try:
            flow = _opening_flow(packet)
        except (ValueError, AttributeError, TypeError, IndexError):
            result.malformed += 1
            continue
        if flow is not None and flow not in seen:
            seen.add(flow)
            _note(result, flow, decide_flow(policy, flow, surroundings))
    return result


def _note(result: Replayed, flow: Flow, decision: FlowDecision) -> None:
    action = decision.action.value if decision.action else "unknown"
    host = result.hosts.setdefault(str(flow.source), Counter())
    host[action, decision.rule or "(none)", flow.destination_port] += 1


def _packets(path: Path) -> Iterator[Any]:
    import scapy.layers.inet6  # noqa: PLC0415
    import scapy.layers.l2  # noqa: F401, PLC0415 -- makes Ethernet and the IP families known
    from scapy.error import Scapy_Exception  # noqa: PLC0415 -- see the module's head
    from scapy.utils import PcapReader  # noqa: PLC0415

    try:
        with PcapReader(str(path)) as reader:
            yield from reader
    except (Scapy_Exception, EOFError, OSError) as wrong:
        raise NotACapture(f"{path}: {wrong}") from wrong


def _opening_flow(packet: Any) -> Flow | None:
    """The flow that a TCP SYN (or any UDP datagram) opens; None for all other packets."""
    from scapy.layers.inet import IP, TCP, UDP  # noqa: PLC0415
    from scapy.layers.inet6 import IPv6  # noqa: PLC0415

    network = packet.getlayer(IP) or packet.getlayer(IPv6)
    if network is None:
        return None
    if (tcp := network.getlayer(TCP)) is not None:
        if not tcp.flags.S or tcp.flags.A:
            return None
        protocol, transport = Protocol.TCP, tcp
    elif (udp := network.getlayer(UDP)) is not None:
        protocol, transport = Protocol.UDP, udp
    else:
        return None
    source, destination = plain_address(network.src), plain_address(network.dst)
    return Flow(source, destination, int(transport.dport), "", protocol, int(transport.sport))
