from __future__ import annotations

import pytest

from egressguard.access.credentials import address_key, lost_access, render_scram, render_shut_out
from egressguard.store.passwd import PasswdEntry
from egressguard.store.verifier import Verifier

VERIFIER = Verifier(b"\0" * 16, 10_000, b"\1" * 32, b"\2" * 32)
ANNA, BOB = PasswdEntry("anna", "$argon2id$1"), PasswdEntry("bob", "$argon2id$2")
OFF = PasswdEntry("anna", "$argon2id$1", disabled=True)
CHANGED = PasswdEntry("anna", "$argon2id$3")


def test_scram_s_lines_are_dovecot_s():
    credential = (
        "10000,AAAAAAAAAAAAAAAAAAAAAA==,AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=,"
        "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="
    )

    assert render_scram([("anna", VERIFIER)]) == f"anna:{{SCRAM-SHA-256}}{credential}::::::\n"
    assert render_scram([]) == ""


def test_addresses_are_named_by_their_digests():
    assert render_shut_out(["127.0.0.1"]) == "f528764d624db129b32c21fbca0cb8d6:{PLAIN}::::::\n"
    assert address_key("2001:db8::7") != address_key("2001:db8::8")


@pytest.mark.parametrize("text", ["x", "127.0.0.1\n", "127.0.0.1:x"])
def test_what_is_no_address_gets_no_line(text):
    with pytest.raises(ValueError, match="address"):
        render_shut_out([text])


@pytest.mark.parametrize(
    ("before", "now", "lost"),
    [
        ([ANNA, BOB], [ANNA, BOB], []),
        ([], [ANNA], []),
        ([ANNA, BOB], [BOB], ["anna"]),
        ([ANNA], [OFF], ["anna"]),
        ([OFF], [ANNA], []),
        ([OFF], [OFF], []),
        ([OFF], [], []),
        ([ANNA], [CHANGED], ["anna"]),
        ([ANNA, BOB], [], ["anna", "bob"]),
    ],
)
def test_who_loses_his_sessions(before, now, lost):
    entries, later = ({entry.name: entry for entry in those} for those in (before, now))

    assert lost_access(entries, later) == lost
