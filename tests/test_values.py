"""Values with something changed: as `dataclasses.replace` has it."""

from __future__ import annotations

import dataclasses
import ipaddress

import pytest

from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.values import changed, value

FACTS = SessionFacts(ipaddress.IPv4Address("192.0.2.7"), 40000, "lan", "smtp")


def test_a_changed_value_is_another_one_and_the_same_but_for_what_changes() -> None:
    greeted = changed(FACTS, helo="printer", esmtp=True)
    assert greeted == dataclasses.replace(FACTS, helo="printer", esmtp=True)
    assert (greeted.client_text, FACTS.helo) == ("192.0.2.7", "")
    assert changed(Content.of(b"x"), front=b"y") == Content(b"y", b"x")


@value(frozen=True, slots=True)
class Named(Content):
    name: str = ""


def test_a_derived_value_keeps_what_it_has_from_the_other_one() -> None:
    assert changed(Named(b"x", b"y"), name="z") == Named(b"x", b"y", name="z")


def test_there_is_no_field_but_those_of_the_value() -> None:
    with pytest.raises(AttributeError):
        changed(FACTS, hello="printer")
