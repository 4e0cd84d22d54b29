"""The schema of `site.relay.sessions`: how much of the relay one client may take, and for how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from egressguard.policy.fields import Strict

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Wait = Annotated[int, Field(ge=1, le=86_400)]


class SessionLimits(Strict):
    """Seconds and counts. Shorter than the defaults is hard on honest clients (RFC 5321 s4.5.3.2)."""

    max_connections_per_client: Count = Field(
        100,
        description="open connections of one client (IPv6: of one /64); a busy mail server behind us opens fewer",
        examples=[20],
    )
    max_errors: Count = Field(20, description="5yz replies in one session; then it ends (421)", examples=[10])
    max_idle_commands: Count = Field(
        100, description="NOOP, RSET, VRFY and the like without a message; then the session ends (421)", examples=[50]
    )
    max_excess_recipients: Count = Field(
        1000,
        description="recipients above `max_recipients`, or named twice; then the session ends (421)",
        examples=[100],
    )
    max_auth_failures: Count = Field(3, description="wrong passwords in one session; then it ends (421)", examples=[1])
    auth_failure_delay_seconds: Annotated[int, Field(ge=0, le=60)] = Field(
        2, description="how long the answer to a wrong password takes", examples=[5]
    )
    tls_handshake_seconds: Wait = Field(30, description="for a TLS handshake", examples=[10])
    command_seconds: Wait = Field(
        300, description="for the next command, and for the client to read a reply; RFC 5321 s4.5.3.2.7", examples=[60]
    )
    data_chunk_seconds: Wait = Field(
        180, description="for the next octets of a message; RFC 5321 s4.5.3.2.5", examples=[60]
    )
    data_seconds: Wait = Field(3600, description="for a whole message, however slowly it drips", examples=[1800])
    recipient_hook_seconds: Wait = Field(
        60, description="for our own look at a recipient; then it is put off (451)", examples=[20]
    )
    message_hook_seconds: Wait = Field(
        540,
        description="for our own look at a message; then it is put off (451): clients wait 600, RFC 5321 s4.5.3.2.6",
        examples=[300],
    )
    session_seconds: Wait = Field(4 * 3600, description="for a whole session", examples=[3600])
