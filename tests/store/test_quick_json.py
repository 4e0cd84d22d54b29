from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.store import quick_json

TEXTS = st.text() | st.text(alphabet=st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_goes_in_comes_out_by_us_and_by_the_standard_library(value: object) -> None:
    octets = quick_json.encode(value)

    assert quick_json.decode(octets) == value
    assert json.loads(octets) == value


@dataclass
class Thing:
    name: str


@pytest.mark.parametrize("value", [Path("/a/b"), datetime.date(2026, 1, 2), Thing("x"), b"octets"])
@pytest.mark.parametrize("beside", ["plain", "half a pair: \udcff"])
def test_what_json_does_not_know_is_told_as_str_tells_it(value: object, beside: str) -> None:
    assert quick_json.decode(quick_json.encode([value, beside])) == [str(value), beside]


@pytest.mark.parametrize("octets", [b"", b"{", b'{"a": }', b"\xff\xfe", b'"\xff"', b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(octets: bytes) -> None:
    with pytest.raises(ValueError):
        quick_json.decode(octets)
