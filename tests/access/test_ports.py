from __future__ import annotations

import socket

import pytest

from egressguard.access.model import Ports
from egressguard.access.ports import choose_ports, usable_addresses


def test_port_0_becomes_a_free_one_and_the_others_stay():
    chosen = choose_ports(Ports(imap=0, imaps=4993, pop3=None, pop3s=0), ("127.0.0.1",))

    assert chosen.imaps == 4993
    assert chosen.pop3 is None
    assert len({chosen.imap, chosen.imaps, chosen.pop3s} - {0, None}) == 3
    for port in (chosen.imap, chosen.pop3s):
        with socket.socket() as free:
            free.bind(("127.0.0.1", port))


def test_a_reload_keeps_the_ports_that_clients_know():
    before = choose_ports(Ports(imap=0, imaps=0), ("127.0.0.1",))

    assert choose_ports(Ports(imap=0, imaps=0), ("127.0.0.1",), before) == before
    assert choose_ports(Ports(imap=0), ("127.0.0.1",), before) == Ports(imap=before.imap)


def test_an_address_that_is_not_ours_is_an_error_to_be_seen():
    with pytest.raises(OSError, match="assign"):
        choose_ports(Ports(imap=0), ("192.0.2.1",))


def test_ipv4_addresses_are_kept_even_where_they_are_missing():
    assert usable_addresses(("127.0.0.1", "192.0.2.1", "*")) == ("127.0.0.1", "192.0.2.1", "*")
