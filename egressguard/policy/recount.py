"""Limits counted again over past messages: what `store.limits` counts, in memory. Pure: time is an argument.

Contract
    The same look, decision and charge give the same answer as `store.limits` (a test holds the two equal).
    Time only goes forward; a moment that goes back a little counts as now. What counts no more is forgotten.
    It begins empty: what was sent before the first message counts for nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from egressguard.net.flow import IPAddress
from egressguard.policy.facts import Excess
from egressguard.policy.limits import NEW_DESTINATION_SECONDS, SLOTS, Amounts, Quota, key_of, quotas
from egressguard.policy.model import Policy

Keys = tuple[tuple[str, str], ...]
"""(limit, whom it counts for)."""


@dataclass(slots=True)
class _Count:
    """One number of one key: amounts by slot, the oldest first, and names by when they were last seen."""

    slots: OrderedDict[int, int] = field(default_factory=OrderedDict)
    total: int = 0
    names: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def settle(self, slot: int) -> None:
        while self.slots and (oldest := next(iter(self.slots))) < slot - SLOTS:
            self.total -= self.slots.pop(oldest)

    def settle_names(self, oldest: int) -> None:
        """Forget the names that were last seen before then."""
        while self.names and next(iter(self.names.values())) < oldest:
            self.names.popitem(last=False)

    def add(self, slot: int, amount: int) -> None:
        self.slots[slot] = self.slots.get(slot, 0) + amount
        self.total += amount

    def see(self, names: frozenset[str], last: int) -> None:
        for name in names:
            self.names[name] = last
            self.names.move_to_end(name)


@dataclass(frozen=True, slots=True)
class Shut:
    until: float
    limit: str


class Recount:
    """relay.judge.Limits, of one policy."""

    def __init__(self, policy: Policy) -> None:
        named = {name for rule in policy.mail for name in (*rule.limit, *rule.match.over_limit)}
        self._limits = tuple(limit for limit in policy.limits if limit.name in named)
        self._quotas = {limit.name: quotas(limit) for limit in self._limits}
        self._counts: dict[tuple[str, str, str], _Count] = {}
        self._shut: dict[str, Shut] = {}
        self._now = 0.0

    def forget(self) -> None:
        """Begin anew."""
        self._counts.clear()
        self._shut.clear()

    def step(self) -> AbstractContextManager[object]:
        return nullcontext()

    def exceeded(
        self, policy: Policy, client: IPAddress, user: str | None, reverse_path: str, amounts: Amounts, now: float
    ) -> dict[str, Excess]:
        return self.exceeded_by(self.keys(policy, client, user, reverse_path), amounts, now)

    def charge(
        self,
        policy: Policy,
        limit_names: tuple[str, ...],
        client: IPAddress,
        user: str | None,
        reverse_path: str,
        amounts: Amounts,
        now: float,
    ) -> None:
        self.charge_to(self.keys(policy, client, user, reverse_path), limit_names, amounts, now)

    def keys(self, policy: Policy, client: IPAddress, user: str | None, reverse_path: str) -> Keys:
        """For whom such a message counts."""
        found = ((limit.name, key_of(policy, limit, client, user, reverse_path)) for limit in self._limits)
        return tuple((name, key) for name, key in found if key is not None)

    def exceeded_by(self, keys: Keys, amounts: Amounts, now: float) -> dict[str, Excess]:
        self._now = max(now, self._now)
        found: dict[str, Excess] = {}
        for name, key in keys:
            for quota in self._quotas[name]:
                would_be = self._would_be(name, key, quota, amounts)
                if would_be > quota.most:
                    found[name] = Excess(key, quota.unit, quota.most, would_be)
                    break
        return found

    def charge_to(self, keys: Keys, limit_names: Collection[str], amounts: Amounts, now: float) -> None:
        self._now = max(now, self._now)
        for name, key in keys:
            for quota in self._quotas[name] if name in limit_names else ():
                self._add(name, key, quota, amounts)

    def contain(self, host: str, until: float, limit: str) -> None:
        known = self._shut.get(host)
        if known is None or until > known.until:
            self._shut[host] = Shut(until, limit)

    def contained(self, host: str, now: float) -> Shut | None:
        known = self._shut.get(host)
        return known if known is not None and known.until > now else None

    def _count(self, name: str, key: str, quota: Quota) -> _Count:
        return self._counts.setdefault((name, key, quota.unit), _Count())

    def _would_be(self, name: str, key: str, quota: Quota, amounts: Amounts) -> int:
        count, slot = self._count(name, key, quota), quota.slot(self._now)
        if quota.counted == "distinct_recipients":
            count.settle_names(slot - SLOTS)
            return len(count.names) + sum(each not in count.names for each in amounts.names(quota.counted))
        count.settle(slot)
        if quota.counted == "new_destinations":
            return count.total + len(self._new(count, quota, amounts))
        return count.total + amounts.plain(quota.counted)

    def _add(self, name: str, key: str, quota: Quota, amounts: Amounts) -> None:
        count, slot = self._count(name, key, quota), quota.slot(self._now)
        if quota.counted == "distinct_recipients":
            count.see(amounts.names(quota.counted), slot)
        elif quota.counted == "new_destinations":
            count.add(slot, len(self._new(count, quota, amounts)))
            count.see(amounts.names(quota.counted), int(self._now))
        else:
            count.add(slot, amounts.plain(quota.counted))

    def _new(self, count: _Count, quota: Quota, amounts: Amounts) -> frozenset[str]:
        count.settle_names(int(self._now) - NEW_DESTINATION_SECONDS + 1)
        return frozenset(each for each in amounts.names(quota.counted) if each not in count.names)
