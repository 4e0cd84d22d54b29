"""A recorded capture through the rules: what would have been blocked, allowed, sent elsewhere, host by host.

scapy (GPL-2.0-only) is imported here alone, when it is used, in the process of `egressguard replay`.

Contract
    Whatever the octets: a capture is read as far as it goes, and what is no packet in it is counted as malformed.
    A flow belongs to who opens it: the SYN's sender, or of datagrams and tunnels who is seen first. One whose opener
    begins to speak as an SMTP client is decided a second time, as the kernel does.
    The rules' hours are asked for the packet's own time, as the local clock shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from egressguard.net.flow import TUNNELS, Flow, Protocol, plain_address
from egressguard.net.speech import speaks
from egressguard.observe.clock import local_moment
from egressguard.policy.decision import FlowDecision
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.model import Policy

PROTOCOLS = {6: Protocol.TCP, 17: Protocol.UDP, 4: Protocol.IPIP, 41: Protocol.SIX_IN_FOUR, 47: Protocol.GRE}
_FRAGMENT_OFFSET = 0x1FFF
TICK_PACKETS = 500


class NotACapture(Exception):
    """The file cannot be read as pcap or pcapng; the message says why."""


Kind = tuple[str, str, str, str]
"""(action, rule, its place, port or protocol)."""


@dataclass(slots=True)
class Replayed:
    """`hosts`: source address -> how often each decision was taken on a flow that it opened."""

    packets: int = 0
    malformed: int = 0
    hosts: dict[str, Counter[Kind]] = field(default_factory=dict)

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row per host, decision and port: {source, action, rule, at, to, flows}."""
        for source in sorted(self.hosts):
            for (action, rule, at, to), flows in sorted(self.hosts[source].items()):
                yield {"source": source, "action": action, "rule": rule, "at": at, "to": to, "flows": flows}


Tick = Callable[[int, int], object]
"""Told how many octets of how many are read."""


def replay(
    path: Path,
    policy: Policy,
    surroundings: Surroundings,
    *,
    interface: str = "",
    tick: Tick = lambda _done, _all: None,
) -> Replayed:
    """Decide every flow of the capture, as if it arrived on `interface`. Raises NotACapture."""
    result = Replayed()
    places = {rule.name: rule.at for rule in policy.flows}
    for at, flow in opened_flows(path, result, interface=interface, tick=tick):
        around = replace(surroundings, moment=partial(local_moment, at))
        _note(result, flow, decide_flow(policy, flow, around), places)
    return result


def opened_flows(
    path: Path, result: Replayed, *, interface: str = "", tick: Tick = lambda _done, _all: None
) -> Iterator[tuple[float, Flow]]:
    """(when, flow) of each that is opened, or begins to speak, in the capture; packets are counted in `result`.

    Raises NotACapture."""
    seen: set[Flow] = set()
    for packet in _packets(path, tick):
        result.packets += 1
        try:
            flow = _flow(packet, interface)
            at = float(packet.time)
        except (ValueError, AttributeError, TypeError, IndexError, OverflowError):
            result.malformed += 1
            continue
        if flow is None or replace(flow, source_mac="") in seen or _answered(flow) in seen:
            continue
        seen.add(replace(flow, source_mac=""))
        yield at, flow


def _answered(flow: Flow) -> Flow:
    """The flow that this packet would be an answer in."""
    return replace(
        flow,
        source=flow.destination,
        destination=flow.source,
        source_port=flow.destination_port,
        destination_port=flow.source_port,
        source_mac="",
        speaks="",
    )


def _note(result: Replayed, flow: Flow, decision: FlowDecision, places: dict[str, str]) -> None:
    action = decision.action.value if decision.action else "unknown"
    to = flow.protocol.value if flow.protocol in TUNNELS else f"{flow.destination_port}/{flow.protocol.value}"
    to += f" {flow.speaks}" if flow.speaks else ""
    host = result.hosts.setdefault(str(flow.source), Counter())
    host[action, decision.rule or "(none)", places.get(decision.rule, ""), to] += 1
    for would in decision.would:
        host[f"would {would.action}", would.rule, places.get(would.rule, ""), to] += 1


def _packets(path: Path, tick: Tick) -> Iterator[Any]:
    import scapy.layers.inet6  # noqa: PLC0415
    import scapy.layers.l2  # noqa: F401, PLC0415 -- makes Ethernet and the IP families known
    from scapy.error import Scapy_Exception  # noqa: PLC0415 -- see the module's head
    from scapy.utils import PcapReader  # noqa: PLC0415

    try:
        size = path.stat().st_size
        with PcapReader(str(path)) as reader:
            for number, packet in enumerate(reader):
                if number % TICK_PACKETS == 0:
                    tick(min(reader.f.tell(), size), size)
                yield packet
    except (Scapy_Exception, EOFError, OSError) as wrong:
        raise NotACapture(f"{path}: {wrong}") from wrong


def _transport(network: Any) -> tuple[int, Any]:
    """The protocol's number and what follows the IP header, extension headers passed over."""
    if network.version == 4:
        return int(network.proto), network.payload
    layer = network
    while type(layer.payload).__name__.startswith("IPv6ExtHdr"):
        layer = layer.payload
    return int(layer.nh), layer.payload


def _flow(packet: Any, interface: str) -> Flow | None:
    """The flow that a packet opens or begins to speak in; None for all other packets. Raises ValueError: malformed."""
    from scapy.layers.inet import IP, TCP, UDP  # noqa: PLC0415
    from scapy.layers.inet6 import IPv6  # noqa: PLC0415
    from scapy.layers.l2 import Ether  # noqa: PLC0415

    network = packet.getlayer(IP) or packet.getlayer(IPv6)
    if network is None or (network.version == 4 and int(network.frag) & _FRAGMENT_OFFSET):
        return None
    number, transport = _transport(network)
    protocol = PROTOCOLS.get(number)
    if protocol is None:
        return None
    if protocol not in TUNNELS and not isinstance(transport, TCP if protocol is Protocol.TCP else UDP):
        raise ValueError("no whole transport header")
    source, destination = plain_address(network.src), plain_address(network.dst)
    mac = str(packet[Ether].src) if packet.haslayer(Ether) else ""
    if protocol in TUNNELS:
        return Flow(source, destination, 0, interface, protocol, source_mac=mac)
    said = speaks(bytes(transport.payload)[:32]) if protocol is Protocol.TCP else ""
    if protocol is Protocol.TCP and not said and (not transport.flags.S or transport.flags.A):
        return None
    ports = int(transport.dport), int(transport.sport)
    return Flow(source, destination, ports[0], interface, protocol, ports[1], mac, said)
