"""Past decisions and what they were made from, in the words of the journal: written here, and read back. Pure.

Contract
    What is read back decides as it did when it was written: the facts are all that rules look at.
    A fact that was not recorded is not known: it is None, never a guess (`unrecorded` says which).
    What comes from a journal is no authority: a row that makes no sense is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from egressguard.net.flow import Flow, IPAddress, Protocol
from egressguard.policy.facts import Attachment, Authentication, ScanReport
from egressguard.policy.verdict import Verdict

Fields = Mapping[str, Any]
LAST_MOMENT = 253_402_300_799.0  # the end of the year 9999
MAX_HOSTS = 50
HEADER_CHARACTERS = RECIPIENT_CHARACTERS = ATTACHMENT_CHARACTERS = 1500
"""Of one message: an event of the journal is bounded. What would be more is not recorded at all."""


@dataclass(frozen=True, slots=True)
class FlowFacts:
    """`is_inside`: where it arrived had no default route. `hosts`: names in rules -> whether the destination is one of
    their addresses; a name that is not there was not known. `rule` "": no rule names the flow."""

    flow: Flow
    action: str
    rule: str = ""
    is_inside: bool = False
    hosts: Mapping[str, bool] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, object]:
        """For the journal; what is empty is left out."""
        flow = self.flow
        said: dict[str, object] = {
            "source": str(flow.source),
            "destination": str(flow.destination),
            "port": flow.destination_port,
            "protocol": flow.protocol.value,
            "action": self.action,
            "rule": self.rule,
            "interface": flow.interface,
            "inside": self.is_inside,
            "mac": flow.source_mac,
            "speaks": flow.speaks,
            "hosts": dict(list(self.hosts.items())[:MAX_HOSTS]),
        }
        return {key: value for key, value in said.items() if value}


@dataclass(frozen=True, slots=True)
class RecordedFlow:
    """`count` flows of one class, seen between `first` and `last`."""

    facts: FlowFacts
    count: int
    first: float
    last: float


def recorded_flow(fields: Fields) -> RecordedFlow | None:
    try:
        flow = Flow(
            _address(fields["source"]),
            _address(fields["destination"]),
            int(fields.get("port", 0)),
            str(fields.get("interface", "")),
            _PROTOCOLS[fields["protocol"]],
            source_mac=str(fields.get("mac", "")),
            speaks=str(fields.get("speaks", "")),
        )
        hosts = {str(name): bool(is_one) for name, is_one in fields.get("hosts", {}).items()}
        action, rule, inside = str(fields["action"]), str(fields.get("rule", "")), bool(fields.get("inside"))
        facts = FlowFacts(flow, action, rule, inside, hosts)
        return RecordedFlow(facts, max(int(fields["count"]), 1), _moment(fields["first"]), _moment(fields["last"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def _moment(value: Any) -> float:
    """Seconds since 1970 that a clock can show. Raises ValueError, TypeError."""
    at = float(value)
    if not 0 <= at <= LAST_MOMENT:
        raise ValueError("no moment")
    return at


_PROTOCOLS = {protocol.value: protocol for protocol in Protocol}


@lru_cache(maxsize=65536)
def _address(text: str) -> IPAddress:
    """Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError("no address")
    return ip_address(text)


# Messages.


def told_headers(headers: Mapping[str, tuple[str, ...]], names: frozenset[str]) -> dict[str, object]:
    """Fields (in lower case) of a message, for the journal: absent ones too, as that is known of them."""
    found = {name: list(headers.get(name, ())) for name in sorted(names)}
    if sum(len(value) for values in found.values() for value in values) > HEADER_CHARACTERS:
        return {}
    return {"headers": found} if found else {}


def told_recipients(paths: tuple[str, ...], told: int) -> dict[str, object]:
    """Those behind the first ones, which are told anyway."""
    more = paths[told:]
    if not more or sum(len(path) + 4 for path in more) > RECIPIENT_CHARACTERS:
        return {}
    return {"more_recipients": list(more)}


def told_scan(report: ScanReport, asked: frozenset[str]) -> dict[str, object]:
    """What scanning said, for the journal; `asked`: which facts engines were asked for. "clean" is short for most."""
    said: dict[str, Any] = {"verdict": report.verdict.value if report.verdict else None}
    if "score" in asked:
        said["score"] = report.score
    if "verdict" not in asked:
        said["engines"] = False
    if report.attachments is None:
        said["attachments"] = None
    elif report.attachments:
        fits = sum(len(name) + 8 for each in report.attachments for name in each.path) <= ATTACHMENT_CHARACTERS
        said["attachments"] = [_told_attachment(each) for each in report.attachments] if fits else None
    return {"scan": "clean" if said == {"verdict": "clean"} else said}


def _told_attachment(each: Attachment) -> list[object]:
    flags = "".join(letter for letter, has in zip("EMA", (each.encrypted, each.macro, each.active), strict=True) if has)
    return [list(each.path), each.media_type, each.size_octets, flags]


@dataclass(frozen=True, slots=True)
class RecordedMail:
    """One message, or one recipient that was refused before there was one (`is_whole` False).

    `headers` has the fields that are known, all of them where `has_all_headers`; `report` None: it was not scanned;
    `authentication` None: nobody checked; `lists` None: no list was asked. `action` and `rule` are what it came to;
    `recipient_count` is of the whole message, however many recipients are known; `limit` took the decision ("" = a rule
    did)."""

    at: float
    client: IPAddress
    listener: str
    helo: str
    tls: bool
    user: str | None
    is_redirected: bool
    reverse_path: str
    forward_paths: tuple[str, ...]
    recipient_count: int
    size_octets: int | None
    is_whole: bool
    action: str
    rule: str
    queue_id: str = ""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    has_all_headers: bool = False
    report: ScanReport | None = None
    has_score: bool = False
    asked_engines: bool = True
    authentication: Authentication | None = None
    lists: frozenset[str] | None = None
    limit: str = ""


ACTION_OF = {
    "mail.accepted": "accept",
    "mail.quarantined": "quarantine",
    "mail.held": "hold",
    "mail.refused": "reject",
    "mail.deferred": "defer",
}


def recorded_mail(at: float, kind: str, fields: Fields) -> RecordedMail | None:
    """None: a row that makes no sense, or that says nothing of what rules decide."""
    try:
        if kind not in ACTION_OF or "sender" not in fields:
            return None
        paths = tuple(map(str, (*fields["recipients"], *fields.get("more_recipients", ()))))
        report, has_score, asked_engines = _report(fields)
        return RecordedMail(
            at=_moment(fields.get("decided_at", at)),
            client=_address(fields["client"]),
            listener=str(fields["listener"]),
            helo=str(fields.get("helo") or ""),
            tls=bool(fields.get("tls")),
            user=None if fields.get("user") is None else str(fields["user"]),
            is_redirected=fields.get("original_destination") is not None,
            reverse_path=str(fields["sender"]),
            forward_paths=paths,
            recipient_count=int(fields["recipient_count"]),
            size_octets=None if fields.get("size_octets") is None else int(fields["size_octets"]),
            is_whole=fields.get("stage") != "rcpt",
            action=str(fields.get("decided", ACTION_OF[kind])),
            rule=str(fields["rule"]),
            queue_id=str(fields.get("queue_id", "")),
            headers={str(name): tuple(map(str, values)) for name, values in fields.get("headers", {}).items()},
            report=report,
            has_score=has_score,
            asked_engines=asked_engines,
            authentication=Authentication(**fields["authentication"]) if "authentication" in fields else None,
            lists=frozenset(map(str, fields["block_lists"])) if "block_lists" in fields else None,
            limit=str(fields.get("limit", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def looked_at(fields: Fields) -> str:
    """All of a row that rules look at but time and size: rows that have it in common are the same message to them."""
    return repr((*(fields.get(key) for key in _LOOKED_AT), fields.get("original_destination") is None))


_LOOKED_AT = (
    *("client", "listener", "helo", "tls", "user", "sender", "recipients", "more_recipients", "recipient_count"),
    *("stage", "scan", "findings", "headers", "authentication", "block_lists"),
)


def _report(fields: Fields) -> tuple[ScanReport | None, bool, bool]:
    """(what scanning said, whether it had a score, whether engines were asked for a verdict)."""
    said = fields.get("scan")
    if said is None:
        return None, False, False
    said = {"verdict": "clean"} if said == "clean" else said
    verdict = None if said["verdict"] is None else Verdict(said["verdict"])
    told = said.get("attachments", ())
    attachments = None if told is None else tuple(map(_attachment, told))
    findings = tuple(map(str, fields.get("findings", ())))
    has_score = "score" in said
    return ScanReport(verdict, findings, attachments, said.get("score")), has_score, said.get("engines", True)


def _attachment(told: Any) -> Attachment:
    path, media_type, size, flags = told
    return Attachment(tuple(map(str, path)), str(media_type), int(size), "E" in flags, "M" in flags, "A" in flags)
