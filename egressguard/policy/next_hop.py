"""Next hops that stand in a rule themselves: "[mx.example]:2525", "lmtp:unix:/run/lmtp", "pipe:uucp:nodeb". Pure.

Contract
    Brackets mean: this very host, no MX look-up. "smtp:DOMAIN" is the MX hosts of another domain.
    A text is one next hop or none: it has no spaces, and what is not understood is refused, never guessed at.
    `canonical` writes each next hop in one way: it is what destinations are told apart by.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from egressguard.mail.address import AddressError, parse_domain
from egressguard.policy.endpoint import parse_port

PORTS = {"smtp": 25, "smtps": 465, "lmtp": 24}
"""The ports of next hops that name none."""
HOST_FORM = r"\[[0-9A-Za-z._:-]{1,255}\](:[0-9]{1,5})?"
PIPE_FORM = r"pipe:[a-z0-9][a-z0-9_-]{0,62}(:[0-9A-Za-z][0-9A-Za-z._-]{0,62})?"
SOCKET_FORM = r"lmtp:unix:/[!-~]{1,100}"
NEXT_HOP_FORM = rf"((smtps?|lmtp):)?{HOST_FORM}|smtp:[0-9A-Za-z._-]{{1,255}}|{SOCKET_FORM}|{PIPE_FORM}"
EXPECTED = (
    "expected mx, the name of a smart host, or a next hop such as [mx.example.org]:2525, smtps:[192.0.2.1], "
    "smtp:example.org (its MX), lmtp:[192.0.2.1]:24, lmtp:unix:/run/lmtp or pipe:NAME"
)
_NEXT_HOP = re.compile(NEXT_HOP_FORM)
_HOST = re.compile(r"(?:(smtps?|lmtp):)?\[([^\]]+)\](?::([0-9]+))?")


@dataclass(frozen=True, slots=True)
class NextHop:
    """`host` is a name or address to dial; a domain for "mx"; a pipe's name; "" for a Unix socket, which is `path`.

    `argument` is what stands behind a pipe's name: its program's {nexthop}."""

    transport: Literal["smtp", "smtps", "lmtp", "mx", "pipe"]
    host: str
    port: int = 0
    path: str = ""
    argument: str = ""

    def __str__(self) -> str:
        if self.transport == "mx":
            return f"smtp:{self.host}"
        if self.transport == "pipe":
            return f"pipe:{self.host}" + (f":{self.argument}" if self.argument else "")
        return f"lmtp:unix:{self.path}" if self.path else f"{self.transport}:[{self.host}]:{self.port}"

    @property
    def stands_alone(self) -> bool:
        """Whether nothing can stand beside it in one `via`."""
        return self.transport in {"mx", "pipe"}


def is_next_hop(text: str) -> bool:
    """Whether one item of a `via` stands for itself; else it is "mx" or the name of a smart host."""
    return ":" in text or text.startswith("[")


@functools.lru_cache(maxsize=1000)
def parse_next_hop(text: str) -> NextHop:
    """Raises ValueError with words of what was expected."""
    if not _NEXT_HOP.fullmatch(text):
        raise ValueError(EXPECTED)
    if text.startswith("pipe:"):
        _, name, argument = f"{text}:".split(":")[:3]
        return NextHop("pipe", name, argument=argument)
    if text.startswith("lmtp:unix:"):
        return NextHop("lmtp", "", path=text.removeprefix("lmtp:unix:"))
    if (match := _HOST.fullmatch(text)) is None:
        return NextHop("mx", _domain(text.removeprefix("smtp:")))
    transport = match[1] or "smtp"
    port = parse_port(match[3]) if match[3] else PORTS[transport]
    return NextHop(transport, _host(match[2]), port)  # type: ignore[arg-type]  # the pattern has these words only


def canonical(text: str) -> str:
    """An item of a `via` in the one way of writing it."""
    return str(parse_next_hop(text)) if is_next_hop(text) else text


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.removeprefix("IPv6:").removeprefix("ipv6:")))
    except ValueError:
        return _domain(text)


def _domain(text: str) -> str:
    try:
        domain = parse_domain(text)
    except AddressError as wrong:
        raise ValueError(f"{wrong}; {EXPECTED}") from None
    if domain.rpartition(".")[2].isdecimal():
        raise ValueError(f"that is no host name; {EXPECTED}")
    return domain
