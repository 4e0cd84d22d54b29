"""What the access role counts. No user and no address is ever a label."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from egressguard.access.log_lines import Login


class AccessMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._logins = Counter(
            "egressguard_mailbox_logins_total",
            "Login attempts at IMAP and POP3, as Dovecot's log tells them.",
            ["protocol", "result"],  # imap, pop3; accepted, refused, shut_out
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
        self._sessions = Gauge(
            "egressguard_mailbox_active_sessions",
            "Sessions at IMAP and POP3, as of some seconds ago.",
            ["protocol"],  # imap, pop3
            registry=registry,
        )
        self.shut_out = Gauge(
            "egressguard_mailbox_shut_out_addresses", "Addresses that no password lets in.", registry=registry
        )
        self.shut_outs = Counter(
            "egressguard_mailbox_shut_outs_total",
            "Times that a client had tried too many passwords.",
            registry=registry,
        )
        self.ended = Counter(
            "egressguard_mailbox_ended_sessions_total",
            "Times that an account lost its sessions: disabled, deleted, another password.",
            registry=registry,
        )
        for protocol in ("imap", "pop3"):
            self._sessions.labels(protocol)
            for result in ("accepted", "refused", "shut_out"):
                self._logins.labels(protocol, result)
        for event in ("delete", "expunge", "mailbox_delete"):
            self._removals.labels(event)

    def login(self, login: Login) -> None:
        result = "accepted" if login.accepted else "shut_out" if login.shut_out else "refused"
        self._logins.labels(login.protocol, result).inc(login.attempts)

    def sessions(self, by_protocol: Mapping[str, int]) -> None:
        for protocol in ("imap", "pop3"):
            self._sessions.labels(protocol).set(by_protocol.get(protocol, 0))

    def removal(self, event: str) -> None:
        self._removals.labels(event).inc()
