"""The page behind a digest's link, asked as a browser does, over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from egressguard.console.pages import application
from egressguard.console.release import NotGranted, NotNow


class Relay:
    def __init__(self, trouble: Exception | None = None, subject: str = "hello") -> None:
        self.asked: list[tuple[str, str]] = []
        self._trouble, self._subject = trouble, subject

    async def ask(self, what: str, token: str) -> Mapping[str, Any]:
        self.asked.append((what, token))
        if self._trouble is not None:
            raise self._trouble
        if what == "redeem":
            return {"released": "ID", "for": "anna@example.org"}
        return {"subject": self._subject, "sender": "s@x.example", "held_at": 0, "for": "anna@example.org"}


async def nothing() -> dict[str, str]:
    return {}


def get(relay: Relay, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    got: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        got.append(event)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
    }
    asyncio.run(application(nothing, (), relay.ask)(scope, receive, send))  # type: ignore[arg-type]
    headers = {name.decode(): value.decode() for name, value in got[0]["headers"]}
    return got[0]["status"], headers, b"".join(event.get("body", b"") for event in got[1:]).decode()


def test_get_shows_and_post_releases() -> None:
    relay = Relay()
    status, _, text = get(relay, "/release/a.b")
    assert (status, relay.asked) == (200, [("look", "a.b")])
    assert '<form method="post">' in text and "hello" in text
    status, _, text = get(relay, "/release/a.b", "POST")
    assert (status, relay.asked[1:]) == (200, [("redeem", "a.b")])
    assert "<form" not in text


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "DELETE"])
def test_no_other_method_releases(method: str) -> None:
    relay = Relay()
    get(relay, "/release/a.b", method)
    assert ("redeem", "a.b") not in relay.asked


@pytest.mark.parametrize(("trouble", "status"), [(NotGranted(), 404), (NotNow(), 503)])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_link_that_is_over_and_a_relay_that_is_away_say_so(trouble: Exception, status: int, method: str) -> None:
    assert get(Relay(trouble), "/release/a.b", method)[0] == status


def test_a_monstrous_token_is_not_passed_on() -> None:
    relay = Relay()
    assert get(relay, "/release/" + "x" * 5000)[0] == 404
    assert relay.asked == []


def test_strangers_words_are_escaped_and_nothing_is_loaded_kept_or_told() -> None:
    _, headers, text = get(Relay(subject="<script>alert(1)</script>"), "/release/a.b")
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "default-src 'none'" in headers["content-security-policy"]
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
