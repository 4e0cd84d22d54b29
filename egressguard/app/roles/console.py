"""The console role: one HTTP socket; asks the other roles for their metrics over their command sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn

from egressguard.app.children import ROLES
from egressguard.app.control import CommandError, Commands, DaemonUnreachable, ask_later
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.console.pages import application
from egressguard.console.release import NotGranted, NotNow
from egressguard.observe.metrics import exposition
from egressguard.policy.model import Policy

ANSWER_SECONDS = 5
RELEASE_SECONDS = 30


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("console", places, high_ports=high_ports) as frame:
        names = tuple(role.name for role in ROLES)

        async def gather() -> dict[str, str]:
            return await _gather(frame, names)

        async def ask(what: str, token: str) -> dict[str, Any]:
            return await _ask_for_release(frame, what, token)

        config = uvicorn.Config(
            application(gather, names, ask),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            limit_concurrency=64,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve(frame.sockets["metrics"]))  # no signal handlers of its own

        async def status() -> dict[str, Any]:
            host, port = frame.sockets["metrics"][0].getsockname()[:2]
            return {"summary": f"metrics on http://{host}:{port}/metrics"}

        await serve_until_stopped(frame, Commands({"status": status}), _keep)
        server.should_exit = True
        await serving


async def _keep(_policy: Policy) -> None:
    """A new policy changes nothing here: the socket was bound by the supervisor."""


async def _ask_for_release(frame: Frame, what: str, token: str) -> dict[str, Any]:
    """Raises NotGranted, NotNow."""
    try:
        answer = await ask_later(frame.places.control("relay"), f"quarantine.link.{what}", RELEASE_SECONDS, token=token)
    except CommandError as wrong:
        raise (NotGranted if wrong.kind == "not-found" else NotNow)(str(wrong)) from wrong
    except DaemonUnreachable as wrong:
        raise NotNow(str(wrong)) from wrong
    return dict(answer)


async def _gather(frame: Frame, names: tuple[str, ...]) -> dict[str, str]:
    others = [name for name in names if name != "console"]
    asked = [ask_later(frame.places.control(name), "metrics", ANSWER_SECONDS) for name in others]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    texts = {"console": exposition(frame.registry)}
    for name, answer in zip(others, answers, strict=True):
        if isinstance(answer, str):
            texts[name] = answer
        elif not isinstance(answer, DaemonUnreachable | CommandError):
            raise TypeError(f"unexpected answer of {name}: {answer!r}")
    return texts
