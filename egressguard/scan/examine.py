"""Examine one message: its parts, what is inside them, what they are, what a scanner says.

Contract
    INFECTED beats DENIED beats AMBIGUOUS beats CLEAN. AMBIGUOUS: mail programs could see different parts (`walk`).
    What cannot be looked into (encrypted, broken, too deep, too large) is DENIED:
    held for a person, not deferred for ever. Only trouble of our own (a scanner that does not answer) is None.
    What acts of itself (`active`) is a fact and a finding, not a verdict: rules say what comes of it.
    A message that is infected by our own finding stays INFECTED whatever a scanner that is down would have said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from egressguard.policy.facts import Attachment, ScanReport
from egressguard.policy.patterns import name_matches
from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.active import active_in
from egressguard.scan.archive import Budget, Member, Opened, members
from egressguard.scan.eicar import contains_eicar, is_eicar
from egressguard.scan.inner_mail import with_mail
from egressguard.scan.kinds import ZIP, media_type
from egressguard.scan.merged import NOBODY_ASKED, Merged
from egressguard.scan.octets import Octets
from egressguard.scan.office import has_macro, is_encrypted
from egressguard.scan.protocol import MAX_ATTACHMENTS
from egressguard.scan.walk import Part, Walked, walk

MAX_FINDINGS = 50
MAX_ASKED = 20
"""Parts that the scanner is asked about by themselves: a message with any is held anyway."""

EICAR_NAME = "EICAR-Test-File"


class Scanners(Protocol):
    """The scanning engines, asked about one message. Neither method raises."""

    def see(self, member: Member) -> None:
        """A file in the message; it is not kept."""
        ...

    def said(self, content: Octets, hidden: Sequence[Octets] = ()) -> Merged:
        """Of the whole message, when all files in it were seen, and of parts that an engine's reader may not see."""
        ...


def examine(content: Octets, settings: Scan, scanners: Scanners | None = None) -> ScanReport:
    """The facts of one message for the rules."""
    budget = Budget(settings.max_unpacked_octets)
    walked = walk(content, budget.describe)
    opened = Opened(problems=list(walked.problems))
    infected: list[str] = []
    denied: list[str] = []
    attachments: list[Attachment] = []
    active: list[str] = []
    for part in walked.parts:
        for member in _unfold(part, budget, settings, opened):  # one at a time: together they would fill the memory
            if is_eicar(member.content):
                infected.append(f"{EICAR_NAME} in {_where(member.path)}")
            denied += _denied(member, settings)
            acts = active_in(member.path[-1], member.content, member.media_type)
            active += [f"{words}: {_where(member.path)}" for words in acts]
            attachments.append(_attachment(member, active=bool(acts)))
            if scanners is not None:
                scanners.see(member)
    infected += [f"{EICAR_NAME} in the text" for p in walked.parts if p.is_text and contains_eicar(p.content)]
    infected += [f"{EICAR_NAME} in the message"] if contains_eicar(content) else []
    denied += opened.problems
    if len(attachments) > MAX_ATTACHMENTS:
        denied.append(f"more than {MAX_ATTACHMENTS} files")
    said = scanners.said(content, _hidden(walked)) if scanners is not None else NOBODY_ASKED
    infected += said.infected
    denied += said.denied
    verdict = _worst(infected, denied, walked.differences)
    if verdict is not Verdict.INFECTED and not said.verdict_is_known:
        verdict = None
    findings = _bounded([*infected, *denied, *walked.differences, *active, *said.notes])
    return ScanReport(verdict, findings, tuple(attachments), said.score, said.engines)


def _hidden(walked: Walked) -> Sequence[Octets]:
    """An engine reads the message in its own way; what only others see it gets by itself."""
    hidden = [part.content for part in walked.parts if not part.plain and not part.is_text and part.content]
    return tuple(dict.fromkeys(hidden))[:MAX_ASKED]


def _worst(infected: list[str], denied: list[str], differences: list[str]) -> Verdict | None:
    if infected:
        return Verdict.INFECTED
    return Verdict.DENIED if denied else Verdict.AMBIGUOUS if differences else Verdict.CLEAN


def _attachment(member: Member, *, active: bool) -> Attachment:
    encrypted = member.encrypted or is_encrypted(member.content)
    macro = has_macro(member.path[-1], member.content)
    size = len(member.content) if member.size_octets is None else member.size_octets
    return Attachment(member.path, member.media_type, size, encrypted, macro, active)


def _unfold(part: Part, budget: Budget, settings: Scan, opened: Opened) -> Iterable[Member]:
    """The part itself under each of its names, and all that an archive holds."""
    kind = media_type(part.content)
    names = part.names or ("unnamed",)
    if not part.is_text or kind == ZIP or active_in(names[0], part.content, kind):
        for name in names:
            yield Member((name,), part.content, kind)
    inside = members((names[0],), part.content, kind, budget, settings.max_nesting, opened)
    yield from with_mail(inside, budget, settings.max_nesting, opened)


def _denied(member: Member, settings: Scan) -> Iterable[str]:
    if name_matches(settings.denied_names, member.path[-1]):
        yield f"denied name: {_where(member.path)}"
    if any(fnmatchcase(member.media_type, pattern.lower()) for pattern in settings.denied_types):
        yield f"denied type {member.media_type}: {_where(member.path)}"


def _where(path: tuple[str, ...]) -> str:
    return " > ".join(path)[:200]


def _bounded(findings: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(findings))[:MAX_FINDINGS]
