"""rspamd over HTTP: POST /checkv2 to a normal worker, with what is known of the envelope.

Contract
    The answer is a finite `score`; its action and what it would change in the message are not looked at: rules decide.
    Nothing of an envelope gets into the HTTP header but printable characters.
"""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Iterable, Mapping

from egressguard.policy.facts import ScanRequest
from egressguard.policy.scanning import Rspamd
from egressguard.scan.engine import MAX_NAMES, Answer, Subject
from egressguard.scan.engine_words import EngineDown, printable
from egressguard.scan.link import connect
from egressguard.scan.octets import Octets, windows

ANSWER_OCTETS = 1 << 20


class RspamdEngine:
    def __init__(self, settings: Rspamd) -> None:
        self._settings = settings

    def ask(self, subject: Subject, seconds: float) -> Answer:
        if len(subject.content) > self._settings.max_octets:
            return Answer()
        _, body = self._exchange("POST", "/checkv2", subject.content, _fields(subject.request), seconds)
        return understood(body)

    def version(self, seconds: float) -> str:
        """What it calls itself: its maps and its learning change all the time, unseen from here."""
        response, _ = self._exchange("GET", "/ping", b"", (), seconds)
        return printable(response.getheader("Server") or "rspamd")

    def _exchange(
        self, method: str, path: str, content: Octets, fields: Iterable[tuple[str, str]], seconds: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        response, body = exchange(self._settings.address, method, path, content, fields, seconds)
        if response.status != 200:
            raise EngineDown(f"said {response.status} {printable(response.reason)}, {len(body)} octets")
        return response, body


def exchange(
    address: str, method: str, path: str, content: Octets, fields: Iterable[tuple[str, str]], seconds: float
) -> tuple[http.client.HTTPResponse, bytes]:
    """One request and its whole answer. Raises EngineDown."""
    connection = http.client.HTTPConnection("localhost")
    try:
        connection.sock = connect(address, seconds)
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in fields:
            connection.putheader(name, value.encode("utf-8", "replace"))
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(windows(content))
        response = connection.getresponse()
        body = response.read(ANSWER_OCTETS + 1)
    except (OSError, http.client.HTTPException, ValueError) as wrong:
        raise EngineDown(printable(str(getattr(wrong, "strerror", None) or wrong or type(wrong).__name__))) from wrong
    finally:
        connection.close()
    if len(body) > ANSWER_OCTETS or response.length:
        raise EngineDown(f"said {response.status} {printable(response.reason)}, {len(body)} octets")
    return response, body


def _fields(request: ScanRequest) -> Iterable[tuple[str, str]]:
    """What is not known is left out; the null reverse-path is an empty From."""
    one_each = (
        ("IP", request.client),
        ("Helo", request.helo),
        ("User", request.user),
        ("Queue-Id", request.queue_id),
    )
    yield from ((name, printable(value)) for name, value in one_each if value)
    if request.reverse_path is not None:
        yield "From", printable(f"<{request.reverse_path}>")
    yield from (("Rcpt", printable(path)) for path in request.forward_paths)


def understood(body: bytes) -> Answer:
    """Raises EngineDown."""
    try:
        said = json.loads(body)
        score = float(said["score"])
        symbols = said.get("symbols") or {}
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError, OverflowError) as wrong:
        raise EngineDown("said something else than a score") from wrong
    if not math.isfinite(score) or not isinstance(symbols, Mapping):
        raise EngineDown("said something else than a score")
    return Answer(score=score, symbols=_heaviest(symbols))


def _heaviest(symbols: Mapping[str, object]) -> tuple[str, ...]:
    """Names of what spoke against the message, the weightiest first."""
    weights = {printable(name, 60): _weight(symbol) for name, symbol in symbols.items()}
    names = [name for name in weights if weights[name] > 0]
    return tuple(sorted(names, key=lambda name: (-weights[name], name))[:MAX_NAMES])


def _weight(symbol: object) -> float:
    weight = symbol.get("score") if isinstance(symbol, Mapping) else None
    return float(weight) if isinstance(weight, int | float) and abs(weight) < 1e9 else 0.0
