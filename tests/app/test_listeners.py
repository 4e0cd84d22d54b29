"""Binding: every family on one port, and words that help when a port is taken."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from egressguard.app.listeners import CannotListen, Endpoint, bind_all, high_port, relay_endpoints
from egressguard.policy.model import Policy

V4, V6 = ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")


def test_port_zero_is_the_same_free_port_on_both_families() -> None:
    bound = bind_all([Endpoint("lan", V4, 0), Endpoint("lan", V6, 0)])
    try:
        assert len({sock.getsockname()[1] for sock in bound["lan"]}) == 1
    finally:
        for sock in bound["lan"]:
            sock.close()


def test_a_taken_port_names_the_listener_and_a_cure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{port} \(lan\).*another port"):
            bind_all([Endpoint("lan", V4, port)], patience_seconds=0)


@pytest.mark.parametrize(("port", "expected"), [(25, 10025), (587, 10587), (2525, 2525), (0, 0), (1023, 11023)])
def test_high_ports(port: int, expected: int) -> None:
    assert high_port(port) == expected


def test_an_ordinary_user_listens_on_loopback_only() -> None:
    listeners = {"lan": {"kind": "smtp", "port": 25}}
    policy = Policy.model_validate({"site": {"zones": {}, "relay": {"listeners": listeners}}})

    endpoints = list(relay_endpoints(policy, high_ports=True))

    assert [str(endpoint) for endpoint in endpoints] == ["127.0.0.1:10025", "[::1]:10025"]
