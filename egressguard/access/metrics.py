"""What the access role counts. No user and no address is ever a label."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class AccessMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._logins = Counter(
            "egressguard_mailbox_logins_total",
            "Login attempts at IMAP and POP3, as Dovecot's log tells them.",
            ["protocol", "result"],  # imap, pop3; accepted, refused
            registry=registry,
        )
        self._removals = Counter(
            "egressguard_mailbox_removals_total",
            "Removals by mail programs: messages marked or expunged, folders deleted.",
            ["event"],  # delete, expunge, mailbox_delete
            registry=registry,
        )
        self.running = Gauge("egressguard_mailbox_server_running", "1 while Dovecot answers.", registry=registry)
        self.starts = Counter(
            "egressguard_mailbox_server_starts_total", "Times that Dovecot was started.", registry=registry
        )
        for protocol in ("imap", "pop3"):
            for result in ("accepted", "refused"):
                self._logins.labels(protocol, result)
        for event in ("delete", "expunge", "mailbox_delete"):
            self._removals.labels(event)

    def login(self, protocol: str, *, accepted: bool, attempts: int) -> None:
        self._logins.labels(protocol, "accepted" if accepted else "refused").inc(attempts)

    def removal(self, event: str) -> None:
        self._removals.labels(event).inc()
