"""A router between two networks, in namespaces of its own, and a generator of frames that costs it little.

lan eth0 192.0.2.2 --- .1 lan0 [router] wan0 198.51.100.1 --- .2 eth0 internet

Frames go from 10.0.0.0/8 (behind the lan host) to 203.0.113.0/24 (behind the internet host); both vanish as they come
from the wire there. Several worlds may stand side by side, so that two rulesets are measured in turns without loading
anything in between. A frame runs through the router in the context of the `sendmmsg` that sends it, on its sender's
core: the time that it takes is the generator's and the router's, and a world with EARLY_DROP tells the two apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import itertools
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from egressguard.firewall import nft
from egressguard.firewall.host import QueueBackend

LAN, ROUTER_LAN = "192.0.2.2", "192.0.2.1"
INTERNET, ROUTER_WAN = "198.51.100.2", "198.51.100.1"
SITE_NET, BLACK_HOLE_NET, BLACK_HOLE = "10.0.0.0/8", "203.0.113.0/24", "203.0.113.9"
LAN_MAC, ROUTER_MAC, WAN_MAC, INTERNET_MAC = (f"02:00:00:00:00:{i:02}" for i in (1, 2, 3, 4))

SINK = """table netdev sink {{
    chain in {{ type filter hook ingress device eth0 priority 0; policy accept; ip daddr {prefix} drop
    }}
}}
"""
EARLY_DROP = """table netdev early {
    chain in { type filter hook ingress device lan0 priority 0; policy drop;
    }
}
"""
"""What the router drops as it comes from the wire: the cost of the generator and of nothing else."""

_CLONE_NEWNET = 0x40000000
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20
_SIOCETHTOOL, _SET_TSO, _SET_GSO = 0x8946, 0x1F, 0x24
_CONNECT_SECONDS = 5
_CHUNK = bytes(1 << 20)
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)


class World:
    """Three namespaces; a context manager that takes them down."""

    def __init__(self, ruleset: str = "") -> None:
        self._mark = f"egbench-{os.getpid()}-{next(_numbers)}"
        self._made: list[str] = []
        self._ruleset = ruleset

    def __enter__(self) -> World:
        try:
            for name in ("lan", "router", "internet"):
                _ip("netns", "add", self._ns(name))
                self._made.append(name)
            self._links()
            self._routes()
            for name, prefix in (("internet", BLACK_HOLE_NET), ("lan", SITE_NET)):
                self.nft(name, SINK.format(prefix=prefix))
            self.nft("router", self._ruleset)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "delete", self._ns(name)], check=False)
        self._made.clear()

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread lives in a namespace; sockets that it opens and programs that it starts stay there."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self._ns(name)}", os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(before)
            os.close(before)
            os.close(there)

    def nft(self, name: str, ruleset: str) -> None:
        with self.inside(name):
            subprocess.run(["nft", "-f", "-"], input=ruleset, text=True, check=True)

    def packets_of_one_segment(self) -> None:
        """No offload: what the lan host sends goes through the router in packets of 1500 octets."""
        with self.inside("lan"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for command in (_SET_TSO, _SET_GSO):
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", b"eth0", ctypes.addressof(value)))

    def load(self, ruleset: str, queue: QueueBackend = "none", queue_number: int = 0) -> None:
        """As the gate loads it."""
        with self.inside("router"):
            asyncio.run(nft.load(ruleset, queue, queue_number))

    def forwarded(self) -> int:
        """Packets that have left the router for the internet."""
        with self.inside("router"):
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        (row,) = (line for line in lines if line.strip().startswith("wan0:"))
        return int(row.partition(":")[2].split()[9])

    def queue_state(self, queue_number: int) -> tuple[int, int]:
        """(packets that wait for a verdict, packets queued ever). Raises LookupError while nobody listens."""
        with self.inside("router"):
            lines = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text().splitlines()
        for fields in (line.split() for line in lines):
            if int(fields[0]) == queue_number:
                return int(fields[2]), int(fields[7])
        raise LookupError(f"nobody listens on queue {queue_number}")

    def has_queue(self, queue_number: int) -> bool:
        try:
            return bool(self.queue_state(queue_number))
        except LookupError:
            return False

    def _ns(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def _links(self) -> None:
        for device, host, mac, peer_mac in (
            ("lan0", "lan", ROUTER_MAC, LAN_MAC),
            ("wan0", "internet", WAN_MAC, INTERNET_MAC),
        ):
            near = ("link", "add", device, "address", mac, "netns", self._ns("router"), "type", "veth")
            _ip(*near, "peer", "name", "eth0", "address", peer_mac, "netns", self._ns(host))
        for name, device, address in (
            ("router", "lan0", ROUTER_LAN),
            ("router", "wan0", ROUTER_WAN),
            ("lan", "eth0", LAN),
            ("internet", "eth0", INTERNET),
        ):
            _ip("-n", self._ns(name), "address", "add", f"{address}/24", "dev", device)
            _ip("-n", self._ns(name), "link", "set", device, "up")

    def _routes(self) -> None:
        for name, prefix, via in (
            ("lan", "default", ROUTER_LAN),
            ("internet", "default", ROUTER_WAN),
            ("router", "default", INTERNET),
            ("router", SITE_NET, LAN),
        ):
            _ip("-n", self._ns(name), "route", "add", prefix, "via", via)
        for device, address, mac in (("lan0", LAN, LAN_MAC), ("wan0", INTERNET, INTERNET_MAC)):
            _ip("-n", self._ns("router"), "neighbour", "replace", address, "lladdr", mac, "dev", device)
        with self.inside("router"):
            subprocess.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], check=True)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vector", ctypes.c_void_p),
        ("vectors", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


class Sender:
    """Sends its frames again and again from the lan host: one system call for all of them."""

    def __init__(self, world: World, frames: Sequence[bytes]) -> None:
        self.count, self.sent = len(frames), 0
        with world.inside("lan"):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._sock.bind(("eth0", 0))
        self._sock.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        self._octets = ctypes.create_string_buffer(b"".join(frames))
        starts = itertools.accumulate((len(frame) for frame in frames), initial=ctypes.addressof(self._octets))
        self._vectors = (_Vector * self.count)(*[_Vector(s, len(f)) for s, f in zip(starts, frames, strict=False)])
        first, step = ctypes.addressof(self._vectors), ctypes.sizeof(_Vector)
        headers = (_Header(None, 0, first + step * i, 1, None, 0, 0) for i in range(self.count))
        self._messages = (_Message * self.count)(*[_Message(header, 0) for header in headers])

    def send(self) -> int:
        """Frames sent: each has gone through the router when this returns."""
        sent = int(_libc.sendmmsg(self._sock.fileno(), self._messages, self.count, 0))
        if sent < 0:
            raise OSError(ctypes.get_errno(), "sendmmsg")
        self.sent += sent
        return sent

    def close(self) -> None:
        self._sock.close()


class Bulk:
    """A TCP connection from the lan host to the internet's, whose receiver throws away what comes.

    The receiver shares its sender's core: what they send then measures what it costs, not how two cores get along."""

    def __init__(self, world: World, port: int) -> None:
        with world.inside("internet"):
            listener = socket.create_server((INTERNET, port))
        with listener, world.inside("lan"):
            self._out = socket.create_connection((INTERNET, port), timeout=_CONNECT_SECONDS)
            self._in, _ = listener.accept()
        self._receiver = threading.Thread(target=self._receive)
        self._receiver.start()

    def send(self) -> int:
        """Octets sent, at the rate at which they arrive once the socket's buffer is full."""
        return self._out.send(_CHUNK)

    def close(self) -> None:
        self._out.close()
        self._receiver.join()
        self._in.close()

    def _receive(self) -> None:
        room = bytearray(len(_CHUNK))
        while self._in.recv_into(room, 0, socket.MSG_TRUNC):
            pass


Costs = dict[str, list[float]]
"""Nanoseconds a frame, or an octet, in each slice of each contestant."""


def in_turns(senders: Mapping[str, Sender | Bulk], rounds: int, slice_seconds: float) -> Costs:
    names, found = list(senders), {name: list[float]() for name in senders}
    for sender in senders.values():
        sender.send()  # flows become known
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            sent, started = 0, time.perf_counter()
            while (now := time.perf_counter()) < started + slice_seconds:
                sent += senders[name].send()
            found[name].append((now - started) / sent * 1e9)
    return found


def syn(source: str, source_port: int, port: int) -> bytes:
    """The frame of a TCP SYN to the black hole."""
    segment = struct.pack("!HHIIBBHHH", source_port, port, 1, 0, 0x50, 0x02, 64240, 0, 0)
    return _frame(source, socket.IPPROTO_TCP, segment, 16)


def datagram(source: str, source_port: int, port: int) -> bytes:
    """The smallest Ethernet frame (60 octets) of a UDP datagram to the black hole."""
    return _frame(source, socket.IPPROTO_UDP, struct.pack("!HHHH", source_port, port, 26, 0) + bytes(18), 6)


def _frame(source: str, protocol: int, segment: bytes, checksum_at: int) -> bytes:
    ends = socket.inet_aton(source) + socket.inet_aton(BLACK_HOLE)
    pseudo = ends + struct.pack("!BBH", 0, protocol, len(segment))
    segment = _with_checksum(segment, checksum_at, pseudo)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0x4000, 64, protocol, 0) + ends
    macs = bytes.fromhex((ROUTER_MAC + LAN_MAC).replace(":", ""))
    return macs + b"\x08\x00" + _with_checksum(header, 10) + segment


def _with_checksum(octets: bytes, at: int, pseudo: bytes = b"") -> bytes:
    """RFC 1071; all that is summed here has an even length."""
    total = sum(word for (word,) in struct.iter_unpack("!H", pseudo + octets))
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return octets[:at] + struct.pack("!H", ~total & 0xFFFF) + octets[at + 2 :]
