"""A mail transaction while it is open: its envelope as it grows, its content as it comes in chunks."""

from __future__ import annotations

from dataclasses import dataclass, field

from egressguard.mail.envelope import NO_OPTIONS, Envelope, RecipientOptions
from egressguard.smtp.chunked import ChunkedData
from egressguard.smtp.commands import Mail
from egressguard.smtp.intake import Intake
from egressguard.store.content import Content


@dataclass(slots=True)
class Transaction:
    """`forward_paths` has each path once, in the order of RCPT, with its options."""

    mail: Mail
    forward_paths: dict[str, RecipientOptions] = field(default_factory=dict)
    chunks: Chunks | None = None

    def envelope(self, content: Content) -> Envelope:
        mail = self.mail
        return Envelope(
            mail.reverse_path,
            tuple(self.forward_paths),
            mail.smtputf8,
            mail.body_8bit or not content.is_ascii,
            mail.ret,
            mail.envid,
            mail.requiretls,
            mail.binary,
            {path: options for path, options in self.forward_paths.items() if options != NO_OPTIONS},
        )


class Chunks:
    """A message that comes in BDAT chunks, between the first and the last."""

    def __init__(self, transaction: Transaction, intake: Intake, limit_octets: int) -> None:
        self.intake = intake
        self.data = ChunkedData(limit_octets, binary=transaction.mail.binary)
        intake.judged_by(self.data)
