"""Which interfaces are inside: everything that carries no default route."""

from __future__ import annotations

from egressguard.firewall.host import default_interfaces_4, default_interfaces_6

ROUTE_4 = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wan0\t00000000\t016433C6\t0003\t0\t0\t0\t00000000\t0\t0\t0
lan0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
down0\t00000000\t016433C6\t0002\t0\t0\t0\t00000000\t0\t0\t0
"""
ZERO = "0" * 32
ROUTE_6 = f"""{ZERO} 00 {ZERO} 00 20010db8000000000000000000000001 00000400 00000001 00000000 00000003     wan6
20010db8000100000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000001 00000000 00000001     lan0
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
"""


def test_the_default_route_of_ipv4() -> None:
    assert default_interfaces_4(ROUTE_4) == {"wan0"}


def test_the_default_route_of_ipv6_and_not_the_kernels_reject_route() -> None:
    assert default_interfaces_6(ROUTE_6) == {"wan6"}
