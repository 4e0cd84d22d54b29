"""NFQUEUE on kernels without nftables' own `queue` statement: xt's target inside our own chain.

nft(8) cannot write it, iptables(8) writes it only into tables that are not ours; so this sends the one nfnetlink batch
that inserts the rule (nft_compat's "target" expression) at the head of a chain of `table inet egressguard`.
The chain ends in a drop: between the load of the table and this insertion it fails closed.
"""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_NETFILTER = 12
_SUBSYSTEM_NFTABLES = 10
_BATCH_BEGIN, _BATCH_END, _NEW_RULE = 0x10, 0x11, (_SUBSYSTEM_NFTABLES << 8) | 6
_REQUEST, _ACKNOWLEDGE, _CREATE = 0x1, 0x4, 0x400
_FAMILY_INET = 1
_NESTED = 0x8000
_TIMEOUT_SECONDS = 5
_BYPASS = 1  # NFQ_FLAG_BYPASS


def insert_queue_rule(table: str, chain: str, queue_number: int, *, bypass: bool = False) -> None:
    """Insert "NFQUEUE --queue-num N" at the head of `chain`; `bypass`: with nobody listening the packet passes.

    Raises OSError as the kernel refuses."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(_TIMEOUT_SECONDS)
        sock.bind((0, 0))
        sock.send(_batch(table, chain, struct.pack("=HHHH", queue_number, 1, _BYPASS if bypass else 0, 0)))
        _await_acknowledgement(sock)


def _batch(table: str, chain: str, information: bytes) -> bytes:
    begin = _message(_BATCH_BEGIN, _REQUEST, 1, struct.pack(">BBH", 0, 0, _SUBSYSTEM_NFTABLES))
    rule = _message(
        _NEW_RULE,
        _REQUEST | _CREATE | _ACKNOWLEDGE,
        2,
        struct.pack(">BBH", _FAMILY_INET, 0, 0) + _rule(table, chain, information),
    )
    end = _message(_BATCH_END, _REQUEST, 3, struct.pack(">BBH", 0, 0, _SUBSYSTEM_NFTABLES))
    return begin + rule + end


def _rule(table: str, chain: str, information: bytes) -> bytes:
    """`information`: struct xt_NFQ_info_v3 (number, how many queues, flags), padded to 8 octets."""
    target = _text(1, "NFQUEUE") + _attribute(2, struct.pack(">I", 3)) + _attribute(3, information)
    expression = _text(1, "target") + _attribute(2 | _NESTED, target)
    expressions = _attribute(1 | _NESTED, expression)
    return _text(1, table) + _text(2, chain) + _attribute(4 | _NESTED, expressions)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + b"\0" * (-length % 4)


def _message(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def _await_acknowledgement(sock: socket.socket) -> None:
    data = sock.recv(8192)
    (kind,) = struct.unpack_from("=H", data, 4)
    (code,) = struct.unpack_from("=i", data, 16)
    if kind == 2 and code != 0:  # NLMSG_ERROR; 0 is the acknowledgement
        raise OSError(-code, f"inserting the NFQUEUE rule: {os.strerror(-code)}")
