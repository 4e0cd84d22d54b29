"""From a command line to a running gateway: check, make directories, bind, start, and say what is there."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from egressguard.app.candidate import Refused
from egressguard.app.children import GROUP, missing_users
from egressguard.app.control import CommandError, DaemonUnreachable, ask
from egressguard.app.directories import prepare_directories
from egressguard.app.expectations import red_expectations
from egressguard.app.generations import Generations
from egressguard.app.identity import certificate_of
from egressguard.app.keeping import start_with
from egressguard.app.listeners import (
    CannotListen,
    bind_all,
    high_port,
    metrics_endpoint,
    relay_endpoints,
    write_listening,
)
from egressguard.app.places import Places
from egressguard.app.provenance import read_provenance
from egressguard.app.rules import read_rules
from egressguard.app.supervisor import Plan, Supervisor
from egressguard.policy.model import Policy

Say = Callable[[str], object]


class CannotRun(Exception):
    """Why the gateway does not start, and the cure."""


def run_gateway(
    places: Places, *, high_ports: bool, say: Say, only_signed: bool = False, take_rules: bool = False
) -> int:
    """Run until told to stop; return the exit status. Raises CannotRun before anything was started.

    `take_rules`: the rules directory as it is now, and not what was confirmed last."""
    as_root = os.geteuid() == 0
    if as_root and (missing := missing_users()):
        raise CannotRun(
            f"the system users {', '.join(missing)} are missing; scripts/run makes them, or: "
            f"groupadd --system {GROUP}; useradd --system --gid {GROUP} --no-create-home NAME"
        )
    _refuse_bad_rules(places)
    os.umask(0o027)
    prepare_directories(places, as_root=as_root)
    with _only_one(places):
        try:
            candidate = start_with(places, take_rules=take_rules, only_signed=only_signed)
            policy = candidate.policy
            _certificate(policy, places, as_root=as_root)
            endpoints = [*relay_endpoints(policy, high_ports=high_ports), metrics_endpoint(policy)]
            sockets = bind_all(endpoints)
        except (Refused, CannotListen) as wrong:
            raise CannotRun(f"{wrong}; nothing was started") from wrong
        write_listening(places.listening, sockets)
        arguments = ("--high-ports",) if high_ports else ()
        plan = Plan(places, candidate, sockets, as_root=as_root, arguments=arguments, only_signed=only_signed)
        supervisor = Supervisor(plan, lambda: _announce(places, policy, high_ports, say))
        status = asyncio.run(supervisor.run())
        say("stopped. The wall (if it was loaded) still stands: `egressguard down` removes it.")
        return status


def _refuse_bad_rules(places: Places) -> None:
    """A first start needs rules without fault, and makes nothing before it has them."""
    if Generations(places.policy).confirmed() is None:
        loaded, _ = read_rules(places.rules, places.site)
        if loaded.policy is None:
            faults = "\n".join(map(str, loaded.faults))
            raise CannotRun(f"the rules have faults; nothing was started\n{faults}")


@contextlib.contextmanager
def _only_one(places: Places) -> Iterator[None]:
    """Two gateways on one state directory would deliver twice. The lock dies with the process."""
    with (places.runtime / "egressguard.pid").open("a+") as file:
        try:
            _lock_patiently(file.fileno())
        except OSError:
            raise CannotRun(f"another gateway runs on {places.state}; stop it first") from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _lock_patiently(fd: int, patience_seconds: float = 2) -> None:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _certificate(policy: Policy, places: Places, *, as_root: bool) -> None:
    """Made before the roles start, readable for the two that speak TLS."""
    _, key = certificate_of(policy, places)
    if as_root and policy.site.relay.tls.certificate is None:
        os.chown(key, 0, places.tls.stat().st_gid)
        key.chmod(0o640)


def _announce(places: Places, policy: Policy, high_ports: bool, say: Say) -> None:
    gate = _ask_status(places, "gate")
    access = _ask_status(places, "access")
    origin = read_provenance(places.provenance, places.rules)
    say(f"EgressGuard is ready. Rules {places.rules}, revision {policy.revision}, {origin}.")
    there, _ = read_rules(places.rules, places.site)
    if there.policy is None or there.policy.revision != policy.revision:
        say("  note:    the rules directory says something else: `egressguard plan` shows it, `apply` takes it")
    elif red := red_expectations(places.rules, policy, places.site):
        say(f"  WARNING: expectations of the rules are red; see `egressguard test {places.rules}`: {red[0]}")
    for reason in gate.get("reasons", []):
        say(f"  note:    {reason}")
    say(f"  guards:  {gate.get('summary', 'the packet plane does not answer; see the log above')}")
    say(f"  relay:   {_listening(policy, high_ports)}")
    say(f"  mailbox: {access.get('summary', 'the access role does not answer; see the log above')}")
    say(f"  metrics: http://{policy.site.metrics.address}:{policy.site.metrics.port}/metrics")
    say("  next:    " + _next_step(places, policy, high_ports))


def _ask_status(places: Places, role: str) -> dict[str, Any]:
    try:
        return dict(ask(places.control(role), "status", 5))
    except (DaemonUnreachable, CommandError):
        return {}


def _listening(policy: Policy, high_ports: bool) -> str:
    where = "127.0.0.1 and ::1" if high_ports else "all addresses"
    listeners = policy.site.relay.listeners.items()
    ports = (f"{high_port(x.port) if high_ports else x.port} ({name})" for name, x in listeners)
    return f"{', '.join(ports) or 'no listener'} on {where}"


def _next_step(places: Places, policy: Policy, high_ports: bool) -> str:
    ports = {x.kind: x.port for x in policy.site.relay.listeners.values()}
    port = ports.get("submission", ports.get("smtp", 25))
    port = high_port(port) if high_ports else port
    state = "" if os.geteuid() == 0 else f" --state {places.state}"
    program = "egressguard" if shutil.which("egressguard") else str(Path(sys.executable).with_name("egressguard"))
    return (
        f"{program} user add anna{state}\n"
        f"           swaks --server 127.0.0.1:{port} --tls --auth-user anna --from anna@example.org "
        "--to you@example.org"
    )
