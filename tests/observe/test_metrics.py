"""Several roles' expositions become one valid page."""

from __future__ import annotations

from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from egressguard.observe.metrics import exposition, merge, new_registry


def page(role: str) -> str:
    registry = new_registry(role, "1.2.3")
    Counter(f"egressguard_{role}_things_total", "Things.", ["kind"], registry=registry).labels('a\nb"c').inc(2)
    return exposition(registry)


def test_each_family_stands_once_and_every_sample_is_kept() -> None:
    merged = merge({"gate": page("gate"), "relay": page("relay")})
    families = {family.name: family for family in text_string_to_metric_families(merged)}

    assert merged.count("# TYPE egressguard_up gauge") == 1
    assert {s.labels["component"] for s in families["egressguard_up"].samples} == {"gate", "relay"}
    assert families["egressguard_gate_things"].samples[0].value == 2
    assert families["egressguard_gate_things"].samples[0].labels == {"kind": 'a\nb"c'}


def test_process_families_tell_which_role_they_are_of() -> None:
    merged = merge({"gate": page("gate"), "relay": page("relay")})

    assert 'process_resident_memory_bytes{role="gate"}' in merged
    assert 'process_resident_memory_bytes{role="relay"}' in merged


def test_what_all_say_alike_is_said_once() -> None:
    merged = merge({"gate": page("gate"), "relay": page("relay")})

    assert merged.count("egressguard_build_info{") == 1
