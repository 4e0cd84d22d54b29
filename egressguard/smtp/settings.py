"""The server's limits, each with its reason. Seconds and octets; the rules have all of them (policy.session_limits)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from egressguard.net.flow import IPAddress
from egressguard.policy.relaying import Relay
from egressguard.policy.session_limits import SessionLimits

_RULED = tuple(SessionLimits.model_fields)


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """Read at the start of each session: a reload takes hold of new sessions."""

    hostname: str
    max_message_octets: int = 50 * 1024 * 1024
    max_recipients: int = 1000
    max_excess_recipients: int = 1000  # put off with 452, or named again: Postfix's smtpd_recipient_overshoot_limit
    binarymime: bool = False
    redirect_to: str | None = None  # the listener that redirected flows land in
    proxy_from: tuple[IPv4Network | IPv6Network, ...] = ()
    max_connections: int = 1000
    max_connections_per_client: int = 100  # a busy mail server behind us opens fewer
    max_buffered_octets: int = 256 * 1024 * 1024  # of all messages being received at once: a router's memory
    max_errors: int = 20  # Postfix cuts at 20 too; an enumerator of addresses gets no further
    max_idle_commands: int = 100  # NOOP, RSET, VRFY ... without a message
    max_auth_failures: int = 3
    auth_failure_delay_seconds: float = 2
    tls_handshake_seconds: float = 30
    command_seconds: float = 300  # RFC 5321 s4.5.3.2.7: at least 5 minutes
    data_chunk_seconds: float = 180  # nothing at all for so long; s4.5.3.2.5
    data_seconds: float = 3600  # one message, however slowly it drips
    recipient_hook_seconds: float = 60
    message_hook_seconds: float = 540  # clients wait 10 minutes for the reply (s4.5.3.2.6): answer before
    session_seconds: float = 4 * 3600

    @property
    def limits(self) -> Mapping[str, float]:
        """Every limit by its name, for the metrics."""
        return {name: getattr(self, name) for name in LIMITS}

    def hears_proxy(self, client: IPAddress) -> bool:
        """Whether this peer speaks for others, and says so by the PROXY protocol."""
        return any(client in network for network in self.proxy_from if network.version == client.version)

    @staticmethod
    def of(relay: Relay, hostname: str) -> SmtpSettings:
        """What the rules say; `hostname` when they do not name one."""
        return SmtpSettings(
            hostname=relay.hostname or hostname,
            max_message_octets=relay.max_message_octets,
            max_recipients=relay.max_recipients,
            binarymime=relay.binarymime,
            redirect_to=relay.redirect_to,
            proxy_from=relay.proxy_from,
            max_connections=relay.max_connections,
            max_buffered_octets=max(256 * 1024 * 1024, 2 * relay.max_message_octets),
            **{name: getattr(relay.sessions, name) for name in _RULED},
        )


LIMITS = ("max_message_octets", "max_recipients", "max_connections", "max_buffered_octets", *_RULED)
