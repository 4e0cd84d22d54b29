"""aiosmtplib's client that writes down what it says and hears until a connection is ready for transactions.

Contract
    No secret is written down: what is said after AUTH is HIDDEN, also where a host repeats it; so a refusal is
    handed on.
    What a host says is parsed in time that grows with its length, however small the pieces in which it comes.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Sequence
from typing import Any

import aiosmtplib
import aiosmtplib.smtp
from aiosmtplib.protocol import SMTPProtocol

from egressguard.smtp.transcript import HIDDEN, Transcript


class _LineByLine(SMTPProtocol):
    """aiosmtplib parses a reply from its first line on with each piece that comes: a host that says 32 KiB line by line
    would keep our event loop for some ten seconds."""

    _looked_at = 0

    def _read_response_from_buffer(self) -> aiosmtplib.SMTPResponse | None:
        buffer, start = self._buffer, self._looked_at
        while (end := buffer.find(b"\n", start)) >= 0:
            if buffer[start + 3 : start + 4] != b"-" or not buffer[start : start + 3].isdigit():
                self._looked_at = 0
                return super()._read_response_from_buffer()
            start = end + 1
        self._looked_at = start
        return None


aiosmtplib.smtp.SMTPProtocol = _LineByLine  # type: ignore[attr-defined] # no other way to give it one


class RecordingSMTP(aiosmtplib.SMTP):
    """`secrets` stand in no line of `transcript`, as they are or in base64."""

    def __init__(self, transcript: Transcript, secrets: Sequence[str | None], **options: Any) -> None:
        super().__init__(**options)
        self._transcript = transcript
        self._discretion = Discretion(*secrets)

    async def connect(self, **options: Any) -> aiosmtplib.SMTPResponse:
        return await self._heard(super().connect(**options))

    async def starttls(self, *arguments: Any, **options: Any) -> aiosmtplib.SMTPResponse:
        self._transcript.said(b"STARTTLS\r\n")
        return await self._heard(super().starttls(*arguments, **options))

    async def execute_command(self, *words: bytes, **options: Any) -> aiosmtplib.SMTPResponse:
        self._transcript.said(self._discretion.command(words).encode() + b"\r\n")
        return await self._heard(super().execute_command(*words, **options))

    async def _heard(self, asking: Any) -> aiosmtplib.SMTPResponse:
        """What the host answers, also where aiosmtplib makes an exception of it."""
        try:
            response: aiosmtplib.SMTPResponse = await asking
        except aiosmtplib.SMTPResponseException as refused:
            refused.message = self._note(refused.code, refused.message)
            refused.args = (refused.code, refused.message)
            raise
        shown = self._note(response.code, response.message)
        return response if response.code < 400 else aiosmtplib.SMTPResponse(response.code, shown)

    def _note(self, code: int, message: str) -> str:
        shown = self._discretion.reply(code, message)
        self._transcript.heard(code, shown)
        return shown


class Discretion:
    """Parts what may be shown of a session's commands and replies from what is secret."""

    def __init__(self, *secrets: str | None) -> None:
        self._secrets = {secret for secret in secrets if secret}
        self._in_login = False

    def command(self, words: Sequence[bytes]) -> str:
        """The line as it may be shown; `words` as they are sent."""
        line = b" ".join(words).decode("utf-8", "replace")
        if self._in_login:
            self._secrets.add(line)
            return HIDDEN
        if not words or words[0].upper() != b"AUTH":
            return line
        self._in_login = True
        self._secrets.update(word.decode("utf-8", "replace") for word in words[2:] if word)
        return b" ".join(words[:2]).decode("utf-8", "replace") + (f" {HIDDEN}" if len(words) > 2 else "")

    def reply(self, code: int, text: str) -> str:
        """The reply as it may be shown."""
        self._in_login = self._in_login and code == 334
        forms = {form for secret in self._secrets if secret for form in (secret, _base64(secret))}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, HIDDEN)
        return text


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def tls_words(channel: ssl.SSLObject | None) -> str:
    """Version and cipher, or "" where nothing is encrypted."""
    if channel is None:
        return ""
    cipher = channel.cipher()
    return f"{channel.version()} {cipher[0] if cipher else ''}".strip()
