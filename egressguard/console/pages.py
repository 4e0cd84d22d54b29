"""The HTTP side: /metrics for Prometheus, /healthz for probes, /release/ for links in digests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from egressguard.console.release import Ask, release_routes
from egressguard.observe.metrics import merge

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Gather = Callable[[], Awaitable[Mapping[str, str]]]
"""Return each reachable role's exposition; a role that does not answer is simply not in it."""


def application(gather: Gather, roles: tuple[str, ...], ask: Ask) -> Starlette:
    async def metrics(_request: Request) -> Response:
        texts = dict(await gather())
        texts["console"] = texts.get("console", "") + _down(roles, texts)
        return Response(merge(texts), media_type=CONTENT_TYPE)

    async def healthz(_request: Request) -> Response:
        missing = sorted(set(roles) - set(await gather()))
        if missing:
            return PlainTextResponse(f"not answering: {', '.join(missing)}\n", status_code=503)
        return PlainTextResponse("ok\n")

    routes = [Route("/metrics", metrics), Route("/healthz", healthz), *release_routes(ask)]
    return Starlette(routes=routes)


def _down(roles: tuple[str, ...], texts: Mapping[str, str]) -> str:
    return "".join(f'egressguard_up{{component="{role}"}} 0\n' for role in roles if role not in texts)
