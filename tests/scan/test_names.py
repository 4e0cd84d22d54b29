"""Names that look harmless here, and are something else where they are saved."""

from __future__ import annotations

import pytest

from egressguard.policy.site import Scan
from egressguard.policy.verdict import Verdict
from egressguard.scan.examine import examine
from egressguard.scan.names import parameter_names
from tests.scan.samples import mail_with

SETTINGS = Scan(denied_names=("*.exe",))


@pytest.mark.parametrize(
    "name",
    [
        "invoice.e&#120;e",
        "invoice&#46;exe",
        "invoice&period;exe",
        "invoice.exe&nbsp;",
        "invoice.\N{FULLWIDTH LATIN SMALL LETTER E}xe",
        "invoice\N{FULLWIDTH FULL STOP}exe",
        "invoice\N{ONE DOT LEADER}exe",
        "invoice.e\N{ZERO WIDTH JOINER}xe",
    ],
)
def test_a_suffix_in_disguise_is_seen(name: str) -> None:
    assert examine(mail_with(name, b"x"), SETTINGS).verdict is Verdict.DENIED


@pytest.mark.parametrize(
    "name",
    [
        "\N{LATIN CAPITAL LETTER U WITH DIAERESIS}bersicht.pdf",
        "M&amp;A.pdf",
        "R&D.pdf",
        "\N{CYRILLIC SMALL LETTER YU}.doc",
    ],
)
def test_a_name_in_another_language_stays_one_name(name: str) -> None:
    names = set(parameter_names(b'attachment; filename="' + name.encode() + b'"'))

    assert names == {name}


@pytest.mark.parametrize(
    "value",
    [
        b'attachment; filename=""inv"\r\n oice.exe"',
        b'attachment; filename="a"\n\tb.exe',
        b'attachment; filename="a.txt"\r\n filename="b.exe"',
        b'attachment; filename="a.txt" filename="b.exe"',
        b'attachment; filename="a.txt"(name=b.exe',
    ],
)
def test_what_stands_behind_a_quoted_string_is_a_name_too(value: bytes) -> None:
    assert any(name.endswith(".exe") for name in parameter_names(value))
