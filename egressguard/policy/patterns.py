"""How rules name paths and domains: "anna@x.example", "*@x.example", "<>", "x.example", ".x.example", "@local"."""

from __future__ import annotations

from collections.abc import Iterable

from egressguard.mail.address import domain_of

LOCAL = "@local"


def path_matches(patterns: Iterable[str], path: str) -> bool:
    """Whether a path ("" = the null reverse-path) is one of `patterns`. Case does not count."""
    folded = path.lower()
    return any(_one_path(pattern.lower(), folded) for pattern in patterns)


def _one_path(pattern: str, path: str) -> bool:
    if pattern == "<>":
        return path == ""
    if pattern.startswith("*@"):
        return path != "" and domain_of(path) == pattern[2:]
    return path == pattern


def domain_matches(patterns: Iterable[str], path: str, local_domains: Iterable[str]) -> bool:
    """Whether the domain of `path` is one of `patterns`; the null path has none."""
    domain = domain_of(path)
    return bool(domain) and any(_one_domain(p.lower(), domain, local_domains) for p in patterns)


def _one_domain(pattern: str, domain: str, local_domains: Iterable[str]) -> bool:
    if pattern == LOCAL:
        return domain in {d.lower() for d in local_domains}
    if pattern.startswith("."):
        return domain.endswith(pattern)
    return domain == pattern
