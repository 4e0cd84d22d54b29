from __future__ import annotations

import email

from egressguard.relay.trial_letter import trial_letter


def test_the_letter_says_what_it_is_and_goes_the_way_that_is_asked_for() -> None:
    letter = trial_letter("a@x.example", "b@y.example", ("isp",), hostname="gw.x.example", queue_id="A1", now=0.0)
    content = letter.content.whole()
    message = email.message_from_bytes(content)
    assert (message["From"], message["To"]) == ("EgressGuard <a@x.example>", "<b@y.example>")
    assert message["Auto-Submitted"] == "auto-generated" and message["Message-ID"] == "<A1@gw.x.example>"
    assert content.count(b"\n") == content.count(b"\r\n") and content.isascii()
    assert letter.envelope.forward_paths == ("b@y.example",) and letter.via == {"b@y.example": ("isp",)}
    assert not trial_letter("a@x.example", "b@y.example", (), hostname="gw", queue_id="A1", now=0.0).via
