from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from egressguard.access.model import AccessModel, ModelError, Ports

MODEL = AccessModel(
    base_dir=Path("/run/egressguard/access/dovecot"),
    state_dir=Path("/var/lib/egressguard/dovecot"),
    mailbox_root=Path("/var/lib/egressguard/mailboxes"),
    views_root=Path("/var/lib/egressguard/quarantine"),
    accounts=Path("/var/lib/egressguard/accounts/passwd"),
    certificate=Path("/var/lib/egressguard/tls/certificate.pem"),
    private_key=Path("/var/lib/egressguard/tls/private-key.pem"),
    user="eg-access",
    group="egressguard",
    ports=Ports(143, 993, 110, 995),
    quarantine_admins=("anna", "bob"),
)


@pytest.mark.parametrize(
    "path", ["relative", "/a b", "/a%u", "/a\nssl = no", "/a#b", "/a=b", "/a{b", "/a:INDEX=/etc", '/a"b', ""]
)
def test_a_path_that_means_something_to_dovecot_is_refused(path):
    with pytest.raises(ModelError):
        replace(MODEL, mailbox_root=Path(path))


@pytest.mark.parametrize("user", ["", "a b", "root\n", "nobody }", "A" * 40])
def test_a_user_that_is_no_user_name_is_refused(user):
    with pytest.raises(ModelError):
        replace(MODEL, user=user)


@pytest.mark.parametrize("admin", ["*", "anna lrwstipekxa", "a\nb", "", "group=x y", "Anna"])
def test_rights_cannot_be_smuggled_in_through_an_admin_s_name(admin):
    with pytest.raises(ModelError):
        replace(MODEL, quarantine_admins=(admin,))


@pytest.mark.parametrize("word", ["a b", "%u", "x\nssl = no", "a;b", '"'])
def test_a_command_or_an_address_that_means_something_else_there_is_refused(word):
    for change in ({"sends": ("/usr/bin/python3", word)}, {"postmaster": word}):
        with pytest.raises(ModelError):
            replace(MODEL, **change)


@pytest.mark.parametrize("ports", [Ports(imap=0), Ports(imap=-1), Ports(imap=65536), Ports(imap=143, pop3=143)])
def test_ports_that_dovecot_cannot_have_are_refused(ports):
    with pytest.raises(ModelError):
        replace(MODEL, ports=ports)


@pytest.mark.parametrize("addresses", [(), ("localhost",), ("127.0.0.1\nssl=no",), ("",)])
def test_addresses_that_are_none_are_refused(addresses):
    with pytest.raises(ModelError):
        replace(MODEL, addresses=addresses)


def test_a_base_directory_too_long_for_sockets_is_refused_in_words():
    with pytest.raises(ModelError, match="sockets"):
        replace(MODEL, base_dir=Path("/" + "x" * 100))


@pytest.mark.parametrize(
    ("ports", "protocols"),
    [
        (Ports(), ()),
        (Ports(imap=143), ("imap",)),
        (Ports(pop3s=995), ("pop3",)),
        (Ports(imaps=993, pop3=110), ("imap", "pop3")),
    ],
)
def test_protocols_follow_from_the_ports(ports, protocols):
    assert ports.protocols == protocols
