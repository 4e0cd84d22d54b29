"""The gate role: the rules in the kernel, what they stopped, and the verdicts that need thought."""

from __future__ import annotations

import asyncio
import json
import pwd
from dataclasses import replace
from pathlib import Path
from typing import Any

from egressguard.app.children import ROLES
from egressguard.app.control import CommandError, Commands, DaemonUnreachable, ask
from egressguard.app.listeners import TARPIT
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, load_policy, serve_until_stopped
from egressguard.firewall.gate import Gate
from egressguard.firewall.host import Host
from egressguard.firewall.nft import NftError


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("gate", places, high_ports=high_ports) as frame:
        gate = Gate(
            frame.policy,
            host=Host(redirect_port=_redirect_port(frame), relay_uid=_relay_uid(), tarpit_port=_tarpit_port(frame)),
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

        async def ruleset() -> str:
            return gate.ruleset()

        async def check(rules: str) -> str:
            """The text that rules which are not in force become here, which the kernel would take."""
            policy = load_policy(replace(places, rules=Path(rules)))
            try:
                return await gate.check(policy)
            except NftError as wrong:
                raise CommandError(f"the kernel would not take the rules: {wrong}") from wrong

        async def down() -> bool:
            return await gate.stand_down()

        commands = Commands(
            {"status": status, "sources": gate.sources}, {"ruleset": ruleset, "check": check, "down": down}
        )
        await serve_until_stopped(frame, commands, gate.reload)
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


def _tarpit_port(frame: Frame) -> int | None:
    """Where the tarpit really is: the rules may say port 0."""
    try:
        return int(json.loads(frame.places.listening.read_text())[TARPIT][0][1])
    except (OSError, KeyError, IndexError, ValueError):
        return frame.policy.site.relay.tarpit_port or None


def _relay_uid() -> int | None:
    user = next(role.user for role in ROLES if role.name == "relay")
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
