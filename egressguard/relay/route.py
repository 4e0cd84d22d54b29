"""Where a recipient's mail goes next: from a route of the rules and from DNS answers to next hops. Pure.

Contract
    MX hosts come by preference, equal ones in random order (chance is an argument), RFC 5321 s5.1.
    No MX: the domain itself. Null MX (RFC 7505): permanent. Names that do not exist: permanent.
    Ourselves among the MX hosts: we and all of equal or worse preference are left out; nobody left is permanent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from egressguard.mail.outcome import Outcome, permanent, transient

MAX_HOSTS = 20
"""Hosts tried for one message at one attempt; a domain with more is tried again later."""

TlsMode = Literal["none", "opportunistic", "starttls", "implicit"]


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"


@dataclass(frozen=True, slots=True)
class NextHop:
    """A host to dial. `transport` names the way in metrics and journal: "mx" or the smart host's name."""

    host: str
    port: int
    tls: TlsMode = "opportunistic"
    transport: str = "mx"
    ca_file: str | None = None
    credentials: Credentials | None = None


class Answer(enum.Enum):
    """What DNS said besides records."""

    FOUND = "found"
    NOTHING = "nothing"  # the name exists, the records do not
    NO_SUCH_NAME = "no such name"
    FAILED = "failed"  # SERVFAIL, time-out: cannot tell


@dataclass(frozen=True, slots=True)
class MxAnswer:
    answer: Answer
    hosts: tuple[tuple[int, str], ...] = ()


def hops_by_mx(
    domain: str, mx: MxAnswer, port: int, is_ourselves: Callable[[str], bool], chance: Callable[[], float]
) -> Sequence[NextHop] | Outcome:
    """The hosts to try for `domain` in order, or the outcome that DNS dictates."""
    if domain.startswith("["):
        return [NextHop(domain[1:-1].removeprefix("ipv6:"), port)]
    if mx.answer is Answer.NO_SUCH_NAME:
        return permanent("5.1.2", f"the domain {domain} does not exist")
    if mx.answer is Answer.FAILED:
        return transient("4.4.3", f"no answer from DNS for {domain}")
    if mx.answer is Answer.NOTHING:
        return [NextHop(domain, port)]
    if any(host in {"", "."} for _, host in mx.hosts):
        return permanent("5.1.10", f"the domain {domain} accepts no mail (null MX)")
    ordered = _ordered(mx.hosts, is_ourselves, chance)
    if not ordered:
        return permanent("5.4.6", f"mail for {domain} loops back to this gateway")
    return [NextHop(host, port) for host in ordered[:MAX_HOSTS]]


def _ordered(
    hosts: Sequence[tuple[int, str]], is_ourselves: Callable[[str], bool], chance: Callable[[], float]
) -> list[str]:
    own = min((preference for preference, host in hosts if is_ourselves(host)), default=None)
    kept = [(p, h) for p, h in hosts if own is None or p < own]
    shuffled = [(p, chance(), h.rstrip(".").lower()) for p, h in sorted(kept)]
    return list(dict.fromkeys(host for _, _, host in sorted(shuffled)))
