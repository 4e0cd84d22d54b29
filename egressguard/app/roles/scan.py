"""The scan role: workers that read hostile messages, with no network and no rights to any file.

Its status asks every engine for its version, so that an administrator sees which are there."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import Counter

from egressguard.app.control import CommandError, Commands
from egressguard.app.incidents import KINDS
from egressguard.app.places import Places
from egressguard.app.roles.frame import framed, serve_until_stopped
from egressguard.policy.model import Policy
from egressguard.scan import libarchive
from egressguard.scan.engines import engine_versions
from egressguard.scan.server import ScanServer

STATUS_SECONDS = 2.0


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("scan", places, high_ports=high_ports) as frame:
        rules = places.rules
        server = ScanServer(places.scanner, frame.policy.site.scan, registry=frame.registry, rules=rules)
        await asyncio.to_thread(server.start)

        incidents = Counter(
            "egressguard_scan_incidents_total",
            "Malware found in mail that was let through before (relayed_malware, delivered_malware).",
            ["kind"],
            registry=frame.registry,
        )
        for kind in KINDS:
            incidents.labels(kind)

        async def incident(kind: str, fields: dict[str, Any]) -> str:
            """`egressguard scan` has found something in mail that went out or into a mailbox."""
            if kind not in KINDS:
                raise CommandError(f"no kind of incident: {kind!r:.60}")
            incidents.labels(kind).inc()
            frame.record(f"incident.{kind}", fields)
            return kind

        async def status() -> dict[str, Any]:
            scan, archives = frame.policy.site.scan, _archives()
            engines = await asyncio.to_thread(engine_versions, scan, rules, STATUS_SECONDS)
            told = [f"{name} {version or 'does not answer'}" for name, version in engines.items()] or ["no engine"]
            summary = ", ".join([f"{scan.workers} workers", *told, f"archives: {archives}"])
            return {"workers": scan.workers, "engines": engines, "archives": archives, "summary": summary}

        async def reload(policy: Policy) -> None:
            await asyncio.to_thread(server.reload, policy.site.scan)

        try:
            await serve_until_stopped(frame, Commands({"status": status}, {"incident": incident}), reload)
        finally:
            await asyncio.to_thread(server.stop)


def _archives() -> str:
    return f"only ZIP, others are held: {libarchive.PACKAGE} is missing" if libarchive.is_missing() else "opened"
