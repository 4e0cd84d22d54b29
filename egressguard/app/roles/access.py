"""The access role: IMAP and POP3 through the private Dovecot."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from dataclasses import asdict
from typing import Any

from egressguard.access.dovecot_process import Access
from egressguard.access.model import AccessModel, ModelError, Ports
from egressguard.access.ports import choose_ports, usable_addresses
from egressguard.access.programs import ProgramFailed, find_programs, offers_lmtp, offers_sieve
from egressguard.access.shut_out import Guesses
from egressguard.app.control import CommandError, Commands, DaemonUnreachable, ask_later
from egressguard.app.identity import certificate_of, running_group, running_user
from egressguard.app.listeners import high_port, loopback
from egressguard.app.places import Places
from egressguard.app.roles.frame import Frame, framed, serve_until_stopped
from egressguard.policy.model import Policy

log = logging.getLogger(__name__)

START_SECONDS = 10
ANSWER_SECONDS = 5
MOST_TOLD = 1000
SENDMAIL = "egressguard.access.sieve_sendmail"


async def run(places: Places, *, high_ports: bool) -> None:
    async with framed("access", places, high_ports=high_ports) as frame:
        model = await asyncio.to_thread(_model, frame, frame.policy, None)
        guesses = Guesses(*_guessing(frame.policy))

        async def ordered(users: set[str]) -> None:
            """The relay looks by itself, too, only later."""
            with contextlib.suppress(CommandError, DaemonUnreachable):
                told = sorted(users)[:MOST_TOLD]
                await ask_later(places.control("relay"), "quarantine.moved", ANSWER_SECONDS, users=told)

        access = Access(model, record=frame.record, registry=frame.registry, guesses=guesses, ordered=ordered)
        running = asyncio.create_task(access.run())

        async def status() -> dict[str, Any]:
            found = access.status()
            return found | {"summary": _summary(found)}

        async def sessions() -> list[dict[str, Any]]:
            try:
                return [asdict(session) for session in await access.sessions()]
            except ProgramFailed as wrong:
                raise CommandError(str(wrong)) from wrong

        async def reload(policy: Policy) -> None:
            before = access.status()["ports"]
            try:
                model = await asyncio.to_thread(_model, frame, policy, Ports(**before))
            except ModelError as wrong:
                raise OSError(str(wrong)) from wrong
            if (problem := await access.reload(model)) is not None:
                raise OSError(problem)
            guesses.failures, guesses.within_seconds, guesses.shut_out_seconds = _guessing(policy)

        await _settled(access)
        await serve_until_stopped(frame, Commands({"status": status, "sessions": sessions}), reload)
        await access.stop()
        await running


async def _settled(access: Access) -> None:
    """Return when Dovecot listens, or when it is known why it does not: the latter is told by status."""
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while access.status()["state"] == "starting" and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)


def _guessing(policy: Policy) -> tuple[int, int, int]:
    rule = policy.site.access.guessing
    return rule.failures, rule.within_seconds, rule.shut_out_seconds


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
        views_root=places.quarantine_views,
        accounts=places.accounts,
        certificate=certificate,
        private_key=private_key,
        user=running_user(),
        group=running_group(),
        ports=choose_ports(Ports(*asked), addresses, current),
        addresses=addresses,
        quarantine_admins=settings.quarantine_admins,
        owners_see=settings.own_quarantine is not None,
        max_sessions=settings.max_sessions,
        max_user_sessions=settings.max_user_sessions,
        pam_service=settings.pam_service,
        **_delivering(policy, places),
    )


def _delivering(policy: Policy, places: Places) -> dict[str, Any]:
    """What of `site.mailboxes` is Dovecot's business. What a package is missing for is told, with the cure."""
    mailboxes, programs = policy.site.mailboxes, find_programs()
    wanted = mailboxes.deliver == "lmtp" or any(one.deliver == "lmtp" for one in mailboxes.accounts.values())
    lmtp = wanted and programs is not None and offers_lmtp(programs)
    sieve = lmtp and programs is not None and offers_sieve(programs)
    if wanted and not lmtp:
        log.error("mail with deliver: lmtp waits: apt install dovecot-lmtpd dovecot-sieve")
    elif lmtp and not sieve:
        log.warning("Sieve scripts are not run: apt install dovecot-sieve")
    return {
        "quota": mailboxes.quota,
        "quotas": tuple((name, one.quota) for name, one in mailboxes.accounts.items() if one.quota is not None),
        "lmtp": lmtp,
        "sieve": sieve,
        "separator": mailboxes.separator,
        "sends": (sys.executable, "-P", "-m", SENDMAIL, str(places.drop)),
        "postmaster": f"postmaster@{policy.site.domains[0]}" if policy.site.domains else "",
    }


def _summary(status: dict[str, Any]) -> str:
    if status["state"] == "running":
        ports = ", ".join(f"{port} ({service})" for service, port in status["ports"].items())
        where = f"{ports} on {', '.join(status['addresses'])}" if ports else "no port, mail for accounts only"
        words = f"{where} (Dovecot {status['version']})"
        words += f"; sessions: {sum(status['sessions'].values())}" if status["sessions"] else ""
        return words + (f"; addresses shut out: {len(status['shut_out'])}" if status["shut_out"] else "")
    return f"IMAP and POP3 {status['state']}: {status['problem']}" if status["problem"] else "IMAP and POP3 off"
