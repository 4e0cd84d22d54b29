"""Run expectations against a policy: facts from `given`, the decision, and where it differs from `expect`.

Contract
    Pure: messages are looked into by the function that the caller gives.
    A case is red when one key that `expect` has differs from what was found; nothing else is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from egressguard.net.flow import TUNNELS, Flow, IPAddress, Protocol
from egressguard.policy.decision import MailDecision
from egressguard.policy.expect import (
    Comparison,
    ExpectFile,
    FlowCase,
    FlowGiven,
    MailCase,
    MailGiven,
    Stand,
    verdict_of,
)
from egressguard.policy.facts import Attachment, Authentication, Excess, MailFacts, Moment, ScanReport
from egressguard.policy.fields import WEEKDAYS
from egressguard.policy.flows import Surroundings, decide_flow
from egressguard.policy.mail import decide_envelope, decide_mail, limit_of, strictest
from egressguard.policy.model import Policy
from egressguard.policy.next_hop import canonical, is_next_hop, parse_next_hop
from egressguard.policy.routes import MX, RouteFacts, WayOut, way_out
from egressguard.policy.tls import choose_tls
from egressguard.policy.verdict import Verdict

DEFAULT_SIZE_OCTETS = 1000

Examine = Callable[[bytes], tuple[Mapping[str, tuple[str, ...]], ScanReport]]
"""The octets of a message -> its header facts and what scanning says."""


@dataclass(frozen=True, slots=True)
class Result:
    """`at` is where the case stands ("expect/flows.yaml:4:5"); `reason` names the place of the rule that decided."""

    section: str
    name: str
    at: str
    expected: Comparison
    found: Comparison
    reason: str

    @property
    def is_green(self) -> bool:
        return all(self.found.get(key) == value for key, value in self.expected.items())


@dataclass(frozen=True, slots=True)
class Trial:
    """One case, ready to be tried against any policy that the same site may have."""

    section: str
    case: FlowCase | MailCase
    stand: Stand
    message: tuple[int, Mapping[str, tuple[str, ...]], ScanReport] | None = None

    def run(self, policy: Policy) -> Result:
        if isinstance(self.case, FlowCase):
            return _try_flow(policy, self.case)
        return _try_mail(policy, self.case, self.message)


def trials(files: Sequence[ExpectFile], examine: Examine) -> list[Trial]:
    """All cases of all files; each message is looked into once."""
    seen: dict[bytes, tuple[int, Mapping[str, tuple[str, ...]], ScanReport]] = {}
    found: list[Trial] = []
    for file in files:
        stand = file.expectations.stand_in
        found += [Trial("flows", case, stand) for case in file.expectations.flows]
        for case in file.expectations.mail:
            looked = None
            if case.given.message is not None:
                content = file.messages[case.given.message]
                if content not in seen:
                    seen[content] = (len(content), *examine(content))
                looked = seen[content]
            found.append(Trial("mail", case, stand, looked))
    return found


def run_trials(policy: Policy, cases: Sequence[Trial]) -> Iterator[Result]:
    """The result of each case, in order."""
    policies: dict[int, Policy] = {}
    for trial in cases:
        key = id(trial.stand)
        if key not in policies:
            policies[key] = with_stand(policy, trial.stand)
        yield trial.run(policies[key])


def with_stand(policy: Policy, stand: Stand) -> Policy:
    """The policy of a site that has this too. A set or domain given replaces the site's own; devices are added."""
    if not stand.model_fields_set:
        return policy
    site = policy.site.model_copy(
        update={
            "sets": {**policy.site.sets, **stand.sets},
            "domains": stand.domains or policy.site.domains,
        }
    )
    return policy.replace(site=site, devices=(*policy.devices, *stand.devices))


def flow_of(given: FlowGiven) -> Flow:
    """What is given, as a flow."""
    protocol = Protocol(given.protocol)
    return Flow(
        given.source,
        given.destination,
        0 if protocol in TUNNELS else given.port,
        given.interface,
        protocol,
        source_mac=given.mac.lower(),
        speaks=given.speaks or "",
    )


def surroundings_of(given: FlowGiven) -> Surroundings:
    """What is given, as what the rules cannot know."""
    moment = _moment(given.when)

    def addresses_of(name: str) -> frozenset[IPAddress] | None:
        return frozenset(given.dns[name]) if name in given.dns else None

    return Surroundings(frozenset(given.inside), addresses_of, lambda: moment)


def _try_flow(policy: Policy, case: FlowCase) -> Result:
    decision = decide_flow(policy, flow_of(case.given), surroundings_of(case.given))
    found: Comparison = {
        "action": "undecided" if decision.action is None else decision.action.value,
        "rule": decision.rule,
        "would": tuple(would.rule for would in decision.would),
    }
    return Result("flows", case.name, case.at, _expected(case), found, decision.reason)


def _moment(text: str) -> Moment:
    """What `when:` means."""
    day, _, time = text.partition(" ")
    return Moment(WEEKDAYS.index(day), int(time[:2]) * 60 + int(time[3:]))


def _expected(case: FlowCase | MailCase) -> Comparison:
    expect = case.expect
    keys = (key for key in type(expect).model_fields if key in expect.model_fields_set)
    found = {key: getattr(expect, key) for key in keys if getattr(expect, key) is not None}
    if "via" in found:
        found["via"] = tuple(map(canonical, found["via"]))  # as way_out has it
    return found


def _try_mail(
    policy: Policy, case: MailCase, message: tuple[int, Mapping[str, tuple[str, ...]], ScanReport] | None
) -> Result:
    given = case.given
    every = [mail_facts(policy, given, path, message) for path in given.recipient]
    if given.stage == "rcpt":
        refusals = [decide_envelope(policy, before_data(facts)) for facts in every]
        refused = [decision for decision in refusals if decision is not None]
        if not refused:
            found: Comparison = {"action": "go-on", "rule": ""}
            return Result("mail", case.name, case.at, _expected(case), found, "no rule refuses the recipient")
        decision = strictest(refused)
        return Result("mail", case.name, case.at, _expected(case), _found(decision), decision.reason)
    decisions = [decide_mail(policy, facts) for facts in every]
    decision = strictest(decisions)
    found = _found(decision)
    way = way_out(policy, RouteFacts.of(every[0], decision.effects.tags), decisions[0].effects.via)
    found["route"], found["via"] = way.route, way.written
    found["tls"] = _tls(policy, way, given.next_hop)
    return Result("mail", case.name, case.at, _expected(case), found, decision.reason)


def _tls(policy: Policy, way: WayOut, mx_host: str) -> str:
    """The level that rules of `tls` say; "" where others do: for smart hosts, programs, mailboxes here."""
    if way.via == (MX,):
        return choose_tls(policy, way.domain, mx_host).level
    hop = parse_next_hop(way.via[0]) if is_next_hop(way.via[0]) else None
    return choose_tls(policy, "", hop.host).level if hop is not None and hop.transport == "smtp" else ""


def _found(decision: MailDecision) -> Comparison:
    effects = decision.effects
    return {
        "action": decision.action.value,
        "rule": decision.rule,
        "folder": decision.folder,
        "text": decision.text,
        "headers": dict(effects.headers),
        "tags": effects.tags,
        "via": effects.via,
        "notify": tuple(address for _rule, address in effects.notify),
        "limits": effects.limits,
        "limit": decision.limit,
        "would": tuple(would.rule for would in decision.would),
    }


def before_data(facts: MailFacts) -> MailFacts:
    """What is known of it at RCPT: nothing of the content, and SPF and the like are asked when that is there."""
    return replace(facts, authentication=None, recipient_count=None, size_octets=None, headers=None, scan=None)


def mail_facts(
    policy: Policy,
    given: MailGiven,
    path: str,
    message: tuple[int, Mapping[str, tuple[str, ...]], ScanReport] | None = None,
) -> MailFacts:
    """What is given, as the facts of a message for the recipient `path`; `message` is what its file has."""
    size, headers, report = message or (DEFAULT_SIZE_OCTETS, {}, ScanReport(Verdict.CLEAN, (), ()))
    return MailFacts(
        client=given.client,
        listener=given.listener,
        helo=given.helo,
        tls=given.tls,
        user=given.user,
        redirected=given.redirected,
        reverse_path=given.sender,
        forward_path=path,
        moment=_moment(given.when),
        authentication=_authentication(given),
        listed=None if "block_list" in given.unknown else frozenset(given.block_list),
        exceeded={name: _excess(policy, name) for name in given.over_limit},
        recipient_count=given.recipient_count or len(given.recipient),
        size_octets=size if given.size_octets is None else given.size_octets,
        headers={**headers, **{name.lower(): tuple(values) for name, values in given.header.items()}},
        scan=_report(given, report),
    )


def _authentication(given: MailGiven) -> Authentication | None:
    if "authentication" in given.unknown:
        return None
    return Authentication(given.spf, given.dkim, given.dmarc, given.arc, given.dmarc_policy)


def _excess(policy: Policy, name: str) -> Excess:
    limit = limit_of(policy, name)
    return Excess(f"{limit.per if limit else 'limit'} (as given)", "messages", 0, 1)


def _report(given: MailGiven, report: ScanReport) -> ScanReport:
    attachments = report.attachments
    if given.attachments is not None:
        attachments = tuple(
            Attachment(tuple(a.path), a.type, a.size_octets, a.encrypted, a.macro, a.active) for a in given.attachments
        )
    verdict = verdict_of(given.verdict, report.verdict)
    unseen = "attachments" in given.unknown or (verdict is None and given.attachments is None)
    score = report.score if given.score is None else given.score
    return ScanReport(
        verdict, report.findings, None if unseen else attachments, None if "score" in given.unknown else score
    )
