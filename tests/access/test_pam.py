"""People of the system beside the accounts' file, with the real Dovecot and PAM; its files are the test's own."""

from __future__ import annotations

import imaplib
import os
import shutil

import pytest

from tests.access.conftest import AS_NOBODY, installed, wrapped

pytestmark = pytest.mark.peers


@pytest.fixture
def running(house, start):
    """PAM says yes to everybody."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare: PAM's files are laid over the machine's in a mount namespace")
    services = house.directory / "pam.d"
    services.mkdir()
    (services / "eg-test").write_text("auth required pam_permit.so\naccount required pam_permit.so\n")
    over = f"mount --bind {services} /etc/pam.d"
    before = f"unshare --mount --propagation private sh -ec '{over}; exec \"$@\"' - {AS_NOBODY}"
    house.add("anna")
    house.add("gone")
    house.accounts.disable("gone")
    model = house.model(pam_service="eg-test")
    return start(wrapped(house.directory, before, installed()), model).wait_running()


def lets_in(running, name, password):
    try:
        return running.imap(name, password).noop()[0] == "OK"
    except imaplib.IMAP4.error:
        return False


def test_pam_is_asked_of_names_that_the_accounts_do_not_have_and_of_no_others(running):
    assert lets_in(running, "carla", "whatever PAM likes")
    assert lets_in(running, "anna", "secret")
    assert not lets_in(running, "anna", "whatever PAM likes")
    assert not lets_in(running, "gone", "secret")
    client = running.imap()
    assert "AUTH=SCRAM-SHA-256" not in client.capabilities  # PAM has no verifiers
    client.logout()
