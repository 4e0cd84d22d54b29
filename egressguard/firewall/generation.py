"""The kernel's count of changes to its nftables rules: one question over netlink, whatever the rules' size."""

from __future__ import annotations

import os
import socket
import struct

_NETLINK_NETFILTER = 12
_NEW_GENERATION, _GET_GENERATION = (10 << 8) | 15, (10 << 8) | 16
_REQUEST = 0x1
_ID = 1  # NFTA_GEN_ID
_TIMEOUT_SECONDS = 5


def read_generation() -> int:
    """A number that every change of any table in this network namespace raises. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
        sock.settimeout(_TIMEOUT_SECONDS)
        sock.bind((0, 0))
        sock.send(struct.pack("=IHHII", 20, _GET_GENERATION, _REQUEST, 1, 0) + struct.pack(">BBH", 0, 0, 0))
        answer = sock.recv(8192)
    kind, (code,) = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)
    if kind != _NEW_GENERATION:
        raise OSError(-code, f"the generation of the rules: {os.strerror(abs(code))}")
    offset = 20
    while offset + 8 <= len(answer):
        length, attribute = struct.unpack_from("=HH", answer, offset)
        if attribute & 0x3FFF == _ID:
            return int(struct.unpack_from(">I", answer, offset + 4)[0])
        offset += max(4, (length + 3) & ~3)
    raise OSError(0, "the kernel told no generation")
