"""The schema of `site.access`: IMAP and POP3, who may reach them, and what of the quarantine they show."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from egressguard.policy.fields import FOLDER_PATTERN, NAME_PATTERN, ListenPort, Many, Name, Strict, Texts

Folder = Annotated[str, Field(pattern=FOLDER_PATTERN)]


class Guessing(Strict):
    """When a client that tries passwords is shut out. By address, never by account: nobody locks others out."""

    failures: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="so many failed logins within the time; an IPv6 client is counted by its /64", examples=[10]
    )
    within_seconds: Annotated[int, Field(ge=10, le=86400)] = Field(600, description="the time", examples=[3600])
    shut_out_seconds: Annotated[int, Field(ge=10, le=86400)] = Field(
        900, description="how long not even the right password lets that client in", examples=[3600]
    )


class OwnQuarantine(Strict):
    """Users see what is held of theirs below "Quarantine", and act on it by moving it.

    A recipient who moves a message to "Release" gets it delivered, one who moves it to "Delete" never does; neither
    touches other recipients' copies."""

    folders: Many[Folder] = Field(
        ("Held",),
        description="folders of the quarantine that are shown; whoever reads a message has it, so not malware",
        examples=["Held", ["Held", "Denied"]],
    )
    senders: Literal["nothing", "see", "release"] = Field(
        "see",
        description="what users may do with held mail that they sent; release: to all recipients (and delete it), so "
        "whoever has stolen a password may, too",
        examples=["nothing"],
    )


class Access(Strict):
    """Ports of IMAP and POP3 (Dovecot). Plaintext AUTH needs TLS, always."""

    imap_port: ListenPort | None = Field(None, description="IMAP with STARTTLS; left out = not offered", examples=[143])
    imaps_port: ListenPort | None = Field(None, description="IMAP over TLS; left out = not offered", examples=[993])
    pop3_port: ListenPort | None = Field(None, description="POP3 with STLS; left out = not offered", examples=[110])
    pop3s_port: ListenPort | None = Field(None, description="POP3 over TLS; left out = not offered", examples=[995])
    zones: Many[Name] = Field(
        (),
        description="zones whose hosts reach these ports, the kernel refuses all others; left out = every zone",
        examples=["lan", ["lan", "guests"]],
    )
    max_sessions: Annotated[int, Field(ge=10, le=20_000)] = Field(
        500,
        description="the most connections at once, for IMAP and for POP3; a mail program holds one a folder that it "
        "watches, each some 2 MB",
        examples=[2000],
    )
    max_user_sessions: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="... of one user from one address", examples=[50]
    )
    guessing: Guessing = Field(
        Guessing(), description="clients that try passwords; left out = its defaults", examples=[{"failures": 10}]
    )
    pam_service: Annotated[str, Field(pattern=NAME_PATTERN)] | None = Field(
        None,
        description="service of PAM that names not in the accounts' file are asked of; people of /etc/passwd get mail "
        "then, too; left out = none",
        examples=["dovecot"],
    )
    quarantine_admins: Texts = Field(
        (),
        description='accounts that see all that is held below "Quarantine-all", and act on it by moving it to '
        '"Quarantine/Release" or "Quarantine/Delete"; left out = none',
        examples=["anna", ["anna", "bert"]],
    )
    own_quarantine: OwnQuarantine | None = Field(
        None, description="what users see of their own held mail; left out = nothing", examples=[{"folders": "Held"}]
    )

    @property
    def ports(self) -> tuple[int, ...]:
        """Those that are offered, 0 (any free one) left out."""
        asked = (self.imap_port, self.imaps_port, self.pop3_port, self.pop3s_port)
        return tuple(port for port in asked if port)
