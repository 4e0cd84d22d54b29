"""A keeper and a gate in one process, in this process's network namespace: run_keeper.py FOLDER STEP [WORD].

Starts as the gateway would, says ["started", REVISION], then does WORD ("apply", "confirm"): at the change on disk
or in the kernel that STEP names it ends itself with SIGKILL; says ["done", REVISION] when it did not.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from egressguard.app.generations import Generations
from egressguard.app.keeper import Keeper, Means
from egressguard.app.keeping import start_with
from egressguard.app.places import Places
from egressguard.app.roles.frame import load_policy
from egressguard.firewall.gate import Gate
from egressguard.firewall.host import Host


def say(kind: str, fields: object) -> None:
    print(json.dumps([kind, fields]), flush=True)


async def main(folder: Path, fatal: str, word: str) -> None:
    places = Places(folder / "rules", folder / "state", folder / "run")

    def step(name: str) -> None:
        if name == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    candidate = start_with(places, take_rules=False, only_signed=False)
    gate = Gate(
        candidate.policy,
        host=Host(),
        record=lambda _kind, _fields: None,
        registry=CollectorRegistry(),
        plan_path=folder / "plan.nft",
    )
    await gate.start()

    async def tell() -> None:
        step("before-load")
        await gate.reload(load_policy(Places(places.snapshot, places.state, places.runtime)))
        step("after-load")

    async def ask(command: str, **_arguments: Any) -> Any:
        return gate.status() if command == "status" else gate.ruleset()

    keeper = Keeper(
        places,
        Generations(places.policy, step),
        Means(tell, ask, lambda _kind, _fields: None, time.time),
        only_signed=False,
    )
    if fatal != "adopt":
        await keeper.adopt(candidate)
    say("started", gate.status()["revision"])
    if word == "confirm":
        await keeper.apply(confirm_within=600)
        await keeper.confirm()
    elif word == "apply":
        await keeper.apply(confirm_within=600)
    elif word == "apply-now":
        await keeper.apply(confirm_within=0)
    say("done", gate.status()["revision"])
    await keeper.stop()
    await gate.stop()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
