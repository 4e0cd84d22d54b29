"""What limits count, for whom, and when one is exceeded. Pure: what was counted so far is given.

Contract
    Time is cut into slots of a twelfth of the window. What is counted in the slot of `now` and in the twelve before
    it, and what would be added, may not be more than the limit: no span of the window's length ever holds more.
    The price: what was counted frees up to one slot later than it need (5 s, 5 min, 2 h).
    Who has no key (no user, no device) is not limited by that limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from egressguard.mail.address import domain_of
from egressguard.net.flow import IPAddress
from egressguard.policy.matchers import device_of
from egressguard.policy.model import Limit, Policy
from egressguard.policy.networks import normal, zones_of

SLOTS = 12
WINDOWS = {"minute": 60, "hour": 3600, "day": 86400}
"""Window -> seconds."""
COUNTED = ("messages", "recipients", "distinct_recipients", "octets", "new_destinations", "refusals")
NEW_DESTINATION_SECONDS = 30 * 86400
"""A recipient domain is new to a key that has not written to it for so long."""


@dataclass(frozen=True, slots=True)
class Quota:
    """`most` of `counted` in any `window_seconds`; `unit` is the key in the rules ("recipients_per_hour")."""

    unit: str
    counted: str
    window_seconds: int
    most: int

    @property
    def slot_seconds(self) -> int:
        return self.window_seconds // SLOTS

    def slot(self, now: float) -> int:
        """The number of the slot that `now` (seconds since 1970) is in."""
        return int(now // self.slot_seconds)


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one message would add. `recipients` are forward-paths; a refusal counts as refusal and nothing else."""

    messages: int = 0
    octets: int = 0
    refusals: int = 0
    recipients: tuple[str, ...] = ()

    def plain(self, counted: str) -> int:
        """The amount of what needs no memory of names: messages, recipients, octets, refusals."""
        return len(self.recipients) if counted == "recipients" else int(getattr(self, counted))

    def names(self, counted: str) -> frozenset[str]:
        """The names that distinct_recipients and new_destinations tell apart."""
        if counted == "distinct_recipients":
            return frozenset(path.lower() for path in self.recipients)
        return frozenset(filter(None, map(domain_of, self.recipients)))


def quotas(limit: Limit) -> tuple[Quota, ...]:
    """Every number of a limit."""
    return _quotas(tuple((f"{c}_per_{w}", getattr(limit, f"{c}_per_{w}")) for c in COUNTED for w in WINDOWS))


@lru_cache(maxsize=4096)
def _quotas(numbers: tuple[tuple[str, int | None], ...]) -> tuple[Quota, ...]:
    found = []
    for unit, most in numbers:
        if most is not None:
            counted, _, window = unit.rpartition("_per_")
            found.append(Quota(unit, counted, WINDOWS[window], most))
    return tuple(found)


def key_of(policy: Policy, limit: Limit, client: IPAddress, user: str | None, reverse_path: str) -> str | None:
    """Whom the limit counts for: "host 192.0.2.7", "user anna", ...; None: nobody."""
    if limit.per == "host":
        name: str | None = str(normal(client))
    elif limit.per == "device":
        device = device_of(policy, client)
        name = device.name if device else None
    elif limit.per == "user":
        name = user
    elif limit.per == "sender_domain":
        name = domain_of(reverse_path)
    else:
        name = min(zones_of(policy, client, "", frozenset()), default=None)
    return f"{limit.per} {name}" if name else None
