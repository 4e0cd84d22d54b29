"""The gate role: the rules in the kernel, what they stopped, and the verdicts that need thought."""

from __future__ import annotations

import asyncio
import json
import pwd
from typing import Any

from egressguard.app.children import ROLES
from egressguard.app.control import Commands
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
