"""What does not fit together inside `site.mailboxes`: others' domains, what is no address, aliases that go round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from egressguard.mail.address import AddressError, parse_address
from egressguard.policy.document import Path
from egressguard.policy.mailboxes import Mailboxes
from egressguard.policy.site import Site
from egressguard.policy.words import did_you_mean, one_of, quote

Found = Iterator[tuple[Path, str]]
"""(path in the merged rules, message)."""

BASE: Path = ("site", "mailboxes")


def check_mailboxes(site: Site) -> Found:
    domains = [name.lower() for name in site.domains]
    mailboxes = site.mailboxes
    lowered: dict[str, Sequence[str]] = {}
    for name, targets in mailboxes.aliases.items():
        path = (*BASE, "aliases", name)
        if name.lower() in lowered:
            yield path, f"the alias {quote(name)} stands twice, for case does not count; expected it once"
        lowered[name.lower()] = targets
        local_part, at, domain = name.rpartition("@")
        if at and domain.lower() not in domains:
            hint = did_you_mean(domain.lower(), domains)
            yield path, f"{quote(domain)} is not one of site.domains{hint}; expected {one_of(site.domains)}"
        separator = mailboxes.separator
        if separator in {"+", "=", "#", "~"} and separator in (local_part or domain):
            words = f"what stands behind {quote(separator)} is the account's own; expected an alias without it"
            yield path, words
        yield from _addresses(path, targets)
    for name, targets in mailboxes.catch_all.items():
        path = (*BASE, "catch_all", name)
        if name.lower() not in domains:
            hint = did_you_mean(name.lower(), domains)
            yield path, f"{quote(name)} is not one of site.domains{hint}; expected {one_of(site.domains)}"
        yield from _addresses(path, targets)
    yield from _rounds(mailboxes, lowered)
    yield from _placeholders(mailboxes)


def _addresses(path: Path, targets: Sequence[str]) -> Found:
    for index, target in enumerate(targets):
        try:
            parse_address(target if "@" in target else f"{target}@example.org", utf8=True)
        except AddressError as wrong:
            words = f"{quote(target)} is neither an account nor an address ({wrong}); expected anna or a@example.net"
            yield (*path, index), words


def _rounds(mailboxes: Mailboxes, lowered: Mapping[str, Sequence[str]]) -> Found:
    """An alias may name itself (the account), but not by way of another."""
    for name in mailboxes.aliases:
        if (way := _way_back(name.lower(), lowered)) is not None:
            words = f"this alias goes round: {' -> '.join(map(quote, way))}; expected an account or address at its end"
            yield (*BASE, "aliases", name), words


def _way_back(start: str, lowered: Mapping[str, Sequence[str]]) -> list[str] | None:
    seen: set[str] = set()
    waiting = [[start]]
    while waiting:
        way = waiting.pop()
        for target in (target.lower() for target in lowered.get(way[-1], ())):
            if target == start and len(way) > 1:
                return [*way, start]
            if target in lowered and target != way[-1] and target not in seen:
                seen.add(target)
                waiting.append([*way, target])
    return None


def _placeholders(mailboxes: Mailboxes) -> Found:
    for key in ("inbox", "folders"):
        place = getattr(mailboxes.mbox, key)
        if place is not None and ("{account}" not in place or set("{}") & set(place.replace("{account}", ""))):
            words = f"{quote(place)} is the same for all; expected {{account}} in it, and nothing else between braces"
            yield (*BASE, "mbox", key), words
