"""The access role: IMAP and POP3 through the private Dovecot."""

from __future__ import annotations

import asyncio
from typing import Any

from egressguard.access.dovecot_process import Access
from egressguard.access.model import AccessModel, ModelError, Ports
from egressguard.access.ports import choose_ports, usable_addresses
from egressguard.app.control import Commands
from egressguard.app.identity import certificate_of, running_group, running_user
from egressguard.app.listeners import high_port, loopback
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.policy.model import Policy

START_SECONDS = 10


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("access", places, high_ports=high_ports) as frame:
        model = await asyncio.to_thread(_model, frame, frame.policy, None)
        access = Access(model, record=frame.record, registry=frame.registry)
        running = asyncio.create_task(access.run())

        async def status() -> dict[str, Any]:
            found = access.status()
            return found | {"summary": _summary(found)}

        async def reload(policy: Policy) -> None:
            before = access.status()["ports"]
            try:
                model = await asyncio.to_thread(_model, frame, policy, Ports(**before))
            except ModelError as wrong:
                raise OSError(str(wrong)) from wrong
            if (problem := await access.reload(model)) is not None:
                raise OSError(problem)

        await _settled(access)
        await serve_until_stopped(frame, Commands({"status": status}), reload)
        await access.stop()
        await running


async def _settled(access: Access) -> None:
    """Return when Dovecot listens, or when it is known why it does not: the latter is told by status."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while access.status()["state"] == "starting" and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)


def _model(frame: Frame, policy: Policy, current: Ports | None) -> AccessModel:
    places, settings = frame.places, policy.site.access
    addresses = tuple(str(a) for a in loopback()) if frame.high_ports else ("0.0.0.0", "::")  # noqa: S104
    addresses = usable_addresses(addresses)
    asked = (settings.imap_port, settings.imaps_port, settings.pop3_port, settings.pop3s_port)
    if frame.high_ports:
        asked = tuple(high_port(port) if port else port for port in asked)  # type: ignore[assignment]
    certificate, private_key = certificate_of(policy, places)
    return AccessModel(
        base_dir=places.dovecot_base,
        state_dir=places.dovecot_state,
        mailbox_root=places.mailboxes,
        quarantine_root=places.quarantine,
        accounts=places.accounts,
        certificate=certificate,
        private_key=private_key,
        user=running_user(),
        group=running_group(),
        ports=choose_ports(Ports(*asked), addresses, current),
        addresses=addresses,
        quarantine_admins=settings.quarantine_admins,
    )


def _summary(status: dict[str, Any]) -> str:
    if status["state"] == "running":
        ports = ", ".join(f"{port} ({service})" for service, port in status["ports"].items())
        return f"{ports} on {', '.join(status['addresses'])} (Dovecot {status['version']})"
    return f"IMAP and POP3 {status['state']}: {status['problem']}" if status["problem"] else "IMAP and POP3 off"
