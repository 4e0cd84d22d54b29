"""The rendered configurations: as they are kept in tests/golden/dovecot, and as doveconf(1) takes them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from egressguard.access.dovecot import UnknownVersion, parse_version, render_dovecot, render_quota_users
from egressguard.access.dovecot_2_3 import render_rights
from egressguard.access.model import AccessModel, Ports
from egressguard.policy.mailboxes import Quota
from tests.access.conftest import trixie_root

GOLDEN = Path(__file__).parent.parent / "golden" / "dovecot"
STATE = Path("/var/lib/egressguard")
FULL = AccessModel(
    base_dir=Path("/run/egressguard/access/dovecot"),
    state_dir=STATE / "dovecot",
    mailbox_root=STATE / "mailboxes",
    views_root=STATE / "quarantine/views",
    accounts=STATE / "accounts/passwd",
    certificate=STATE / "tls/certificate.pem",
    private_key=STATE / "tls/private-key.pem",
    user="eg-access",
    group="egressguard",
    ports=Ports(143, 993, 110, 995),
    quarantine_admins=("anna", "bob"),
)
SMALL = replace(FULL, ports=Ports(imaps=1993), quarantine_admins=(), addresses=("192.0.2.1", "2001:db8::1"))
WIDE = replace(FULL, owners_see=True, max_sessions=2000, max_user_sessions=50, pam_service="dovecot")
MAILED = replace(
    FULL,
    quota=Quota(octets=10**9, messages=1000),
    quotas=(("anna", Quota(octets=1000)), ("bob", Quota())),
    lmtp=True,
    sieve=True,
    separator="=",
    sends=("/opt/egressguard/.venv/bin/python", "-P", "-m", "egressguard.access.sieve_sendmail", f"{STATE}/drop"),
    postmaster="postmaster@example.org",
)
CASES = [
    pytest.param(model, version, f"{name}-{version[0]}.{version[1]}", id=f"{name} {version[0]}.{version[1]}")
    for name, model in (("full", FULL), ("small", SMALL), ("wide", WIDE), ("mailed", MAILED))
    for version in ((2, 3), (2, 4))
]


def has_sieve():
    return (trixie_root() / "usr/lib/dovecot/modules/lib90_sieve_plugin.so").exists()


@pytest.fixture
def golden(request):
    def read(name: str, text: str) -> str:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.write_text(text)
        return path.read_text()

    return read


@pytest.mark.parametrize(("model", "version", "name"), CASES)
def test_the_configuration_is_the_reviewed_one(model, version, name, golden):
    text = render_dovecot(model, version)

    assert text == golden(f"{name}.conf", text)


@pytest.mark.parametrize(("model", "name"), [(FULL, "full"), (WIDE, "wide")], ids=["full", "wide"])
def test_the_rights_are_the_reviewed_ones(model, name, golden):
    text = render_rights(model)

    assert text == golden(f"{name}.acl", text)


@pytest.mark.parametrize("version", [(2, 3), (2, 4)], ids=str)
def test_own_quotas_are_the_reviewed_ones(version, golden):
    text = render_quota_users(MAILED, version)

    assert text == golden(f"mailed-{version[0]}.{version[1]}.quotas", text)


@pytest.mark.peers
@pytest.mark.parametrize(("model", "version", "name"), CASES)
def test_the_real_doveconf_takes_it(model, version, name, house, doveconf):
    """With directories and users that are there: doveconf looks at some of them."""
    program = doveconf(version, house.directory)
    asked = (
        "quarantine_admins",
        "owners_see",
        "max_sessions",
        "max_user_sessions",
        "pam_service",
        "quota",
        "quotas",
        "lmtp",
        "sends",
        "postmaster",
    )
    # 2.4 knows no setting of a plugin that is not there.
    asked += ("sieve",) if version == (2, 3) or has_sieve() else ()
    model = replace(house.model(ports=model.ports), **{name: getattr(model, name) for name in asked})
    config = house.directory / "try.conf"
    config.write_text(render_dovecot(model, version))
    config.chmod(0o644)
    answer = subprocess.run([program, "-c", config, "-n"], check=False, capture_output=True, text=True, timeout=30)

    assert answer.returncode == 0, answer.stderr
    assert "rror" not in answer.stderr
    assert "bsolete" not in answer.stderr
    assert "ssl = required" in answer.stdout
    assert f"mail_temp_dir = {model.temporary_dir}" in answer.stdout


@pytest.mark.parametrize("version", [(2, 2), (2, 5), (3, 0), (1, 2)])
def test_a_version_that_we_do_not_know_is_refused_not_guessed(version):
    with pytest.raises(UnknownVersion):
        render_dovecot(FULL, version)


@pytest.mark.parametrize(
    ("text", "version"), [("2.3.19.1 (9b53102964)\n", (2, 3)), ("2.4.1-4 (7d8c0e5759)", (2, 4)), ("2.4", (2, 4))]
)
def test_versions(text, version):
    assert parse_version(text) == version


@pytest.mark.parametrize("text", ["", "dovecot: not found", "v2", "2", "9999999.1"])
def test_an_answer_that_is_no_version_is_refused(text):
    with pytest.raises(UnknownVersion):
        parse_version(text)


@pytest.mark.parametrize("version", [(2, 3), (2, 4)])
@pytest.mark.parametrize("offered", ["imap", "imaps", "pop3", "pop3s"])
def test_only_the_offered_service_has_a_port(version, offered):
    text = render_dovecot(replace(FULL, ports=Ports(**{offered: 4321})), version)

    assert sorted(line.strip() for line in text.splitlines() if "port =" in line) == ["port = 0", "port = 4321"]


@pytest.mark.parametrize("version", [(2, 3), (2, 4)])
def test_without_admins_there_is_no_quarantine_namespace(version):
    text = render_dovecot(replace(FULL, quarantine_admins=()), version)

    assert "uarantine" not in text
    assert "acl" not in text
