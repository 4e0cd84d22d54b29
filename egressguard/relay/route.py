"""Which hosts take a domain's mail, and in what order: from DNS answers to hosts to dial. Pure.

Contract
    MX hosts come by preference, equal ones in random order (chance is an argument), RFC 5321 s5.1.
    No MX: the domain itself. Null MX (RFC 7505) and names that do not exist: permanent. DNS cannot tell: transient.
    Ourselves among the MX hosts: we and all of equal or worse preference are left out; nobody left is permanent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from egressguard.mail.outcome import Outcome, permanent, transient
from egressguard.policy.relaying import AddressFamily

MAX_HOSTS = 10
"""MX hosts looked at for one domain; hostile zones have hundreds."""
MAX_ADDRESSES = 6
"""Addresses dialled for one host at one attempt."""


class Answer(enum.Enum):
    """What DNS said besides records."""

    FOUND = "found"
    NOTHING = "nothing"  # the name exists, the records do not
    NO_SUCH_NAME = "no such name"
    FAILED = "failed"  # SERVFAIL, time-out: cannot tell


@dataclass(frozen=True, slots=True)
class MxAnswer:
    """`hosts` are (preference, name), in any order. `secure`: by DNSSEC the answer is true, or that there is none."""

    answer: Answer
    hosts: tuple[tuple[int, str], ...] = ()
    secure: bool = False


@dataclass(frozen=True, slots=True)
class AddressAnswer:
    """`alias_of` is what the host is an alias (CNAME) of, "" = nothing. `secure` as in MxAnswer, aliases and all."""

    answer: Answer
    addresses: tuple[str, ...] = ()
    secure: bool = False
    alias_of: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class Host:
    """A host to dial; `addresses` in the order to try them."""

    name: str
    addresses: tuple[str, ...]


def literal_address(domain: str) -> str | None:
    """The address in an address literal ("[192.0.2.1]", "[ipv6:2001:db8::1]"), or None for a name."""
    if not (domain.startswith("[") and domain.endswith("]")):
        return None
    inner = domain[1:-1]
    return inner[5:] if inner[:5].lower() == "ipv6:" else inner


def order_exchanges(
    domain: str, mx: MxAnswer, chance: Callable[[], float], hostname: str = ""
) -> Sequence[Exchange] | Outcome:
    """The exchanges of `domain` in the order to try them, or the outcome that DNS dictates.

    `hostname`, ourselves, comes first among its equals: a loop must not hide beyond MAX_HOSTS."""
    if mx.answer is Answer.NO_SUCH_NAME:
        return permanent("5.1.2", f"the domain {domain} does not exist")
    if mx.answer is Answer.FAILED:
        return transient("4.4.3", f"DNS does not answer for {domain}")
    if mx.answer is Answer.NOTHING or not mx.hosts:
        return (Exchange(0, domain),)
    named: dict[str, int] = {}  # each host once, at its best
    for preference, host in sorted(mx.hosts):
        if plain := _plain(host):
            named.setdefault(plain, preference)
    if not named:
        return permanent("5.1.10", f"the domain {domain} accepts no mail (null MX)")
    own = _plain(hostname)
    shuffled = sorted((preference, host != own, chance(), host) for host, preference in named.items())
    return tuple(Exchange(preference, host) for preference, _, _, host in shuffled[:MAX_HOSTS])


def _plain(host: str) -> str:
    return host.rstrip(".").lower()


def reachable_hosts(
    domain: str,
    exchanges: Sequence[Exchange],
    answers: Mapping[str, AddressAnswer],
    is_ours: Callable[[str], bool],
) -> Sequence[Host] | Outcome:
    """The hosts to dial. `answers` has each exchange's addresses; `is_ours` takes a host name or an address."""
    own = [e.preference for e in exchanges if _is_ourselves(e, answers[e.host], is_ours)]
    kept = [e for e in exchanges if not own or e.preference < min(own)]
    if not kept:
        return permanent("5.4.6", f"mail for {domain} would come back to this gateway")
    hosts = [Host(e.host, answers[e.host].addresses[:MAX_ADDRESSES]) for e in kept if answers[e.host].addresses]
    return hosts or _no_addresses(domain, [answers[e.host].answer for e in kept])


def _is_ourselves(exchange: Exchange, answer: AddressAnswer, is_ours: Callable[[str], bool]) -> bool:
    return is_ours(exchange.host) or any(is_ours(address) for address in answer.addresses)


def _no_addresses(domain: str, answers: Sequence[Answer]) -> Outcome:
    if Answer.FAILED in answers:
        return transient("4.4.3", f"DNS does not answer for the mail hosts of {domain}")
    return permanent("5.4.4", f"no mail host of {domain} has an address")


def of_family(addresses: Sequence[str], family: AddressFamily) -> tuple[str, ...]:
    """The addresses to dial, in their order; a socket's path is of every family."""
    if any(address.startswith("/") for address in addresses):
        return tuple(addresses)
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    match family:
        case "ipv6-only":
            return tuple(six)
        case "ipv4-only":
            return tuple(four)
        case "ipv4-first":
            return interleaved(four, six)
    return interleaved(six, four)


def interleaved(first: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    """The first family, then turn by turn (RFC 8305 s4): a broken IPv6 costs one address, not all the tries."""
    return tuple(address for pair in zip_longest(first, other) for address in pair if address is not None)
