"""When to try again, and when to give up (RFC 5321 s4.5.4.1). Pure: time is an argument."""

from __future__ import annotations

from egressguard.policy.model import Retry


def retry_at(retry: Retry, received_at: float, now: float, attempts: int) -> float | None:
    """The next attempt's time after `attempts` failed ones, doubling from first_seconds; None: give up."""
    if now - received_at >= retry.give_up_after_seconds:
        return None
    wait = min(retry.first_seconds << min(attempts - 1, 30), retry.longest_seconds)
    return now + wait
