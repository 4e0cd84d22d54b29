"""A message to be looked at, and what was found in it. By themselves: a scan with nothing to do needs no worker."""

from __future__ import annotations

from typing import NamedTuple

from egressguard.scan.sources import Source, Status

ERROR = "error"
"""The verdict on what could not be looked at."""


class Job(NamedTuple):
    """Octets `start` to `start` + `size` of `fd`, which whoever takes the Job back closes."""

    source: Source
    status: Status
    fd: int
    start: int
    size: int


class Done(NamedTuple):
    """`verdict` as Verdict's values, or "error"; `digest` of the content, empty when nothing was read."""

    job: Job
    verdict: str
    digest: bytes
    findings: tuple[str, ...]
