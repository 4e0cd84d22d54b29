"""What a client says first: commands of SMTP in any case, and nothing else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from egressguard.net.dns_question import mx_names
from egressguard.net.speech import SMTP, speaks

SMTP_BEGINS = re.compile(rb"(EHLO|HELO|LHLO)[ \t\r\n]|MAIL FROM:", re.IGNORECASE)
NEARLY = st.builds(
    lambda word, at, octet, rest: word[:at] + bytes([octet]) + word[at + 1 :] + rest,
    st.sampled_from([b"EHLO x", b"helo\r\n", b"LhLo\t", b"MAIL FROM:<a@b>", b"mail from:<>"]),
    st.integers(0, 10),
    st.integers(0, 255),
    st.binary(max_size=5),
)


@given(NEARLY | st.binary(max_size=20))
def test_it_is_what_the_grammar_says(payload: bytes) -> None:
    assert speaks(payload) == (SMTP if SMTP_BEGINS.match(payload) else "")


@given(st.binary(max_size=80))
def test_no_octets_make_a_dns_question_raise(payload: bytes) -> None:
    assert all(isinstance(name, str) and len(name) <= 255 for name in mx_names(payload))


def test_only_questions_for_mail_servers_are_told() -> None:
    import dns.message

    for kind, expected in (("MX", ("victim.example",)), ("A", ()), ("TXT", ())):
        question = dns.message.make_query("victim.example", kind)
        assert mx_names(question.to_wire()) == expected
        assert mx_names(dns.message.make_response(question).to_wire()) == ()
