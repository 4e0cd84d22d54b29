"""Reverse-paths of forwarded mail: rewritten into ours, and bounces to them on their way back (mail.srs).

Contract
    Only what we made leads anywhere, and only for bounces: the null reverse-path. All else is refused, 550 5.1.1; so
    nobody relays by it but to those whose mail was forwarded, as long as `max_age_days` lasts.
    A secret that cannot be read is trouble of our own: KeyTrouble, and the mail waits at its sender.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter

from egressguard.mail.address import domain_of
from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope
from egressguard.mail.reply import Reply
from egressguard.mail.srs import Unfit, is_rewritten, restored, rewritten
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.policy.signing import Srs
from egressguard.senderauth.sign_keys import KeyTrouble
from egressguard.store.secret import read_secret

log = logging.getLogger(__name__)

SECRET_CHARACTERS = 16
DAY_SECONDS = 86400
BOUNCES_ONLY = Reply(550, "5.1.1", "This address is for bounces only: MAIL FROM:<>")
FORGED = Reply(550, "5.1.1", "This address was not made here")
EXPIRED = Reply(550, "5.1.1", "This address was for bounces and has expired")
CANNOT_TELL = Reply(451, "4.3.5", "The address cannot be looked at now, try again later")

Result = Literal["rewritten", "unfit", "returned", "forged", "expired", "failed"]


class ReturnPaths:
    """`component` tells the processes apart in metrics. Secrets are read once; `reload` reads them again."""

    def __init__(self, secrets: Path, registry: CollectorRegistry, component: Literal["smtpd", "relay"]) -> None:
        self._directory = secrets
        self._component = component
        self._kept: dict[str, bytes] = {}
        self._counter = Counter(
            "egressguard_relay_return_paths_total",
            "Reverse-paths rewritten (SRS) or unfit for it; what came back to one: returned, forged, expired; "
            "failed = no secret.",
            ["component", "result"],
            registry=registry,
        )

    def reload(self, policy: Policy) -> None:
        """Blocks. What cannot be read now is told now, not when mail comes."""
        self._kept = {}
        if policy.site.forwarding.srs is not None:
            try:
                self._secrets(policy.site.forwarding.srs)
            except KeyTrouble as wrong:
                log.error("a secret for reverse-paths cannot be used", extra={"fields": {"why": str(wrong)}})

    def rewritten(self, policy: Policy, reverse_path: str, now: float) -> str:
        """The reverse-path under which forwarded mail leaves. Raises KeyTrouble."""
        srs = policy.site.forwarding.srs
        if srs is None or reverse_path == NULL_REVERSE_PATH or is_local(policy, reverse_path):
            return reverse_path
        path = rewritten(reverse_path, srs.domain.lower(), self._known(srs)[0], _day(now))
        self._count("unfit" if path is None else "rewritten")
        if path is None:
            log.warning("a reverse-path cannot be rewritten", extra={"fields": {"sender": reverse_path}})
        return path or reverse_path

    def is_ours(self, policy: Policy, path: str) -> bool:
        """Whether it says that it is a reverse-path that we made."""
        srs = policy.site.forwarding.srs
        return srs is not None and is_rewritten(path) and domain_of(path) == srs.domain.lower()

    def refusal(self, policy: Policy, reverse_path: str, forward_path: str, now: float) -> Reply | None:
        """Of a recipient that `is_ours`; None: it is taken."""
        srs = policy.site.forwarding.srs
        assert srs is not None
        if reverse_path != NULL_REVERSE_PATH:
            return BOUNCES_ONLY
        try:
            found = restored(forward_path, self._known(srs), _day(now), srs.max_age_days)
        except KeyTrouble:
            return CANNOT_TELL
        if isinstance(found, Unfit):
            self._count("forged" if found is Unfit.FORGED else "expired")
            return FORGED if found is Unfit.FORGED else EXPIRED
        return None

    def returned(self, policy: Policy, envelope: Envelope, now: float) -> tuple[Envelope, dict[str, str]]:
        """The envelope with the recipients that rewritten paths stand for, and these by those. Raises KeyTrouble."""
        srs = policy.site.forwarding.srs
        if srs is None or not any(self.is_ours(policy, path) for path in envelope.forward_paths):
            return envelope, {}
        back: dict[str, str] = {}
        for path in envelope.forward_paths:
            # A day more than at RCPT: midnight may have come between.
            found = (
                restored(path, self._known(srs), _day(now), srs.max_age_days + 1)
                if self.is_ours(policy, path)
                else path
            )
            if isinstance(found, str) and found != path:
                back[path] = found
                self._count("returned")
        paths = tuple(dict.fromkeys(back.get(path, path) for path in envelope.forward_paths))
        options = {back.get(path, path): each for path, each in envelope.recipients.items()}
        utf8 = envelope.smtputf8 or not all(path.isascii() for path in paths)
        return replace(envelope, forward_paths=paths, recipients=options, smtputf8=utf8), back

    def _known(self, srs: Srs) -> Sequence[bytes]:
        try:
            return self._secrets(srs)
        except KeyTrouble as wrong:
            self._count("failed")
            log.error("a secret for reverse-paths cannot be used", extra={"fields": {"why": str(wrong)}})
            raise

    def _secrets(self, srs: Srs) -> Sequence[bytes]:
        """Small files, read once. Raises KeyTrouble."""
        return [self._kept.get(reference) or self._read(reference) for reference in srs.secrets]

    def _read(self, reference: str) -> bytes:
        try:
            secret = read_secret(reference, self._directory)
        except (OSError, ValueError) as wrong:
            raise KeyTrouble(f"{reference}: {wrong}") from wrong
        if len(secret) < SECRET_CHARACTERS:
            raise KeyTrouble(f"{reference}: its first line has fewer than {SECRET_CHARACTERS} characters")
        found = self._kept[reference] = secret.encode()
        return found

    def _count(self, result: Result) -> None:
        self._counter.labels(self._component, result).inc()


def _day(now: float) -> int:
    return int(now // DAY_SECONDS)
