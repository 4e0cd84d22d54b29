"""One SMTP session as a conversation: what was said so far, and what each command means now (RFC 5321 s4.1.4).

Contract
    No socket and no clock here: a Channel does what a session needs of the wire, `answer` gives the reply.
    The null reverse-path is "" inside. EHLO, HELO, RSET, STARTTLS and the end of DATA drop the transaction.
    After STARTTLS everything the client said in clear is forgotten (RFC 3207 s4.2).
    Cleartext never carries a password; where people log in, nothing is taken before they did.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache

from egressguard.mail.reply import Reply
from egressguard.smtp import replies
from egressguard.smtp.auth import Authenticator, Credentials
from egressguard.smtp.channel import Channel
from egressguard.smtp.commands import Command, parse_command, parse_helo, parse_mail, parse_rcpt
from egressguard.smtp.hooks import SessionFacts, SessionHooks, Stage
from egressguard.smtp.incoming import Chunks, Transaction
from egressguard.smtp.intake import Intake
from egressguard.smtp.mechanisms import authenticate, offered_mechanisms
from egressguard.smtp.metrics import SmtpMetrics
from egressguard.smtp.parameters import Offers
from egressguard.smtp.replies import Refusal
from egressguard.smtp.settings import SmtpSettings
from egressguard.values import changed

_STAGE_OF: dict[str, Stage] = {
    "HELO": "helo",
    "EHLO": "helo",
    "STARTTLS": "tls",
    "AUTH": "auth",
    "MAIL": "mail",
    "RCPT": "rcpt",
    "DATA": "data",
    "BDAT": "data",
}
_LIMIT_OF = {
    replies.TOO_BIG: "max_message_octets",
    replies.TOO_MANY_RECIPIENTS: "max_recipients",
    replies.AUTH_LIMITED: "max_auth_failures",
}
_BDAT = re.compile(r"([0-9]{1,15})(?: (LAST))?", re.IGNORECASE)
_NONE = Command("")
_HTTP = frozenset({"GET", "POST", "PUT", "HEAD", "CONNECT", "OPTIONS"})
"""A browser talked into talking to us: nothing it says further may be taken for SMTP."""
_IDLE = frozenset({"NOOP", "RSET", "VRFY", "EXPN", "HELP", "EHLO", "HELO", "MAIL"})


class Dialogue:
    """`closing` is set when the reply just given was the last one."""

    def __init__(
        self,
        channel: Channel,
        facts: SessionFacts,
        hooks: SessionHooks,
        settings: SmtpSettings,
        metrics: SmtpMetrics,
        authenticator: Authenticator | None,
        *,
        offers_starttls: bool,
    ) -> None:
        self.facts = facts
        self.closing = False
        self._channel = channel
        self._hooks = hooks
        self._settings = settings
        self._metrics = metrics
        self._authenticator = authenticator
        self._offers_starttls = offers_starttls
        self._transaction: Transaction | None = None
        self._errors = 0
        self._idle_commands = 0
        self._excess_recipients = 0
        self._auth_failures = 0
        self._standing: str | None = None

    def close(self) -> None:
        """The session is over: nothing of an unfinished message stays."""
        self._forget_transaction()

    @property
    def greeting(self) -> Reply:
        return Reply(220, "", f"{self._settings.hostname} ESMTP")

    @property
    def _logs_people_in(self) -> bool:
        return self._authenticator is not None and self.facts.kind != "smtp"

    @property
    def _offers_auth(self) -> bool:
        return self._logs_people_in and self.facts.tls

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        return () if self._authenticator is None else offered_mechanisms(self._authenticator)

    @property
    def _offers(self) -> Offers:
        facts = self.facts
        return _offers(facts.esmtp, self._offers_auth, facts.tls, self._settings.binarymime)

    async def answer(self, line: bytes) -> Reply | None:
        """The reply to one command line without its CRLF; None when it was given already (STARTTLS)."""
        command = _NONE
        try:
            command = parse_command(line)
            reply = await self._act(command)
        except Refusal as refusal:
            reply = refusal.reply
            if not command.verb and line[:4].upper() == b"BDAT":  # not even a line: how much of it is a chunk?
                self.closing = True
            if reply.is_permanent or reply.is_transient:
                self._note_own(command, reply)
        return reply if reply is None else self._judged(command, reply)

    def refuse(self, stage: Stage, reply: Reply, about: str = "") -> Reply:
        """Count and report a refusal of the server's own."""
        self._hooks.on_refused(self.facts, stage, reply, about)
        return reply

    async def _act(self, command: Command) -> Reply | None:
        if command.verb in _HTTP:
            self.closing = True
        if command.verb in _IDLE:
            self._idle_commands += 1
        if (reply := _ALWAYS.get(command.verb)) is not None:
            return reply
        if (verb := _VERBS.get(command.verb)) is None:
            raise Refusal(replies.UNKNOWN_COMMAND)
        return await verb(self, command.argument)

    def _note_own(self, command: Command, reply: Reply) -> None:
        tellable = command.argument[:300] if command.verb in {"HELO", "EHLO", "MAIL", "RCPT"} else ""
        self.refuse(_STAGE_OF.get(command.verb, "other"), reply, tellable)  # never AUTH's: it holds a password

    def _judged(self, command: Command, reply: Reply) -> Reply:
        """Count what was refused; too much of it, or of idle talk, ends the session."""
        if reply.code >= 400:
            self._metrics.rejected(_STAGE_OF.get(command.verb, "other"), replies.reason_of(reply))
            if (limit := _LIMIT_OF.get(reply)) is not None:
                self._metrics.limited(limit)
            self._errors += reply.is_permanent
        if reply.code in {221, 421} or (reply.code == 451 and reply == replies.TROUBLE):
            self.closing = True
        elif self._errors > self._settings.max_errors:
            return self._last(replies.TOO_MANY_ERRORS, "max_errors")
        elif self._excess_recipients > self._settings.max_excess_recipients:
            return self._last(replies.TOO_MANY_ERRORS, "max_excess_recipients")
        elif self._idle_commands > self._settings.max_idle_commands:
            return self._last(replies.TOO_MANY_COMMANDS, "max_idle_commands")
        return reply

    def _last(self, reply: Reply, limit: str) -> Reply:
        self.closing = True
        self._metrics.limited(limit)
        self._metrics.rejected("other", replies.reason_of(reply))
        return self.refuse("other", reply)

    # Greeting and TLS.

    async def _ehlo(self, argument: str) -> Reply:
        self.facts = changed(self.facts, helo=parse_helo(argument), esmtp=True)
        self._forget_transaction()
        return _ehlo_reply(
            self._settings,
            self._offers,
            self._mechanisms if self._offers_auth else (),
            starttls=self._offers_starttls and not self.facts.tls,
        )

    async def _helo(self, argument: str) -> Reply:
        self.facts = changed(self.facts, helo=parse_helo(argument), esmtp=False)
        self._forget_transaction()
        return Reply(250, "", self._settings.hostname)

    async def _starttls(self, argument: str) -> Reply | None:
        if argument:
            raise Refusal(replies.NO_ARGUMENT)
        if self.facts.tls:
            raise Refusal(replies.TLS_ALREADY)
        if not self._offers_starttls:
            raise Refusal(replies.NOT_IMPLEMENTED)
        if self._channel.has_input():  # octets in clear that wait to be taken for encrypted ones
            self.closing = True
            raise Refusal(replies.EARLY_INPUT)
        await self._channel.start_tls()
        self._forget_transaction()
        self.facts = dataclasses.replace(self.facts, helo="", esmtp=False, tls=True, user=None)
        return None

    # AUTH.

    async def _auth(self, argument: str) -> Reply:
        mechanism, _, initial = argument.partition(" ")
        mechanism = mechanism.upper()  # RFC 4422 s3.1 writes them in upper case, not all clients do
        self._refuse_auth(mechanism)
        assert self._authenticator is not None
        result, name = await authenticate(
            mechanism, initial.strip(" "), self._channel.ask, self._authenticator, self.facts.client
        )
        self._metrics.authenticated(mechanism, result.value)
        if result is Credentials.OK:
            self.facts = dataclasses.replace(self.facts, user=name.lower())
            self._standing = self._authenticator.standing(name.lower())
            return replies.LOGGED_IN
        return await self._not_logged_in(result, name)

    def _refuse_auth(self, mechanism: str) -> None:
        if not self._logs_people_in:
            raise Refusal(replies.NOT_IMPLEMENTED)
        if not self.facts.tls:
            raise Refusal(replies.AUTH_NEEDS_TLS)
        if not self.facts.esmtp:
            raise Refusal(replies.HELO_FIRST)
        if self.facts.user is not None:
            raise Refusal(replies.AUTH_ALREADY)
        if self._transaction is not None:
            raise Refusal(replies.AUTH_IN_MAIL)
        if mechanism not in self._mechanisms:
            raise Refusal(replies.AUTH_MECHANISM)

    async def _not_logged_in(self, result: Credentials, name: str) -> Reply:
        if result is Credentials.CANNOT_TELL:
            return self.refuse("auth", replies.AUTH_CANNOT_TELL, name)
        await self._channel.pause(self._settings.auth_failure_delay_seconds)
        self._auth_failures += 1
        limited = result is Credentials.LIMITED or self._auth_failures >= self._settings.max_auth_failures
        return self.refuse("auth", replies.AUTH_LIMITED if limited else replies.AUTH_WRONG, name[:100])

    # The mail transaction.

    async def _mail(self, argument: str) -> Reply:
        self._refuse_strangers()
        if self._transaction is not None:
            raise Refusal(replies.NESTED_MAIL)
        mail = parse_mail(argument, self._offers)
        if mail.size_octets is not None and mail.size_octets > self._settings.max_message_octets:
            raise Refusal(replies.TOO_BIG)
        if not self._hooks.has_room(mail.size_octets or 0):
            raise Refusal(replies.NO_ROOM)
        self._transaction = Transaction(mail)
        return replies.OK

    def _refuse_strangers(self) -> None:
        if not self.facts.helo:
            raise Refusal(replies.HELO_FIRST)
        if self._logs_people_in and not self.facts.tls:
            raise Refusal(replies.TLS_FIRST)
        if self._logs_people_in and self.facts.user is None:
            raise Refusal(replies.LOG_IN_FIRST)
        if self.facts.user is not None:
            self._refuse_who_lost_access(self.facts.user)

    def _refuse_who_lost_access(self, user: str) -> None:
        """An account that was disabled or removed, or has another password, sends nothing more on old sessions."""
        assert self._authenticator is not None
        standing = self._authenticator.standing(user)
        if standing is None or self._standing is None:
            raise Refusal(replies.TROUBLE)
        if not standing or standing != self._standing:
            self.closing = True
            raise Refusal(replies.LOG_IN_AGAIN)

    async def _rcpt(self, argument: str) -> Reply:
        transaction = self._transaction
        if transaction is None:
            raise Refusal(replies.MAIL_FIRST)
        if transaction.chunks is not None:
            raise Refusal(replies.CHUNKS_ONLY)
        rcpt = parse_rcpt(argument, self._offers, smtputf8=transaction.mail.smtputf8)
        path = rcpt.forward_path
        if path in transaction.forward_paths:
            self._excess_recipients += 1
            return replies.OK
        if len(transaction.forward_paths) >= self._settings.max_recipients:
            self._excess_recipients += 1
            raise Refusal(replies.TOO_MANY_RECIPIENTS)
        mail = transaction.mail
        answer = self._hooks.on_recipient(self.facts, mail.reverse_path, path, mail.size_octets)
        reply = answer if isinstance(answer, Reply) else await self._channel.ask_about_recipient(answer)
        if reply.is_positive:
            transaction.forward_paths[path] = rcpt.options
        return reply

    async def _data(self, argument: str) -> Reply:
        transaction = self._transaction
        if argument:
            raise Refusal(replies.NO_ARGUMENT)
        if transaction is not None and (transaction.chunks is not None or transaction.mail.binary):
            raise Refusal(replies.CHUNKS_ONLY)  # RFC 3030 s2, s3
        if self._channel.has_input():  # a message sent before 354 would be taken for commands when we refuse it
            self.closing = True
            raise Refusal(replies.EARLY_INPUT)
        if transaction is None:
            raise Refusal(replies.MAIL_FIRST)
        if not transaction.forward_paths:
            raise Refusal(replies.NO_RECIPIENTS)
        await self._channel.send(replies.START_DATA)
        self._transaction = None
        intake = self._channel.new_intake()
        try:
            await self._channel.receive_data(intake)
        except BaseException:
            intake.close()
            raise
        return await self._take(transaction, intake)

    async def _bdat(self, argument: str) -> Reply:
        match = _BDAT.fullmatch(argument)
        limit = self._settings.max_message_octets
        if match is None or int(match[1]) > 2 * limit + 1024 * 1024:
            self.closing = True  # where the next command begins cannot be known, or is too far away
            raise Refusal(replies.BAD_BDAT if match is None else replies.TOO_BIG)
        size, transaction = int(match[1]), self._transaction
        if transaction is None or not transaction.forward_paths:
            await self._channel.receive_chunk(size, None, None)
            raise Refusal(replies.MAIL_FIRST if transaction is None else replies.NO_RECIPIENTS)
        chunks = transaction.chunks
        if chunks is None:
            chunks = transaction.chunks = Chunks(transaction, self._channel.new_intake(), limit)
        await self._channel.receive_chunk(size, chunks.data, chunks.intake)
        if match[2]:
            chunks.data.end()
            self._transaction = None
            return await self._take(transaction, chunks.intake)
        if (refusal := chunks.intake.refusal) is not None:
            self._forget_transaction()
            return self.refuse("data", refusal, transaction.mail.reverse_path)
        return Reply(250, "2.0.0", f"{size} octets received")

    async def _take(self, transaction: Transaction, intake: Intake) -> Reply:
        """The message is here; whatever it comes to, the intake is closed."""
        content = await intake.content()
        if isinstance(content, Reply):
            intake.close()
            return self.refuse("data", content, transaction.mail.reverse_path)
        self._metrics.size.observe(content.size_octets)
        self._idle_commands = 0
        question = self._hooks.on_message(self.facts, transaction.envelope(content), content)
        return await self._channel.commit(question, intake)

    def _forget_transaction(self) -> None:
        if self._transaction is not None and self._transaction.chunks is not None:
            self._transaction.chunks.intake.close()
        self._transaction = None

    async def _rset(self, argument: str) -> Reply:
        if argument:
            raise Refusal(replies.NO_ARGUMENT)
        self._forget_transaction()
        return replies.OK

    async def _quit(self, argument: str) -> Reply:
        if argument:
            raise Refusal(replies.NO_ARGUMENT)
        return replies.BYE


@lru_cache(16)
def _offers(extended: bool, auth: bool, tls: bool, binarymime: bool) -> Offers:
    return Offers(extended=extended, auth=auth, dsn=True, requiretls=tls, binarymime=binarymime)


@lru_cache(64)
def _ehlo_reply(settings: SmtpSettings, offers: Offers, mechanisms: tuple[str, ...], *, starttls: bool) -> Reply:
    lines = [settings.hostname]
    lines += [f"SIZE {settings.max_message_octets}", "8BITMIME", "SMTPUTF8", "PIPELINING", "CHUNKING"]
    lines += ["BINARYMIME"] if offers.binarymime else []
    lines += ["DSN", "ENHANCEDSTATUSCODES", f"LIMITS RCPTMAX={settings.max_recipients}"]  # RFC 9422
    lines += ["REQUIRETLS"] if offers.requiretls else []
    lines += ["STARTTLS"] if starttls else []
    lines += ["AUTH " + " ".join(mechanisms)] if mechanisms else []
    return Reply(250, "", "\n".join(lines))


_ALWAYS = {
    "NOOP": replies.OK,
    "HELP": replies.HELP,
    "VRFY": replies.CANNOT_VERIFY,
    "EXPN": replies.NOT_IMPLEMENTED,
}
_VERBS: dict[str, Callable[[Dialogue, str], Awaitable[Reply | None]]] = {
    "EHLO": Dialogue._ehlo,
    "HELO": Dialogue._helo,
    "STARTTLS": Dialogue._starttls,
    "AUTH": Dialogue._auth,
    "MAIL": Dialogue._mail,
    "RCPT": Dialogue._rcpt,
    "DATA": Dialogue._data,
    "BDAT": Dialogue._bdat,
    "RSET": Dialogue._rset,
    "QUIT": Dialogue._quit,
}
