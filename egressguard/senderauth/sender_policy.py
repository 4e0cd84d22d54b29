"""SPF (RFC 7208): may this client use that domain? pyspf evaluates, our resolver answers.

Contract
    pyspf never asks DNS. An evaluation is pure: it stops at the first answer that it lacks and names the question; that
    is asked on the event loop, and the evaluation is made anew with the answer. No thread ever waits for DNS.
    The limits of RFC 7208 s4.6.4 hold (10 terms that ask, 10 names under MX and PTR, 2 void look-ups), and below
    them ours: records of RECORD_OCTETS, terms of TERM_OCTETS, MOST_QUESTIONS in all.
    exp= is never fetched: what it says is for nobody here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import spf

from egressguard.net.flow import plain_address
from egressguard.policy.fields import AuthResult
from egressguard.senderauth.domains import NAME_CHARACTERS, ascii_domain
from egressguard.senderauth.resolver import Questions, Records, TooManyQuestions
from egressguard.senderauth.verdict import Verdict, plain
from egressguard.senderauth.workers import Workers

RECORD_OCTETS = 4096
TERM_OCTETS = 512
"""pyspf looks for the top label with a pattern that takes quadratic time; with terms of this size that is nothing."""
MOST_QUESTIONS = 1 + 10 * (1 + 10)
"""The record itself, and the worst that RFC 7208 s4.6.4 lets it ask: ten mx of ten hosts."""
MOST_PTR = 10

_MODIFIER = re.compile(r"(?<= )(?:redirect|exp)=", re.IGNORECASE)
_RESULTS = frozenset(get_args(AuthResult))
_LIBRARY_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class Question(NamedTuple):
    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom to check: `domain` as DNS is asked for it (None: it is none, RFC 7208 s4.3), `shown` as it was given."""

    client: str
    helo: str
    local_part: str
    domain: str | None
    property: tuple[str, str]


def mail_from(client: str, helo: str, reverse_path: str) -> Identity:
    """The MAIL FROM identity; for the null reverse-path postmaster@HELO (RFC 7208 s2.4)."""
    if not reverse_path:
        return helo_name(client, helo)
    local_part, _, domain = reverse_path.rpartition("@")
    name = _name(domain)
    return Identity(client, helo, local_part or "postmaster", name, ("smtp.mailfrom", reverse_path))


def helo_name(client: str, helo: str) -> Identity:
    """The HELO identity (RFC 7208 s2.3)."""
    return Identity(client, helo, "postmaster", _name(helo), ("smtp.helo", helo))


def _name(text: str) -> str | None:
    domain = ascii_domain(text)
    return domain if domain and "." in domain else None


async def check_spf(identity: Identity, questions: Questions, workers: Workers) -> Verdict:
    """Bounded in questions, not in time."""
    if identity.domain is None:
        return Verdict("spf", "none", "no domain to check", (identity.property,))
    answers: dict[Question, Records] = {}
    while True:
        outcome = await workers.run(evaluate, identity, answers)
        if isinstance(outcome, Verdict):
            return outcome
        try:
            answers[outcome] = await questions.ask(outcome.name, outcome.kind)
        except TooManyQuestions:
            return Verdict("spf", "permerror", "too many DNS look-ups", (identity.property,))


def evaluate(identity: Identity, answers: Mapping[Question, Records]) -> Verdict | Question:
    """The verdict, or the first question that it hangs on. Pure."""
    query = _Query(identity, answers)
    try:
        result, _, _ = query.check()
    except _LacksAnswer as lacks:
        return lacks.question
    except _LIBRARY_FAULTS as wrong:
        return Verdict("spf", "permerror", f"the record cannot be evaluated: {plain(str(wrong))}", (identity.property,))
    if result not in _RESULTS:
        return Verdict("spf", "permerror", f"unexpected result {plain(str(result))}", (identity.property,))
    return Verdict("spf", result, query.why(result), (identity.property,))


class _LacksAnswer(Exception):
    def __init__(self, question: Question) -> None:
        self.question = question


class _Query(spf.query):  # type: ignore[misc]
    """One evaluation. pyspf has one DNS hook for the whole process; a method of one's own is nobody else's."""

    def __init__(self, identity: Identity, answers: Mapping[Question, Records]) -> None:
        domain = identity.domain or ""
        super().__init__(i=str(plain_address(identity.client)), s=f"x@{domain}", h=identity.helo)
        # pyspf cuts an address at its first "@"; a quoted local-part may have one of its own.
        self.l, self.o, self.d = identity.local_part, domain, domain
        self.s = f"{identity.local_part}@{domain}"
        self._answers = answers

    def why(self, result: str) -> str:
        if result in {"permerror", "temperror"}:
            return plain(str(getattr(self, "prob", "")))
        return f"matched {plain(str(self.mechanism))}" if self.mechanism else ""

    def dns(self, name: Any, qtype: str, cnames: Any = None, ignore_void: bool = False) -> list[Any]:  # noqa: ARG002
        """As pyspf's own, but that the resolver follows aliases."""
        fitting = _fitting(str(name).lower())
        if not all(0 < len(label.encode()) < 64 for label in fitting.split(".")):
            return []
        question = Question(fitting, qtype)
        if question not in self._answers:
            raise _LacksAnswer(question)
        records = self._answers[question]
        if records.failed:
            raise spf.TempError(f"DNS gave no answer for {fitting} {qtype}")
        if not records.values and not ignore_void:
            self.void_lookups += 1
            if self.void_lookups > spf.MAX_VOID_LOOKUPS:
                raise spf.PermError(f"void look-up limit of {spf.MAX_VOID_LOOKUPS} exceeded")
        return [(value,) for value in records.values] if qtype == "TXT" else list(records.values)

    def dns_spf(self, domain: str) -> str | None:
        record = super().dns_spf(domain)
        return None if record is None else _bounded(record)

    def get_explanation(self, spec: str) -> None:  # noqa: ARG002
        return None

    def validated_ptrs(self) -> list[str]:
        """A name that DNS says nothing about is passed over (RFC 7208 s5.5); pyspf would end the whole check."""
        return [name for name in self._ptr_names() if self._points_back(name)]

    def _ptr_names(self) -> list[str]:
        try:
            return list(self.dns_ptr(self.i))[:MOST_PTR]
        except spf.TempError:
            return []

    def _points_back(self, name: str) -> bool:
        try:
            return bool(self.cidrmatch(self.dns_a(name, self.A), self.cidrmax))
        except spf.TempError:
            return False


def _fitting(name: str) -> str:
    """Without its final dot; too long after expansion: without labels at its left (RFC 7208 s7.3)."""
    name = name.removesuffix(".")
    while len(name) > NAME_CHARACTERS and "." in name:
        name = name.partition(".")[2]
    return name


def _bounded(record: str) -> str:
    """The record with its modifiers' names in lower case, the only case that pyspf knows. Raises spf.PermError."""
    if len(record) > RECORD_OCTETS:
        raise spf.PermError(f"the record is over {RECORD_OCTETS} octets")
    if any(len(term) > TERM_OCTETS for term in record.split(" ")):
        raise spf.PermError(f"a term is over {TERM_OCTETS} octets")
    return _MODIFIER.sub(lambda found: found[0].lower(), record)
