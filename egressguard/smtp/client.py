"""The client side of SMTP: messages to hosts over connections that are kept for the next, an Outcome per recipient.

Contract
    `send` never raises for anything a peer does; what is not certain is transient.
    A reply that is lost after the final dot is in doubt: transient (RFC 5321 s4.5.5: better twice than never).
    starttls and implicit verify the certificate or do not send; opportunistic encrypts if it can, else goes plain.
    A password is sent over TLS only (or to ourselves, where the rules say tls: none). A refused password is
    transient: the administrator will mend it.
    Everything has an end: dialling, each command, the message by its size, and the whole by Patience.
    A kept connection that turns out to be dead costs nobody an attempt: the message goes over a fresh one.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

import aiosmtplib

from egressguard.mail.outcome import Outcome, one_line, transient
from egressguard.smtp.dial import ConnectionFailed, Host, Peer, TlsFailed, open_connection
from egressguard.smtp.host_wire import HostLost
from egressguard.smtp.pool import Pool
from egressguard.smtp.transaction import Patience, Transaction, Transfer, of_reply
from egressguard.smtp.transcript import Dialogue
from egressguard.smtp.waiting import Ticker
from egressguard.values import value

__all__ = ["Patience", "Peer", "Sent", "SmtpClient", "Transaction", "of_reply", "send"]

log = logging.getLogger(__name__)

BROKEN_TLS_SECONDS = 3600
BROKEN_TLS_HOSTS = 1000


@value(frozen=True, slots=True)
class Sent:
    """`outcomes` has every recipient. `begun`: the host took part in a transaction, so what it said stands; else
    nothing of the message was offered to it, and another host may be tried at once.

    `tells_delivery`: the host takes it upon itself to tell of success (RFC 3461 s5.2.1). `dialogues`: what was said,
    connection by connection. `final`: what was delivered lies in a mailbox now (RFC 2033)."""

    outcomes: Mapping[str, Outcome]
    begun: bool
    tells_delivery: bool = False
    dialogues: tuple[Dialogue, ...] = ()
    final: bool = False


Send = Callable[[Transaction, Peer, str, Patience], Awaitable[Sent]]


Observe = Callable[[Peer, str, str], None]
"""Hears how TLS went with a host at an address: "verified", "encrypted" or "plain", else what went wrong with it (RFC
8460 s4.3). A connection that is used again is not told anew."""


class SmtpClient:
    """Keeps connections, and remembers hosts whose STARTTLS is broken, so that it does not fail first every time.

    That memory is for hosts of which no TLS is demanded, and overrides no demand."""

    def __init__(self, observe: Observe = lambda _peer, _address, _result: None) -> None:
        self._observe = observe
        self._broken_tls: OrderedDict[str, float] = OrderedDict()
        self._pool = Pool()
        self._ticker = Ticker()

    async def close(self) -> None:
        """Say goodbye to every host."""
        await self._pool.close()

    async def send(self, transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
        """Try to hand `transaction` to `peer`. Every forward-path has an outcome in the answer."""
        key = (peer, ehlo_name)
        said: list[Dialogue] = []
        while (kept := self._pool.take(key)) is not None:
            transfer = await self._over(kept, transaction, peer, patience, key)
            said.append(_dialogue(kept, peer, transfer))
            if transfer.answered:
                return _sent(transfer, said)
        transfer = Transfer(transaction, peer.name, patience)
        try:
            async with asyncio.timeout(patience.whole_seconds):
                host = await self._connect(peer, ehlo_name, patience, said)
        except TimeoutError:
            transfer.end(transient("4.4.2", "the host did not answer in the time allowed", peer.name))
        except ConnectionFailed as failed:
            transfer.end(failed.outcome)
        except (aiosmtplib.SMTPException, OSError, ValueError) as wrong:
            transfer.end(transient("4.4.2", _words(wrong), peer.name))
        else:
            transfer = await self._over(host, transaction, peer, patience, key)
            said.append(_dialogue(host, peer, transfer))
        return _sent(transfer, said)

    async def _over(
        self, host: Host, transaction: Transaction, peer: Peer, patience: Patience, key: tuple[Peer, str]
    ) -> Transfer:
        """One transaction over `host`, which is kept afterwards if it is still of use."""
        transfer, listens = Transfer(transaction, peer.name, patience), True
        try:
            await transfer.run(host)
        except TimeoutError:
            transfer.answered, listens = True, False  # by its silence: another connection would meet the same
            transfer.end(transient("4.4.2", "the host did not answer in the time allowed", peer.name))
            transfer.transcript.noted("no answer in the time allowed")
        except HostLost as lost:
            transfer.end(transient("4.4.2", one_line(str(lost)), peer.name))
            transfer.transcript.noted(str(lost))
        except OSError as wrong:  # our own disk
            transfer.end(transient("4.3.0", f"the content cannot be read: {_words(wrong)}"))
        except BaseException:
            host.wire.close()
            raise
        if transfer.concluded:
            self._pool.keep(key, host)
        else:
            self._pool.part(host, politely=listens and host.wire.is_idle)
        return transfer

    async def _connect(self, peer: Peer, ehlo_name: str, patience: Patience, said: list[Dialogue]) -> Host:
        """An EHLO'd and (as `peer.tls` asks) encrypted connection to the first address that gives one.

        `said` gets what was said where none came of it."""
        last = ConnectionFailed(transient("4.4.1", "no address to dial", peer.name))
        for address in peer.addresses:
            try:
                return await self._open(peer, address, ehlo_name, patience, said)
            except ConnectionFailed as failed:
                _keep(failed, said)
                last = failed
        raise last

    async def _open(self, peer: Peer, address: str, ehlo_name: str, patience: Patience, said: list[Dialogue]) -> Host:
        if peer.tls != "opportunistic":
            return await self._opened(peer, address, ehlo_name, patience, encrypt=peer.tls != "none")
        if peer.trial:
            try:
                return await self._opened(replace(peer, tls="starttls"), address, ehlo_name, patience, encrypt=True)
            except TlsFailed as failed:
                _keep(failed, said)
                peer = replace(peer, trial=False, terms=None)  # what is to be told of it is told
        if not self._is_broken(peer.name):
            try:
                return await self._opened(peer, address, ehlo_name, patience, encrypt=True)
            except TlsFailed as failed:
                _keep(failed, said)
                self._remember_broken(peer.name)
                fields = {"host": peer.name, "why": failed.outcome.text}
                log.info("STARTTLS is offered there but does not work, going plain", extra={"fields": fields})
        return await self._opened(peer, address, ehlo_name, patience, encrypt=False)

    async def _opened(self, peer: Peer, address: str, ehlo_name: str, patience: Patience, *, encrypt: bool) -> Host:
        seconds = (patience.connect_seconds, patience.command_seconds)
        try:
            host = await open_connection(peer, address, ehlo_name, self._ticker, *seconds, encrypt=encrypt)
        except TlsFailed as failed:
            self._observe(peer, address, failed.trouble)
            raise
        self._observe(peer, address, "verified" if host.verified else "encrypted" if host.encrypted else "plain")
        return host

    def _is_broken(self, host: str) -> bool:
        return self._broken_tls.get(host, 0.0) > asyncio.get_running_loop().time()

    def _remember_broken(self, host: str) -> None:
        self._broken_tls[host] = asyncio.get_running_loop().time() + BROKEN_TLS_SECONDS
        self._broken_tls.move_to_end(host)
        if len(self._broken_tls) > BROKEN_TLS_HOSTS:
            self._broken_tls.popitem(last=False)


async def send(transaction: Transaction, peer: Peer, ehlo_name: str, patience: Patience) -> Sent:
    """As SmtpClient.send, without a memory."""
    client = SmtpClient()
    try:
        return await client.send(transaction, peer, ehlo_name, patience)
    finally:
        await client.close()


def _sent(transfer: Transfer, said: Sequence[Dialogue]) -> Sent:
    return Sent(transfer.outcomes, transfer.begun, transfer.tells_delivery, tuple(said), transfer.final)


def _keep(failed: ConnectionFailed, said: list[Dialogue]) -> None:
    if failed.dialogue is not None:
        said.append(failed.dialogue)


def _dialogue(host: Host, peer: Peer, transfer: Transfer) -> Dialogue:
    parts = (host.opening, transfer.transcript) if host.transactions == 1 else (transfer.transcript,)
    return Dialogue(peer.name, host.address, peer.port, parts, host.tls, host.verified, host.transactions)


def _words(wrong: BaseException) -> str:
    return one_line(str(wrong)) or type(wrong).__name__
