from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from egressguard.policy.document import Fault
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy

SITE = b"""\
site:
  zones:
    lan: {interfaces: ["@inside", br0], networks: [192.168.0.0/16, "fd00::/8"]}
    dmz: {networks: 198.51.100.0/24}
    wire: {interfaces: eth7}
  sets:
    mail-servers: [192.168.1.25, "fd00::25"]
    nobody: []
  domains: [example.org, Mail.Example.org]
  relay:
    listeners: {lan: {kind: smtp, port: 25}, submission: {kind: submission, port: 587}}
    redirect_to: lan
  smart_hosts:
    provider: {host: smtp.provider.example}
    backup: {host: 203.0.113.9}
"""


@pytest.fixture
def policy_of() -> Callable[[str], Policy]:
    """YAML sections -> the Policy they make beside SITE."""

    def load(text: str) -> Policy:
        loaded = parse_rules({"rules.yaml": text.encode(), "site.yaml": SITE})
        assert loaded.policy is not None, [str(fault) for fault in loaded.faults]
        return loaded.policy

    return load


@pytest.fixture
def faults_of() -> Callable[[str], Sequence[Fault]]:
    """YAML sections -> the faults in them, beside SITE."""

    def load(text: str) -> Sequence[Fault]:
        loaded = parse_rules({"rules.yaml": text.encode(), "site.yaml": SITE})
        assert (loaded.policy is None) == bool(loaded.faults)
        return loaded.faults

    return load
