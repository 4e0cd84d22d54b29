"""The lab's network: namespaces and veth pairs, made and torn down by name; nothing outside them is touched.

laptop .10  printer .20  bot .30 --- br0 [gateway .1 / 198.51.100.2] wan0 --- eth0 [internet .1 .25 .26 .53 .99]
guest .140 ------------------------ guest0
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

LAN_4, LAN_6 = "192.0.2.", "2001:db8:1::"
GUEST_4, GUEST_6 = "192.0.2.", "2001:db8:2::"
NET_4, NET_6 = "198.51.100.", "2001:db8:100::"
HOSTS = {"laptop": 10, "printer": 20, "bot": 30}
GUEST = 140
GATEWAY_LAN_4, GATEWAY_LAN_6 = f"{LAN_4}1", f"{LAN_6}1"
MX, SMART, DNS, STRANGER = 25, 26, 53, 99
MX_4, MX_6 = f"{NET_4}{MX}", f"{NET_6}{MX}"
SMART_4, DNS_4, STRANGER_4 = f"{NET_4}{SMART}", f"{NET_4}{DNS}", f"{NET_4}{STRANGER}"

PROGRAMS = ("ip", "nft", "unshare", "setpriv", "swaks", "saslpasswd2:postfix", "nsd:nsd")
"""What the lab drives; after a colon, the peer that may bring it."""

_numbers = itertools.count(1)


class Network:
    """`ns("laptop")` is the namespace's real name. Use as a context manager; several may stand side by side."""

    def __init__(self) -> None:
        self._mark = f"eg{os.getpid()}-{next(_numbers)}"
        self._made: list[str] = []

    def ns(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def __enter__(self) -> Network:
        try:
            for name in ("gateway", "internet", "guest", *HOSTS):
                self._add(name)
            self._lan()
            self._guest()
            self._internet()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        for name in reversed(self._made):
            for pid in _ip("netns", "pids", self.ns(name), check=False).split():
                subprocess.run(["kill", "-KILL", pid], check=False, stderr=subprocess.DEVNULL)
            _ip("netns", "delete", self.ns(name), check=False)
        self._made.clear()

    def command(self, name: str, *words: str) -> list[str]:
        """The command line that runs `words` in a namespace."""
        return ["ip", "netns", "exec", self.ns(name), *words]

    def run(
        self, name: str, *words: str, given: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(name, *words), input=given, capture_output=True, text=True, timeout=timeout, check=False
        )

    def python(
        self, name: str, program: str, *arguments: str, given: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a few lines of Python as a client in a namespace."""
        return self.run(name, sys.executable, "-I", "-c", program, *arguments, given=given, timeout=timeout)

    def _add(self, name: str) -> None:
        _ip("netns", "add", self.ns(name))
        self._made.append(name)
        self._in(name, "link", "set", "lo", "up")
        self._sysctl(name, "net/ipv6/conf/default/accept_dad", "0")
        self._sysctl(name, "net/ipv6/conf/all/accept_dad", "0")

    def _lan(self) -> None:
        self._in("gateway", "link", "add", "br0", "type", "bridge")
        for host, number in HOSTS.items():
            self._pair("gateway", f"p-{host}", host, "eth0")
            self._in("gateway", "link", "set", f"p-{host}", "master", "br0")
            self._host(host, f"{LAN_4}{number}/25", f"{LAN_6}{number}/64", GATEWAY_LAN_4, GATEWAY_LAN_6)
        self._address("gateway", "br0", f"{GATEWAY_LAN_4}/25", f"{GATEWAY_LAN_6}/64")
        for family in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self._sysctl("gateway", f"net/{family}", "1")

    def _guest(self) -> None:
        self._pair("gateway", "guest0", "guest", "eth0")
        self._address("gateway", "guest0", f"{GUEST_4}129/25", f"{GUEST_6}1/64")
        self._host("guest", f"{GUEST_4}{GUEST}/25", f"{GUEST_6}{GUEST}/64", f"{GUEST_4}129", f"{GUEST_6}1")

    def _internet(self) -> None:
        self._pair("gateway", "wan0", "internet", "eth0")
        self._address("gateway", "wan0", f"{NET_4}2/24", f"{NET_6}2/64")
        for number in (1, MX, SMART, DNS, STRANGER):
            self._address("internet", "eth0", f"{NET_4}{number}/24", f"{NET_6}{number}/64")
        self._in("gateway", "route", "add", "default", "via", f"{NET_4}1")
        self._in("gateway", "-6", "route", "add", "default", "via", f"{NET_6}1")
        self._in("internet", "route", "add", f"{LAN_4}0/24", "via", f"{NET_4}2")
        for prefix in (LAN_6, GUEST_6):
            self._in("internet", "-6", "route", "add", f"{prefix}/64", "via", f"{NET_6}2")

    def _host(self, name: str, four: str, six: str, via_4: str, via_6: str) -> None:
        self._address(name, "eth0", four, six)
        self._in(name, "route", "add", "default", "via", via_4)
        self._in(name, "-6", "route", "add", "default", "via", via_6)

    def _pair(self, one: str, one_end: str, other: str, other_end: str) -> None:
        ends = ("link", "add", one_end, "netns", self.ns(one), "type", "veth", "peer", "name", other_end)
        _ip(*ends, "netns", self.ns(other))
        self._in(one, "link", "set", one_end, "up")
        self._in(other, "link", "set", other_end, "up")

    def _address(self, name: str, device: str, four: str, six: str) -> None:
        self._in(name, "address", "add", four, "dev", device)
        self._in(name, "-6", "address", "add", six, "dev", device, "nodad")
        self._in(name, "link", "set", device, "up")

    def _in(self, name: str, *words: str) -> None:
        _ip("-n", self.ns(name), *words)

    def _sysctl(self, name: str, key: str, value: str) -> None:
        subprocess.run(self.command(name, "sh", "-c", f"echo {value} >/proc/sys/{key}"), check=True)


def _ip(*words: str, check: bool = True) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def missing_parts(root: Path) -> str:
    """Why the lab cannot be built here; "" when it can."""
    if os.geteuid() != 0:
        return "needs root: the lab makes network namespaces"
    for entry in PROGRAMS:
        program, _, peer = entry.partition(":")
        folders = [root / ".peers" / peer / "usr" / place for place in ("sbin", "bin")] if peer else []
        if not shutil.which(program) and not any((folder / program).exists() for folder in folders):
            return f"needs {program}" + (f": run scripts/peers (it unpacks {peer})" if peer else "")
    probe = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False)
    return f"needs namespaces: {probe.stderr.strip()}" if probe.returncode else ""
