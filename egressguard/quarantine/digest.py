"""The daily digest: who hears of what is held, when, and once.

Contract
    Owners are recipients in the site's own domains, and hear of what is held for them; senders are not told here, and
    nobody outside ever is: no backscatter. Administrators hear of everything.
    What is new since the last digest is in it, and still held. A digest has a source in the spool: however often the
    gateway starts, nobody gets one twice.
    Links release to their addressee only, from folders that the rules name; see quarantine.links.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from egressguard.mail.header import find_fields, split_header_section
from egressguard.policy.holding import Digest as DigestRule
from egressguard.policy.holding import Links
from egressguard.policy.model import Policy
from egressguard.policy.routes import is_local
from egressguard.quarantine.digest_text import Item, digest_message, shown, subject_of
from egressguard.quarantine.envelope import waiting_for
from egressguard.quarantine.hold import NotFound, Quarantine
from egressguard.quarantine.index import Held, Wanted
from egressguard.quarantine.links import EVERYBODY, Grant, make_token, read_token
from egressguard.quarantine.order import RELEASE, Order
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage, Spool
from egressguard.store.queue_id import random_queue_id
from egressguard.store.secret import read_secret
from egressguard.store.state_file import StateFile

log = logging.getLogger(__name__)

SHOWN_MESSAGES = 100
MAX_OWNERS = 10_000
DAY_SECONDS = 86400
_PAGE = 1000
_HEADER_OCTETS = 16 * 1024

Sign = Callable[[Policy, NewMessage], Awaitable[NewMessage]]


@dataclass(slots=True)
class Told:
    """What one addressee hears of: the newest of `count`."""

    newest: deque[Held] = field(default_factory=lambda: deque(maxlen=SHOWN_MESSAGES))
    count: int = 0

    def add(self, held: Held) -> None:
        self.newest.append(held)
        self.count += 1


def last_due(at: int, now: float) -> float:
    """When the clock last showed `at` (minutes of the local day)."""
    local = datetime.fromtimestamp(now)
    due = local.replace(hour=at // 60, minute=at % 60, second=0, microsecond=0)
    return (due if due <= local else due - timedelta(days=1)).timestamp()


class Digests:
    """`policy` is asked anew each time."""

    def __init__(
        self,
        quarantine: Quarantine,
        spool: Spool,
        policy: Callable[[], Policy],
        kept: StateFile,
        secrets: Path,
        hostname: str,
        *,
        sign: Sign,
        clock: Callable[[], float],
        sent: Callable[[], None] = lambda: None,
    ) -> None:
        self._quarantine = quarantine
        self._spool = spool
        self._policy = policy
        self._kept = kept
        self._secrets = secrets
        self._hostname = hostname
        self._sign = sign
        self._clock = clock
        self._sent = sent

    async def send_if_due(self) -> int:
        """Send the day's digests when it is time; return how many. Raises SpoolFull, SpoolBroken, OSError."""
        rule, now = self._policy().site.quarantine.digest, self._clock()
        if rule is None:
            return 0
        due = last_due(rule.daily_at, now)
        last = await asyncio.to_thread(self._kept.read)
        if not isinstance(
            last, int | float
        ):  # the first start: the first digest comes when it is due for the first time
            await asyncio.to_thread(self._kept.write, now)
            return 0
        if last >= due:
            return 0
        sent = await self.send(rule, since=last, name=str(int(due)))
        await asyncio.to_thread(self._kept.write, now)
        return len(sent)

    async def send_now(self, *, dry_run: bool) -> list[dict[str, Any]]:
        """To everybody about the last day, or say who would hear of how much. Raises as `send_if_due`."""
        rule, now = self._policy().site.quarantine.digest, self._clock()
        if rule is None:
            raise NotFound("site.quarantine.digest says nothing: there is no digest")
        if dry_run:
            told = await self.collect(rule, now - DAY_SECONDS)
            return [{"to": address, "messages": one.count} for address, one in sorted(told.items())]
        return await self.send(rule, since=now - DAY_SECONDS, name=f"now{int(now)}")

    async def send(self, rule: DigestRule, *, since: float, name: str) -> list[dict[str, Any]]:
        told = await self.collect(rule, since)
        secret = await asyncio.to_thread(self._secret, rule.links)
        for address, one in told.items():
            message = await asyncio.to_thread(self._message, rule, address, one, name, secret)
            await self._spool.put(await self._sign(self._policy(), message))
        if told:
            self._sent()
        return [{"to": address, "messages": one.count} for address, one in sorted(told.items())]

    async def collect(self, rule: DigestRule, since: float) -> dict[str, Told]:
        """Who hears of what."""
        # Names of files have whole seconds: rather one message told twice than one never.
        policy, told = self._policy(), {address: Told() for address in rule.admins}
        after: int | None = 0
        while after is not None:
            page = await self._quarantine.page(Wanted(held_after=int(since)), after, _PAGE)
            for held in page:
                owners = {path.lower() for path in waiting_for(held.facts) if is_local(policy, path)}
                for address in [*rule.admins, *(sorted(owners - set(rule.admins)) if rule.owners else ())]:
                    if address in told or len(told) < MAX_OWNERS:
                        told.setdefault(address, Told()).add(held)
            after = page[-1].number if len(page) == _PAGE else None
        return {address: one for address, one in told.items() if one.count}

    def _message(self, rule: DigestRule, address: str, told: Told, name: str, secret: str | None) -> NewMessage:
        now = self._clock()
        items = [self._item(rule, address, held, secret, now) for held in reversed(told.newest)]
        source = hashlib.sha256(address.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        return digest_message(
            address,
            items,
            told.count,
            hostname=self._hostname,
            now=now,
            digest_id=random_queue_id(now),
            source_id=f"digest:{name}:{source}",
        )

    def _item(self, rule: DigestRule, address: str, held: Held, secret: str | None, now: float) -> Item:
        link, links = "", rule.links
        if links is not None and secret is not None and held.folder in links.folders:
            scope = EVERYBODY if address in rule.admins else address
            expires_at = int(now) + links.valid_days * DAY_SECONDS
            token = make_token(secret, Grant(held.message_id, scope, address, expires_at))
            link = f"{links.url}/release/{token}"
        why = ", ".join([str(held.facts.get("rule", "")), *map(str, held.facts.get("findings", ()))])
        sender, subject = str(held.facts.get("reverse_path", "")), _subject(held.path)
        return Item(held.message_id, held.held_at, shown(sender), subject, shown(why), held.size_octets, link)

    def _secret(self, links: Links | None) -> str | None:
        """None: no links. Trouble with it costs the links, not the digest."""
        if links is None:
            return None
        try:
            secret = read_secret(links.secret, self._secrets)
            make_token(secret, Grant("", "", "", 0))
        except (OSError, ValueError) as wrong:
            log.error("digests have no links", extra={"fields": {"secret": links.secret, "why": str(wrong)}})
            return None
        return secret

    # What comes back by a link.

    async def look(self, token: str) -> dict[str, Any]:
        """What the holder of a link may release. Raises NotFound."""
        grant, held = await self._granted(token)
        subject = await asyncio.to_thread(_subject, held.path)
        sender = shown(str(held.facts.get("reverse_path", "")))
        return {"subject": subject, "sender": sender, "held_at": held.held_at, "for": _for(grant)}

    async def redeem(self, token: str) -> dict[str, Any]:
        """Release what the link is for. Raises NotFound, and as Quarantine.act does."""
        grant, held = await self._granted(token)
        recipients = () if grant.address == EVERYBODY else _meant(grant, held)
        await self._quarantine.act(
            Order(RELEASE, held.message_id, f"link of {grant.holder}", "by a link in a digest", (), recipients)
        )
        return {"released": held.message_id, "for": _for(grant)}

    async def _granted(self, token: str) -> tuple[Grant, Held]:
        rule = self._policy().site.quarantine.digest
        secret = await asyncio.to_thread(self._secret, rule.links if rule is not None else None)
        grant = read_token(secret, token, self._clock()) if secret is not None else None
        if rule is None or rule.links is None or grant is None:
            raise NotFound("this link is not valid, or not any more")
        held = await self._quarantine.held(grant.message_id)
        is_admins = grant.address == EVERYBODY and grant.holder in rule.admins
        if held.folder not in rule.links.folders or not (is_admins or _meant(grant, held)):
            raise NotFound("this link is not valid, or not any more")
        return grant, held


def _meant(grant: Grant, held: Held) -> tuple[str, ...]:
    """The recipients that the link's holder is."""
    return tuple(path for path in waiting_for(held.facts) if path.lower() == grant.address)


def _for(grant: Grant) -> str:
    return "all its recipients" if grant.address == EVERYBODY else grant.address


def _subject(path: Path) -> str:
    try:
        section, _ = split_header_section(Content(file=path, file_octets=_HEADER_OCTETS).head(_HEADER_OCTETS))
    except OSError:  # it was moved, or is gone by now
        return ""
    values = find_fields(section, "Subject")
    return subject_of(values[0]) if values else ""
