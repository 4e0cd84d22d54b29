"""One registry a process, and how several processes' expositions become one page.

Contract
    Nothing registers itself at import: a role makes a registry and hands it to its rooms.
    `merge` keeps each family once; families that every process has (process_*, python_*) get a `role` label.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def new_registry(role: str, version: str) -> CollectorRegistry:
    """A registry with what every role tells about itself: build, process."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    build = Gauge(
        "egressguard_build_info",
        "Version of the program and of Python.",
        ["version", "python"],
        registry=registry,
    )
    build.labels(version, platform.python_version()).set(1)
    up = Gauge("egressguard_up", "1 while this component answers.", ["component"], registry=registry)
    up.labels(role).set(1)
    return registry


class Children:
    """The children of `metric` by the values of its labels, which must be bounded.

    Kept, for finding one by its labels takes longer than counting does."""

    def __init__(self, metric: Counter) -> None:
        self._metric = metric
        self._known: dict[tuple[str, ...], Counter] = {}

    def of(self, *values: str) -> Counter:
        child = self._known.get(values)
        if child is None:
            child = self._known[values] = self._metric.labels(*values)
        return child


class LoadedPolicy:
    """Which policy is in force, and since when; the same for all roles but while they reload."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = Gauge(
            "egressguard_policy_info",
            "The policy in force: its revision, git commit (empty = not under git), signature, whether changed since.",
            ["revision", "commit", "signature", "modified"],
            registry=registry,
        )
        self._at = Gauge(
            "egressguard_policy_loaded_timestamp_seconds",
            "When the component took its policy.",
            ["component"],
            registry=registry,
        )

    def loaded(self, component: str, revision: str, commit: str, signature: str, *, modified: bool, now: float) -> None:
        self._info.clear()
        self._info.labels(revision, commit, signature, str(modified).lower()).set(1)
        self._at.labels(component).set(now)


def exposition(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


class _Merged:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def merge(texts: Mapping[str, str]) -> str:
    """Join the expositions of several roles (role name -> text) into one valid page."""
    families: dict[str, Metric] = {}
    for role, text in texts.items():
        for family in text_string_to_metric_families(text):
            kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            kept.samples.extend(_labelled(sample, role) for sample in family.samples)
    for family in families.values():
        family.samples = list({_key(sample): sample for sample in family.samples}.values())
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(families.values()))
    return exposition(registry)


def _labelled(sample: Sample, role: str) -> Sample:
    if sample.name.startswith(("process_", "python_")):
        return sample._replace(labels={**sample.labels, "role": role})
    return sample


def _key(sample: Sample) -> tuple[str, tuple[tuple[str, str], ...]]:
    return sample.name, tuple(sorted(sample.labels.items()))
