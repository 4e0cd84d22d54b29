"""SMTP replies: a code, an enhanced status code and text (RFC 5321 s4.2, RFC 3463)."""

from __future__ import annotations

from egressguard.values import value


@value(frozen=True, slots=True)
class Reply:
    """`status` is "" or an RFC 3463 code whose class agrees with `code` (RFC 2034 s4)."""

    code: int
    status: str
    text: str

    def __post_init__(self) -> None:
        if self.status and self.status[0] != str(self.code)[0]:
            raise ValueError(f"{self.code} does not agree with {self.status}")

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.code), self.status, self.text)))

    @property
    def is_positive(self) -> bool:
        return 200 <= self.code <= 299

    @property
    def is_transient(self) -> bool:
        return 400 <= self.code <= 499

    @property
    def is_permanent(self) -> bool:
        return 500 <= self.code <= 599
