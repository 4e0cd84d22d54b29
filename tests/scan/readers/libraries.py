"""Libraries that Python reaches: libraries.py compat32|default|gmime|camel; the contract is in __init__.py.

Stands alone, for the system's Python: GMime (which Balsa, notmuch and others read with) and Camel (Evolution's) come
with GObject's introspection.
"""

from __future__ import annotations

import base64
import email
import email.policy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Found = Iterator[tuple[str, bytes]]
"""Names and contents"""


def standard(policy: Any) -> Callable[[str], Found]:
    """The standard library's, by one of its policies."""

    def found(path: str) -> Found:
        for part in email.message_from_bytes(Path(path).read_bytes(), policy=policy).walk():
            name = or_nothing(part.get_filename)
            content = or_nothing(lambda part=part: part.get_payload(decode=True))
            yield str(name or ""), content or b""

    return found


def or_nothing(read: Callable[[], Any]) -> Any:
    """One part that cannot be read is no reason not to look at the others."""
    try:
        return read()
    except Exception:
        return None


def gmime() -> Callable[[str], Found]:
    import gi

    gi.require_version("GMime", "3.0")
    from gi.repository import GMime

    GMime.init()

    def parts(entity: Any) -> Found:
        if isinstance(entity, GMime.Multipart):
            for number in range(entity.get_count()):
                yield from parts(entity.get_part(number))
        elif isinstance(entity, GMime.MessagePart):
            if (message := entity.get_message()) is not None:
                yield from parts(message.get_mime_part())
        elif entity is not None:
            yield entity.get_filename() or "", content_of(entity.get_content())

    def content_of(wrapper: Any) -> bytes:
        if wrapper is None:
            return b""
        memory = GMime.StreamMem.new()
        wrapper.write_to_stream(memory)
        return bytes(memory.get_byte_array() or b"")

    def found(path: str) -> Found:
        parser = GMime.Parser.new_with_stream(GMime.StreamFile.open(path, "r"))
        message = parser.construct_message(None)
        yield from parts(message and message.get_mime_part())

    return found


def camel() -> Callable[[str], Found]:
    import gi

    gi.require_version("Camel", "1.2")
    from gi.repository import Camel

    def parts(entity: Any) -> Found:
        content = entity.get_content()
        if isinstance(content, Camel.Multipart):
            for number in range(content.get_number()):
                yield from parts(content.get_part(number))
        elif isinstance(content, Camel.MimeMessage):
            yield from parts(content)
        elif content is not None:
            yield entity.get_filename() or "", content_of(content)

    def content_of(wrapper: Any) -> bytes:
        memory = Camel.StreamMem.new()
        or_nothing(lambda: wrapper.decode_to_stream_sync(memory, None))
        return bytes(memory.get_byte_array() or b"")

    def found(path: str) -> Found:
        message = Camel.MimeMessage.new()
        message.construct_from_stream_sync(Camel.StreamFs.new_with_name(path, 0, 0), None)
        yield from parts(message)

    return found


READERS: dict[str, Callable[[], Callable[[str], Found]]] = {
    "compat32": lambda: standard(email.policy.compat32),
    "default": lambda: standard(email.policy.default),
    "gmime": gmime,
    "camel": camel,
}


def text_of(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def main() -> None:
    reader = READERS[sys.argv[1]]()
    for line in sys.stdin:
        try:
            found = [
                (text_of(name.encode("utf-8", "surrogateescape")), text_of(content))
                for name, content in reader(line.rstrip("\n"))
            ]
        except Exception:
            found = []
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
