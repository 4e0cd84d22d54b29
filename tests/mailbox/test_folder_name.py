from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mailbox.folder_name import directory_of, modified_utf7


@pytest.mark.parametrize(
    ("folder", "directory"),
    [
        ("INBOX", ""),
        ("Trash", ".Trash"),
        ("Lists/Debian", ".Lists.Debian"),
        ("R&D", ".R&-D"),
        ("~peter/mail/\u53f0\u5317/\u65e5\u672c\u8a9e", ".~peter.mail.&U,BTFw-.&ZeVnLIqe-"),  # RFC 3501's own example
        ("Gr\u00fc\u00dfe", ".Gr&APwA3w-e"),
        ("\U0001f4e7", ".&2D3c5w-"),
    ],
)
def test_directories(folder, directory):
    assert directory_of(folder) == directory


@given(st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), max_size=40))
def test_modified_utf7_comes_back(text):
    octets = modified_utf7(text).encode("ascii")
    back, at = "", 0
    while at < len(octets):
        if octets[at : at + 1] != b"&":
            back, at = back + chr(octets[at]), at + 1
            continue
        end = octets.index(b"-", at)
        coded = octets[at + 1 : end].replace(b",", b"/")
        back += (b"+" + coded + b"-").decode("utf-7") if coded else "&"
        at = end + 1
    assert back == text
