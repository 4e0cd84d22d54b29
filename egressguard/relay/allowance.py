"""How many notices may still leave: to an address, about a client's mail, in all (relay.dsn). Time is an argument.

Contract
    In any hour at most twice what the rules allow, in the long run no more than that: a full hour's worth at once,
    then as time goes by.
    Bounded: what nobody takes from is forgotten, at the latest when MAX_BUCKETS others have been taken from since.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from egressguard.policy.bounces import Dsn

MAX_BUCKETS = 20_000
HOUR_SECONDS = 3600


@dataclass(slots=True)
class _Bucket:
    """`used` of an hour's allowance as of `at`."""

    used: float
    at: float

    def used_at(self, now: float, per_hour: int) -> float:
        return max(0.0, self.used - max(0.0, now - self.at) * per_hour / HOUR_SECONDS)


class Allowance:
    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, rule: Dsn, address: str, client: str, now: float) -> str | None:
        """Take one; or, where nothing is left, take nothing and say which of the rule's keys is in the way."""
        asked = [
            (("per_address", address.lower()), rule.per_address),
            (("per_client", client), rule.per_client),
            (("in_all", ""), rule.in_all),
        ]
        used = {key: self._used(key, now, per_hour) for key, per_hour in asked}
        for key, per_hour in asked:
            if used[key] + 1 > per_hour:
                return key[0]
        for key, count in used.items():
            self._buckets[key] = _Bucket(count + 1, now)
            self._buckets.move_to_end(key)
        while len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return None

    def _used(self, key: tuple[str, str], now: float, per_hour: int) -> float:
        bucket = self._buckets.get(key)
        return 0.0 if bucket is None else bucket.used_at(now, per_hour)
