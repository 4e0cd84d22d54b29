"""The page behind a link of a digest: GET shows what would be released, POST releases it. No script, no cookies.

Contract
    A link grants what its token says, and the relay alone can tell: this passes the token on.
    GET changes nothing: programs that fetch links before people do release nothing.
    Strangers' words are escaped; the page loads nothing, may be framed by nobody, is kept by nobody, and tells
    nobody where the reader came from.
"""

from __future__ import annotations

import html
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

TOKEN_CHARACTERS = 1200
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}


class NotGranted(Exception):
    """The link is not valid (any more), or what it is for is gone."""


class NotNow(Exception):
    """The relay cannot say, or cannot do it, now."""


Ask = Callable[[str, str], Awaitable[Mapping[str, Any]]]
"""("look" or "redeem", token) -> what the relay says. Raises NotGranted, NotNow."""


def release_routes(ask: Ask) -> list[Route]:
    async def page(request: Request) -> Response:
        token = request.path_params["token"]
        if len(token) > TOKEN_CHARACTERS:
            return _page(404, "<p>This link is not valid.</p>")
        try:
            if request.method == "POST":
                told = await ask("redeem", token)
                return _page(200, f"<p>Released to {html.escape(str(told['for']))}. It is on its way.</p>")
            return _page(200, _question(await ask("look", token)))
        except NotGranted:
            return _page(404, "<p>This link is not valid any more, or the message was released or deleted already.</p>")
        except NotNow:
            return _page(503, "<p>This cannot be done now. Please try again later.</p>")

    return [Route("/release/{token}", page, methods=["GET", "POST"])]


def _question(told: Mapping[str, Any]) -> str:
    rows = {
        "Subject": told["subject"] or "(no subject)",
        "From": told["sender"] or "<>",
        "Held since": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(told["held_at"])),
        "For": told["for"],
    }
    table = "".join(f"<tr><th>{name}</th><td>{html.escape(str(value))}</td></tr>\n" for name, value in rows.items())
    return (
        f"<p>This message is held. Release it only if you expect it.</p>\n<table>\n{table}</table>\n"
        '<form method="post"><button type="submit">Release it</button></form>'
    )


def _page(status: int, body: str) -> Response:
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Held message</title>'
        '<meta name="viewport" content="width=device-width"></head>\n'
        f"<body><h1>Held message</h1>\n{body}\n</body></html>\n"
    )
    return HTMLResponse(text, status_code=status, headers=HEADERS)
