"""How much a smart host or a destination was given lately, and when it may be given more. Pure: time is given.

Contract
    Counted as policy.limits counts: by slots of a twelfth of the span, so that no span of its length holds more than
    the rules say; what was counted frees up to one slot later than it need.
    What alone has more recipients than a span may hold goes when nothing else is in the span.
    `state` and `restored` carry what was counted over a restart; what is not understood there counts nothing.
    Each gateway counts for itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from egressguard.policy.limits import SLOTS, WINDOWS, Quota
from egressguard.policy.scheduling import Rate

COUNTED = ("messages", "recipients")
MOST_NAMES = 2000  # more than the rules can have; bounds what a file may bring along

Quotas = tuple[Quota, ...]
Slots = dict[int, int]


def quotas_of(rate: Rate) -> Quotas:
    """Every number of a rate."""
    units = [(f"{counted}_per_{window}", counted, window) for counted in COUNTED for window in WINDOWS]
    found = [(unit, counted, window, getattr(rate, unit)) for unit, counted, window in units]
    return tuple(
        Quota(unit, counted, WINDOWS[window], most) for unit, counted, window, most in found if most is not None
    )


class Rates:
    """`name` is whom it is counted for."""

    def __init__(self) -> None:
        self._counted: dict[tuple[str, str], Slots] = {}

    def free_at(self, name: str, quotas: Quotas, recipients: int, now: float) -> float:
        """When one more message to so many recipients may go; now, if it may."""
        return max([now, *(self._free_at(name, q, _amount(q, recipients), now) for q in quotas)])

    def charge(self, name: str, quotas: Quotas, recipients: int, now: float, *, times: int = 1) -> None:
        """Count a message to so many recipients; `times=-1` takes it back."""
        for quota in quotas:
            slots = self._counted.setdefault((name, quota.unit), {})
            slot = quota.slot(now)
            for old in [at for at in slots if not slot - SLOTS <= at <= slot + SLOTS]:
                del slots[old]
            slots[slot] = max(slots.get(slot, 0) + times * _amount(quota, recipients), 0)

    def used(self, name: str, quotas: Quotas, now: float) -> dict[str, tuple[int, int]]:
        """Unit -> (counted now, the most)."""
        return {q.unit: (sum(self._slots(name, q, now).values()), q.most) for q in quotas}

    def _slots(self, name: str, quota: Quota, now: float) -> Slots:
        slot = quota.slot(now)
        slots = self._counted.get((name, quota.unit), {})
        return {at: amount for at, amount in slots.items() if slot - SLOTS <= at <= slot + SLOTS}

    def _free_at(self, name: str, quota: Quota, amount: int, now: float) -> float:
        slots = self._slots(name, quota, now)
        total = sum(slots.values())
        for at in sorted(slots):
            if total == 0 or total + amount <= quota.most:
                break
            total -= slots.pop(at)
            now = max(now, (at + SLOTS + 1) * float(quota.slot_seconds))
        return now

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        wanted = set(names)
        self._counted = {key: slots for key, slots in self._counted.items() if key[0] in wanted}

    def state(self) -> dict[str, dict[str, dict[str, int]]]:
        """All of it, ready for JSON."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for (name, unit), slots in self._counted.items():
            found.setdefault(name, {})[unit] = {str(slot): amount for slot, amount in slots.items()}
        return found

    @classmethod
    def restored(cls, state: Any) -> Rates:
        """From what `state` gave, or from anything else."""
        rates = cls()
        for name, units in _items(state):
            for unit, slots in _items(units):
                known = {int(at): amount for at, amount in _items(slots) if at.isdecimal() and type(amount) is int}
                if known and len(rates._counted) < MOST_NAMES:
                    rates._counted[name, unit] = dict(list(known.items())[: 2 * SLOTS + 1])
        return rates


def _amount(quota: Quota, recipients: int) -> int:
    return recipients if quota.counted == "recipients" else 1


def _items(value: Any) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, Mapping) else []
