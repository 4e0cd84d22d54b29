"""The gate role: the rules in the kernel, what they stopped, and the verdicts that need thought."""

from __future__ import annotations

import asyncio
import json
import pwd
from typing import Any

from egressguard.app.children import ROLES
from egressguard.app.control import CommandError, Commands, DaemonUnreachable, ask
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.firewall.gate import Gate


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("gate", places, high_ports=high_ports) as frame:
        gate = Gate(
            frame.policy,
            redirect_port=_redirect_port(frame),
            relay_uid=_relay_uid(),
            record=frame.record,
            registry=frame.registry,
            plan_path=places.plan,
            plan_only=high_ports,
            contained=lambda: _contained(places),
        )
        await gate.start()
        running = asyncio.create_task(gate.run())
        running.add_done_callback(lambda _task: frame.stopping.set())

        async def status() -> dict[str, Any]:
            return gate.status()

        await serve_until_stopped(frame, Commands({"status": status}), gate.reload)
        await gate.stop()
        if not running.cancel():
            running.result()  # a gate that ended by itself ends the role with its own exception


async def _contained(places: Places) -> dict[str, float] | None:
    """The hosts that the relay shuts out; None when it does not answer."""
    try:
        rows = await asyncio.to_thread(ask, places.control("relay"), "limits.contained", 5)
        return {str(row["host"]): float(row["until"]) for row in rows}
    except (DaemonUnreachable, CommandError, KeyError, TypeError, ValueError):
        return None


def _redirect_port(frame: Frame) -> int | None:
    """Where the relay's redirect listener really is: the rules may say port 0."""
    relay = frame.policy.site.relay
    if relay.redirect_to is None:
        return None
    try:
        bound = json.loads(frame.places.listening.read_text())[relay.redirect_to]
        return int(bound[0][1])
    except (OSError, KeyError, IndexError, ValueError):
        return relay.listeners[relay.redirect_to].port or None


def _relay_uid() -> int | None:
    user = next(role.user for role in ROLES if role.name == "relay")
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
