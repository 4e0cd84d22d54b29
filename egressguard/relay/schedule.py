"""When to try again, and when to give up (RFC 5321 s4.5.4.1). Pure: time is an argument."""

from __future__ import annotations

from egressguard.policy.scheduling import Retry

_DOUBLINGS = 30  # beyond any longest_seconds; keeps the shift small


def retry_at(retry: Retry, received_at: float, now: float, attempts: int) -> float | None:
    """The next attempt's time after `attempts` failed ones, doubling from first_seconds; None: give up.

    The last attempt is made when the time is up, not before: a wait that would reach beyond it is cut short.
    """
    give_up_at = received_at + retry.give_up_after_seconds
    if now >= give_up_at:
        return None
    wait = min(retry.first_seconds << min(max(attempts - 1, 0), _DOUBLINGS), retry.longest_seconds)
    return min(now + wait, give_up_at)


def lease_until(retry: Retry, received_at: float, now: float, attempts: int) -> float:
    """What a claim writes down as the next attempt, should nothing be heard of this one: never at once."""
    at = retry_at(retry, received_at, now, attempts)
    return now + retry.first_seconds if at is None else at
