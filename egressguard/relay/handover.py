"""From the process that talks SMTP to the process that keeps mail: messages as frames on a Unix socket.

Contract
    A frame is two lengths (4 octets each), a JSON object and octets. Requests have an "id", answers carry it back;
    many may be under way, and answers come in any order.
    "put" and "hold" are answered when the message is durable, and never before. A connection that is lost answers
    nothing: whoever waits hears HandoverLost, which is "try again later" to a client.
    Both ends are ours and run as one user: a frame that makes no sense ends the connection.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from egressguard.mail.envelope import Envelope, RecipientOptions
from egressguard.store import quick_json
from egressguard.store.content import Content
from egressguard.store.interface import NewMessage

_LENGTHS = struct.Struct("!II")
HEAD_OCTETS = 4 * 1024 * 1024
BODY_OCTETS = 64 * 1024 * 1024

Head = dict[str, Any]


class HandoverLost(OSError):
    """The other process is not there; nothing is known of what was under way."""


class Frames(asyncio.Protocol):
    """Frames in and out; what is sent in one turn of the loop travels together."""

    def __init__(self, heard: Callable[[Head, bytes], None], lost: Callable[[], None]) -> None:
        self._heard = heard
        self._lost = lost
        self._buffer = bytearray()
        self._unsent: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def send(self, head: Mapping[str, Any], body: bytes = b"") -> None:
        """Raises HandoverLost."""
        if self._transport is None or self._transport.is_closing():
            raise HandoverLost("the connection between the relay's processes is gone")
        octets = quick_json.encode(head)
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += (_LENGTHS.pack(len(octets), len(body)), octets, body)

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None:
            self._transport.write(b"".join(unsent))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's form
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) >= at + _LENGTHS.size:
            head_octets, body_octets = _LENGTHS.unpack_from(self._buffer, at)
            if head_octets > HEAD_OCTETS or body_octets > BODY_OCTETS:
                return self._give_up()
            begin = at + _LENGTHS.size
            end = begin + head_octets + body_octets
            if len(self._buffer) < end:
                break
            self._take(bytes(self._buffer[begin : begin + head_octets]), bytes(self._buffer[begin + head_octets : end]))
            at = end
        del self._buffer[:at]

    def _take(self, head: bytes, body: bytes) -> None:
        try:
            fields = quick_json.decode(head)
        except ValueError:
            return self._give_up()
        self._heard(fields, body)

    def _give_up(self) -> None:
        self._buffer.clear()
        if self._transport is not None:
            self._transport.abort()


def content_to_frame(content: Content) -> tuple[Head, bytes]:
    """A file is named; what lies in memory goes along."""
    if content.file is None:
        return {"is_ascii": content.is_ascii}, content.front + content.rest
    front = content.front + content.rest
    return {"is_ascii": content.is_ascii, "file": str(content.file), "file_octets": content.file_octets}, front


def content_from_frame(head: Mapping[str, Any], body: bytes) -> Content:
    if "file" not in head:
        return Content(rest=body, is_ascii=head["is_ascii"])
    return Content(body, b"", Path(head["file"]), head["file_octets"], head["is_ascii"])


def message_to_frame(message: NewMessage) -> tuple[Head, bytes]:
    """A message for `put`. (`destinations` and leases are the queue's business.)"""
    content, body = content_to_frame(message.content)
    envelope = message.envelope
    head: Head = {
        "queue_id": message.queue_id,
        "envelope": [
            envelope.reverse_path,
            envelope.forward_paths,
            envelope.smtputf8,
            envelope.body_8bit,
            envelope.ret,
            envelope.envid,
            envelope.requiretls,
            envelope.binary,
            {path: [options.notify, options.orcpt] for path, options in envelope.recipients.items()},
        ],
        "content": content,
        "received_at": message.received_at,
        "client": message.client,
        "listener": message.listener,
        "user": message.user,
        "rule": message.rule,
        "policy_revision": message.policy_revision,
        "source_id": message.source_id,
        "tags": message.tags,
        "via": message.via,
        "held": message.held,
        "verdict": message.verdict,
    }
    return head, body


def message_from_frame(head: Mapping[str, Any], body: bytes) -> NewMessage:
    reverse_path, paths, smtputf8, body_8bit, ret, envid, requiretls, binary, options = head["envelope"]
    recipients = {
        path: RecipientOptions(None if notify is None else tuple(notify), orcpt)
        for path, (notify, orcpt) in options.items()
    }
    return NewMessage(
        queue_id=head["queue_id"],
        envelope=Envelope(reverse_path, tuple(paths), smtputf8, body_8bit, ret, envid, requiretls, binary, recipients),
        content=content_from_frame(head["content"], body),
        received_at=head["received_at"],
        client=head["client"],
        listener=head["listener"],
        user=head["user"],
        rule=head["rule"],
        policy_revision=head["policy_revision"],
        source_id=head["source_id"],
        tags=tuple(head["tags"]),
        via={path: tuple(names) for path, names in head["via"].items()},
        held=head["held"],
        verdict=head["verdict"],
    )
