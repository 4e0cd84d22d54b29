"""Whose a held message is, and what each may do: rows that read like the rules."""

from __future__ import annotations

from typing import Any

import pytest

from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.quarantine.order import DELETE, RELEASE, Order
from egressguard.quarantine.owners import Owner, order_of, owners_of

ANNA, BERT, FAR = "anna@site.example", "bert@site.example", "carl@far.example"
ALIAS = "info@site.example"


def policy(access: str) -> Policy:
    site = f"site:\n  zones: {{lan: {{networks: 192.0.2.0/24}}}}\n  domains: [site.example]\n  access: {access}\n"
    loaded = parse_rules({"site.yaml": site.encode()})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


def account_of(_policy: Policy, path: str) -> str | None:
    return {ANNA: "anna", ALIAS: "anna", BERT: "bert"}.get(path.lower())


def facts(**given: Any) -> dict[str, Any]:
    return {"reverse_path": FAR, "forward_paths": [ANNA], "client": "203.0.113.9", "user": None} | given


OWNERS = [
    ("{}", "Held", {}, {}),
    ("{own_quarantine: {}}", "Held", {}, {"anna": Owner((ANNA,))}),
    ("{own_quarantine: {}}", "Infected", {}, {}),
    ("{own_quarantine: {folders: [Infected]}}", "Infected", {}, {"anna": Owner((ANNA,))}),
    ("{own_quarantine: {}}", "Held", {"forward_paths": [FAR]}, {}),
    ("{own_quarantine: {}}", "Held", {"forward_paths": ["nobody@site.example"]}, {}),
    ("{own_quarantine: {}}", "Held", {"forward_paths": [ANNA, ALIAS]}, {"anna": Owner((ANNA, ALIAS))}),
    ("{own_quarantine: {}}", "Held", {"forward_paths": [ANNA, BERT], "released": [ANNA]}, {"bert": Owner((BERT,))}),
    ("{own_quarantine: {}}", "Held", {"forward_paths": [ANNA, BERT], "declined": [BERT]}, {"anna": Owner((ANNA,))}),
    ("{own_quarantine: {}}", "Held", {"forward_paths": [FAR], "user": "bert"}, {"bert": Owner(sent=True)}),
    ("{own_quarantine: {senders: nothing}}", "Held", {"forward_paths": [FAR], "user": "bert"}, {}),
    # An address that writes from outside may be forged.
    ("{own_quarantine: {}}", "Held", {"forward_paths": [FAR], "reverse_path": BERT}, {}),
    (
        "{own_quarantine: {}}",
        "Held",
        {"forward_paths": [FAR], "reverse_path": BERT, "client": "192.0.2.7"},
        {"bert": Owner(sent=True)},
    ),
    ("{own_quarantine: {}}", "Held", {"user": "anna", "reverse_path": ANNA}, {"anna": Owner((ANNA,), sent=True)}),
    ("{own_quarantine: {}}", "Held", {"forward_paths": [], "reverse_path": ""}, {}),
]


@pytest.mark.parametrize(("access", "folder", "given", "owners"), OWNERS)
def test_whose_it_is(access: str, folder: str, given: dict[str, Any], owners: dict[str, Owner]) -> None:
    assert owners_of(policy(access), folder, facts(**given), account_of) == owners


def test_accounts_that_cannot_be_read_are_no_answer() -> None:
    def broken(_policy: Policy, _path: str) -> str | None:
        raise OSError("EIO")

    with pytest.raises(OSError, match="EIO"):
        owners_of(policy("{own_quarantine: {}}"), "Held", facts(), broken)


ORDERS = [
    ("{quarantine_admins: [anna]}", None, ()),
    ("{quarantine_admins: [anna], own_quarantine: {}}", Owner((ANNA,)), ()),
    ("{quarantine_admins: [bert], own_quarantine: {}}", None, None),
    ("{own_quarantine: {}}", None, None),
    ("{own_quarantine: {}}", Owner((ANNA,)), (ANNA,)),
    ("{own_quarantine: {}}", Owner(sent=True), None),
    ("{own_quarantine: {}}", Owner((ANNA,), sent=True), (ANNA,)),
    ("{own_quarantine: {senders: release}}", Owner(sent=True), ()),
    ("{own_quarantine: {senders: release}}", Owner((ANNA,), sent=True), ()),
    ("{}", Owner((ANNA,)), None),
]


@pytest.mark.parametrize("verb", [RELEASE, DELETE])
@pytest.mark.parametrize(("access", "owner", "recipients"), ORDERS)
def test_what_a_move_orders(access: str, owner: Owner | None, recipients: tuple[str, ...] | None, verb: str) -> None:
    order = order_of(policy(access), "anna", verb, "ID", owner)
    if recipients is None:
        assert order is None
    else:
        assert order == Order(verb, "ID", "anna (IMAP)", "moved by a mail program", recipients=recipients)
