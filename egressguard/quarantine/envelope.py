"""From what was noted beside a held message to the message that the spool gets. Pure.

Contract
    The octets are the file's, as they lie there. Nothing judges them again: what this makes goes to the spool.
    `source_id` says what it came from, so that it stands in the spool once for ever: a message that was released
    whole, to somebody else, or refused to its sender has one and the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from egressguard.mail.envelope import NULL_REVERSE_PATH, Envelope, RecipientOptions
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage


def source_of(message_id: str, recipients: Sequence[str] = ()) -> str:
    """`recipients`: those of a part of it, () = what is left."""
    if not recipients:
        return f"quarantine:{message_id}"
    digest = hashlib.sha256("\0".join(sorted(recipients)).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return f"quarantine:{message_id}:{digest}"


def waiting_for(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Recipients that the message was neither released to yet nor declined by; (): nobody knows them."""
    settled = {*facts.get("released", ()), *facts.get("declined", ())}
    return tuple(path for path in facts.get("forward_paths", ()) if path not in settled)


def learned_by(facts: Mapping[str, Any]) -> dict[str, str]:
    """What each spam filter has learned the message as: "spam" or "ham"."""
    told = facts.get("learned")
    return {str(name): str(kind) for name, kind in told.items()} if isinstance(told, Mapping) else {}


def message_of(message_id: str, facts: Mapping[str, Any], content: Content, now: float) -> NewMessage:
    """The message to all that it still waits for."""
    paths = waiting_for(facts)
    envelope = Envelope(
        facts.get("reverse_path", NULL_REVERSE_PATH),
        paths,
        smtputf8=bool(facts.get("smtputf8")),
        body_8bit=bool(facts.get("body_8bit")),
        ret=facts.get("ret"),
        envid=facts.get("envid"),
        requiretls=bool(facts.get("requiretls")),
        binary=bool(facts.get("binary")),
        recipients={path: options for path, options in _options_of(facts).items() if path in paths},
    )
    return NewMessage(
        queue_id=message_id,
        envelope=envelope,
        content=content,
        received_at=now,
        client=str(facts.get("client", "")),
        listener=str(facts.get("listener", "")),
        user=facts.get("user"),
        rule=f"released:{facts.get('rule', '')}",
        source_id=source_of(message_id),
        tags=tuple(facts.get("tags", ())),
        via={path: tuple(names) for path, names in facts.get("via", {}).items() if path in paths},
        verdict=str(facts.get("verdict", "")),
    )


def redirected(message: NewMessage, to: Sequence[str]) -> NewMessage:
    """The same to others than it was for."""
    utf8 = message.envelope.smtputf8 or not all(path.isascii() for path in to)
    envelope = replace(message.envelope, forward_paths=tuple(to), recipients={}, smtputf8=utf8)
    return replace(message, envelope=envelope, via={})


def narrowed(message: NewMessage, recipients: Sequence[str], queue_id: str, message_id: str) -> NewMessage:
    """The same to some of those that it is for; `queue_id` is a new one: the others may have theirs yet."""
    kept = {path: options for path, options in message.envelope.recipients.items() if path in recipients}
    envelope = replace(message.envelope, forward_paths=tuple(recipients), recipients=kept)
    via = {path: names for path, names in message.via.items() if path in recipients}
    source_id = source_of(message_id, recipients)
    return replace(message, queue_id=queue_id, envelope=envelope, via=via, source_id=source_id)


def content_of(path: Path) -> Content:
    """The file as it lies there. Blocks; raises OSError."""
    file = Content(file=path, file_octets=path.stat().st_size)
    return replace(file, is_ascii=all(piece.isascii() for piece in file.pieces()))


def _options_of(facts: Mapping[str, Any]) -> dict[str, RecipientOptions]:
    return {
        path: RecipientOptions(None if notify is None else tuple(notify), orcpt)
        for path, (notify, orcpt) in facts.get("options", {}).items()
    }
