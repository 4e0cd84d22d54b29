"""Run a Gate in this process's network namespace, for tests that send it real traffic.

Standard input, a JSON array a line: ["start", POLICY, REDIRECT_PORT, TARPIT_PORT, RELAY_UID,
PLAN_PATH], ["reload", POLICY],
["metrics"], ["contain", {ADDRESS: SECONDS}], ["stop"]. Standard output, a JSON array a line: the answers, and
[KIND, FIELDS] of what is recorded.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from egressguard.firewall.gate import Gate
from egressguard.firewall.host import Host
from egressguard.firewall.nft import NftError
from egressguard.policy.model import Policy


def say(kind: str, fields: object) -> None:
    print(json.dumps([kind, fields]), flush=True)


def record(kind: str, fields: Mapping[str, object]) -> None:
    say(kind, dict(fields))


async def main() -> None:
    commands: asyncio.Queue[list[Any]] = asyncio.Queue()
    threading.Thread(target=read_commands, args=(asyncio.get_running_loop(), commands), daemon=True).start()
    _, given, redirect_port, tarpit_port, relay_uid, plan_path = await commands.get()
    registry = CollectorRegistry()
    hosts: dict[str, float] = {}

    async def contained() -> dict[str, float]:
        return dict(hosts)

    gate = Gate(
        Policy.model_validate(given),
        host=Host(redirect_port=redirect_port, relay_uid=relay_uid, tarpit_port=tarpit_port),
        record=record,
        registry=registry,
        plan_path=Path(plan_path),
        watch_seconds=0.05,
        contained=contained,
    )
    await gate.start()
    running = asyncio.create_task(gate.run())
    say("ready", gate.status())
    while (command := await commands.get())[0] != "stop":
        if command[0] == "contain":
            hosts.clear()
            hosts.update({host: time.time() + seconds for host, seconds in command[1].items()})
        else:
            await obey(gate, registry, command)
    await gate.stop()
    running.cancel()
    say("stopped", generate_latest(registry).decode())


async def obey(gate: Gate, registry: CollectorRegistry, command: list[Any]) -> None:
    if command[0] == "metrics":
        say("metrics", generate_latest(registry).decode())
        return
    try:
        await gate.reload(Policy.model_validate(command[1]))
        say("reloaded", gate.status())
    except NftError as wrong:
        say("refused", str(wrong))


def read_commands(loop: asyncio.AbstractEventLoop, commands: asyncio.Queue[list[Any]]) -> None:
    for line in sys.stdin:
        loop.call_soon_threadsafe(commands.put_nowait, json.loads(line))
    os._exit(1)  # the test went away; its table goes with its namespace


if __name__ == "__main__":
    asyncio.run(main())
