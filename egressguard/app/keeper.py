"""The keeper of the policy: a change of rules is a transaction, and a bad one never stays.

    read, check, test -> saved whole -> pending is written down -> the roles take it -> probes -> confirmed,
    or at its deadline, at a veto, at a role's refusal, at our own death: back to what was confirmed

Contract
    What is pending never survives: whoever starts next comes back to the last confirmed policy (`settle`).
    A policy that was rolled back is not taken again by a start, only by another `apply`.
    One change at a time. Every refusal is a Refused with one line that says what to do, and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from egressguard.app.candidate import Candidate, Refused, read_candidate
from egressguard.app.generations import Generations, Pending
from egressguard.app.places import Places
from egressguard.app.probes import dns_answers, management_faults, relay_fault
from egressguard.app.provenance import provenance_of, write_provenance
from egressguard.app.rules import read_files, read_rules, write_snapshot
from egressguard.policy.difference.whole import compare
from egressguard.policy.model import Policy

log = logging.getLogger(__name__)

APPLYING_SECONDS = 120
"""How long an apply that is to be confirmed at once may take; a crash within it leads back."""
MOST_CONFIRM_SECONDS = 24 * 3600
MOST_TOLD = 20
"""So many promises that forced rules break stand in the journal."""

TellRoles = Callable[[], Awaitable[None]]
"""Let every role take the snapshot; raises Refused when one of them cannot."""
AskGate = Callable[..., Awaitable[Any]]
"""(command, arguments) -> the gate's answer; raises Refused."""
Record = Callable[[str, Mapping[str, object]], None]


@dataclass(frozen=True, slots=True)
class Means:
    """The outside of the keeper: `now` in seconds since 1970."""

    tell_roles: TellRoles
    ask_gate: AskGate
    record: Record
    now: Callable[[], float]


class Keeper:
    def __init__(self, places: Places, generations: Generations, means: Means, *, only_signed: bool) -> None:
        self._places = places
        self._generations = generations
        self._means = means
        self._only_signed = only_signed
        self._changing = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._watched = ""
        self._last_rollback = ""

    async def adopt(self, candidate: Candidate) -> None:
        """Confirm what the gateway was started with, once the roles run with it."""
        async with self._changing:
            revision = candidate.policy.revision
            self._generations.save(revision, candidate.files, candidate.source, candidate.provenance)
            confirmed = self._generations.confirmed()
            await self._keep_ruleset(revision)
            if confirmed is None or confirmed.revision != revision:
                self._generations.confirm(revision, self._means.now())

    async def plan(self) -> dict[str, Any]:
        """What `apply` would change: {"revision", "changes", "not_compared", "red", "before", "after"}.

        "before" and "after" are nft text; "changes" None = nothing is in force that could change."""
        async with self._changing:
            candidate = await asyncio.to_thread(read_candidate, self._places, only_signed=self._only_signed, force=True)
            before = await self._means.ask_gate("ruleset")
            write_snapshot(candidate.files, candidate.source, self._places.candidate)
            after = await self._means.ask_gate("check", rules=str(self._places.candidate))
            in_force = await asyncio.to_thread(self._in_force)
            found = await asyncio.to_thread(compare, in_force, candidate.policy) if in_force else None
            return {
                "revision": candidate.policy.revision,
                "changes": [change.row() for change in found.changes] if found is not None else None,
                "not_compared": list(found.cut) if found is not None else [],
                "red": candidate.red,
                "before": before,
                "after": after,
            }

    async def apply(
        self, *, confirm_within: float | None = None, forced: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Take the rules as they lie in the rules directory; `confirm_within` seconds, None = as the site says.

        `forced`: they are taken although they break a promise, for this "reason", "by" somebody: both are journaled
        before anything is changed."""
        async with self._changing:
            if forced is not None and not forced.get("reason"):
                raise Refused("expected a reason: rules that break a promise are taken with one only")
            candidate = await asyncio.to_thread(
                read_candidate, self._places, only_signed=self._only_signed, force=forced is not None
            )
            if forced is not None:
                told = {"revision": candidate.policy.revision, "red": candidate.red[:MOST_TOLD]}
                self._means.record("policy.forced", {**told, "reason": forced["reason"], "by": forced.get("by", "")})
            if confirm_within is None:
                confirm_within = candidate.policy.site.apply.confirm_within_seconds or 0
            if not 0 <= confirm_within <= MOST_CONFIRM_SECONDS:
                raise Refused(f"expected to be confirmed within 1 to {MOST_CONFIRM_SECONDS} seconds")
            await self._try(candidate, confirm_within)
            return await self._told()

    async def _try(self, candidate: Candidate, confirm_within: float) -> None:
        policy, revision = candidate.policy, candidate.policy.revision
        inside = frozenset((await self._means.ask_gate("status"))["inside_interfaces"])
        if fault := next(management_faults(policy, inside, self._means.now()), ""):
            raise Refused(f"{fault}; nothing was changed: mend the rules, or site.apply.management", "refused")
        wants_dns = "dns" in policy.site.apply.probes and await dns_answers(policy)
        generations, now = self._generations, self._means.now()
        generations.save(revision, candidate.files, candidate.source, candidate.provenance)
        self._stop_timer()
        generations.begin(revision, now, now + max(confirm_within, APPLYING_SECONDS))
        try:
            self._show(revision)
            await self._means.tell_roles()
            await self._keep_ruleset(revision)
            await self._probe(policy, wants_dns=wants_dns)
        except Refused as wrong:
            await self._back(revision, str(wrong))
            raise Refused(f"{wrong}; back to what was in force before") from wrong
        self._means.record("policy.applied", {"revision": revision, "confirm_within_seconds": confirm_within})
        if confirm_within:
            generations.prolong(Pending(revision, now, now), deadline := self._means.now() + confirm_within)
            self._timer = asyncio.create_task(self._wait_for_confirmation(revision, deadline))
        else:
            generations.confirm(revision, self._means.now())

    async def confirm(self) -> dict[str, Any]:
        """What is pending stays."""
        async with self._changing:
            pending = self._generations.pending()
            if pending is None:
                why = f" ({self._last_rollback})" if self._last_rollback else ""
                raise Refused(f"nothing waits to be confirmed{why}", "not-found")
            self._stop_timer()
            self._generations.confirm(pending.revision, self._means.now())
            self._means.record("policy.confirmed", {"revision": pending.revision})
            return await self._told()

    async def rollback(self) -> dict[str, Any]:
        """Back to what was confirmed; with nothing pending, to what was confirmed before that."""
        async with self._changing:
            pending, confirmed = self._generations.pending(), self._generations.confirmed()
            if pending is not None:
                self._stop_timer()
                await self._back(pending.revision, "rolled back by hand")
                return await self._told()
            before = next((r for r in reversed(confirmed.history if confirmed else ()) if self._generations.has(r)), "")
            if confirmed is None or not before:
                raise Refused("there is no earlier policy to go back to", "not-found")
            self._generations.begin(before, now := self._means.now(), now + APPLYING_SECONDS)
            try:
                self._show(before)
                await self._means.tell_roles()
                await self._keep_ruleset(before)
            except Refused as wrong:
                await self._back(before, str(wrong))
                raise
            self._generations.confirm(before, self._means.now())
            self._generations.refuse(confirmed.revision, "rolled back by hand")
            self._means.record("policy.rolled-back", {"revision": confirmed.revision, "to": before, "why": "by hand"})
            return await self._told()

    async def status(self) -> dict[str, Any]:
        return await self._told()

    async def watch(self, idle_seconds: float) -> None:
        """Apply what a new commit of the rules directory brought, where the policy in force says so."""
        while True:
            policy = await asyncio.to_thread(self._in_force)
            every = policy.site.apply.watch_git_seconds if policy else None
            await asyncio.sleep(every or idle_seconds)
            if every is not None:
                await self._look_at_git()

    async def _look_at_git(self) -> None:
        found = await asyncio.to_thread(provenance_of, self._places.rules)
        confirmed = self._generations.confirmed()
        in_force = self._generations.provenance(confirmed.revision).commit if confirmed else ""
        if not found.commit or found.modified or found.commit in {in_force, self._watched}:
            return
        self._watched = found.commit  # a commit that is refused is not tried again and again
        try:
            await self.apply()
            log.info("the rules' git checkout moved", extra={"fields": {"commit": found.commit[:12]}})
        except Refused as wrong:
            log.error("the rules' git checkout moved, not applied", extra={"fields": {"why": str(wrong)}})

    async def stop(self) -> None:
        """What is pending then is rolled back by whoever starts next."""
        self._stop_timer()

    async def _probe(self, policy: Policy, *, wants_dns: bool) -> None:
        if "relay" in policy.site.apply.probes and (fault := await relay_fault(policy, self._places.listening)):
            raise Refused(f"probe: {fault}")
        if wants_dns and not await dns_answers(policy):
            raise Refused("probe: DNS answered before, and does not now")

    async def _wait_for_confirmation(self, revision: str, deadline: float) -> None:
        await asyncio.sleep(max(0.0, deadline - self._means.now()))
        async with self._changing:
            pending = self._generations.pending()
            if pending is not None and pending.revision == revision:
                self._timer = None  # it is this very task that goes back
                with contextlib.suppress(Refused):
                    await self._back(revision, "not confirmed in time")

    async def _back(self, revision: str, why: str) -> None:
        """Leave `revision`: the snapshot first, so that a role that starts meanwhile is right already."""
        confirmed = self._generations.confirmed()
        self._last_rollback = f"revision {revision} was rolled back: {why}"
        log.warning("policy rolled back", extra={"fields": {"revision": revision, "why": why}})
        if confirmed is not None and confirmed.revision != revision:
            self._show(confirmed.revision)
            self._generations.refuse(revision, why)
            await self._means.tell_roles()
        elif confirmed is not None:
            self._generations.confirm(revision, self._means.now())
        self._means.record("policy.rolled-back", {"revision": revision, "why": why})

    def _show(self, revision: str) -> None:
        """Let the roles' copy be this generation's."""
        show(self._places, self._generations, revision)

    async def _keep_ruleset(self, revision: str) -> None:
        """What a boot loads before the daemon runs."""
        if text := await self._means.ask_gate("ruleset"):
            self._generations.save_ruleset(revision, text)

    def _in_force(self) -> Policy | None:
        return read_rules(self._places.snapshot, self._places.site, compiles=False)[0].policy

    async def _told(self) -> dict[str, Any]:
        pending, confirmed = self._generations.pending(), self._generations.confirmed()
        there, _ = await asyncio.to_thread(read_rules, self._places.rules, self._places.site)
        in_force = self._in_force()
        revision = in_force.revision if in_force else ""
        return {
            "in_force": revision,
            "confirmed": confirmed.revision if confirmed else "",
            "pending_seconds": max(0, round(pending.deadline - self._means.now())) if pending else None,
            "rules_directory": "has faults" if there.policy is None else there.policy.revision,
            "changed": there.policy is None or there.policy.revision != revision,
            "last_rollback": self._last_rollback,
        }

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def show(places: Places, generations: Generations, revision: str) -> None:
    """Make the roles' copy of the rules that of a saved generation."""
    source = generations.rules(revision)
    files, _ = read_files(source)
    write_snapshot({str(source / name): content for name, content in files.items()}, source, places.snapshot)
    write_provenance(generations.provenance(revision), places.provenance)


def settle(generations: Generations, *, now: float) -> str:
    """At a start: whatever was pending is over. The revision to start with; "" = the rules directory as it is."""
    pending, confirmed = generations.pending(), generations.confirmed()
    if pending is not None and (confirmed is None or confirmed.revision != pending.revision):
        generations.refuse(pending.revision, "the gateway ended before it was confirmed")
    elif pending is not None:
        generations.confirm(pending.revision, now)
    return confirmed.revision if confirmed is not None else ""
