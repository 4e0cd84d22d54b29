"""One account's own rules: into which folder its mail goes, and to whom it is sent on.

Contract
    Pure: octets in, rules or faults out; never raises on any input. First match wins; none = into the inbox.
    There is no rule that throws mail away: what nobody wants to see can be filed into Trash.
    A file is bounded: MAX_OCTETS, MAX_RULES, MAX_ADDRESSES each.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from egressguard.mail.address import AddressError, parse_address
from egressguard.policy.document import Fault, parse_document
from egressguard.policy.fields import Listed, Many, Name, SomeNames, SomeTexts, Strict
from egressguard.policy.match import HeaderName
from egressguard.policy.matchers import is_asked
from egressguard.policy.patterns import domain_matches, path_matches, text_matches
from egressguard.policy.words import read_as

MAX_OCTETS = 256 * 1024
MAX_RULES = 500
MAX_ADDRESSES = 20
INBOX = "INBOX"
LEVELS = 8
FOLDER_CHARACTERS = 120
_RESERVED = {"quarantine", "quarantine-all"}  # the shared folders of access/


def _checked_folder(name: str) -> str:
    """Raises ValueError: what would be another folder, or none, to IMAP (RFC 3501 s5.1) or on disk."""
    if name.upper() == INBOX:
        return INBOX
    parts = name.split("/")
    if not 0 < len(name) <= FOLDER_CHARACTERS or len(parts) > LEVELS:
        raise ValueError(f"expected a folder of at most {FOLDER_CHARACTERS} characters and {LEVELS} levels")
    if any(not part or part != part.strip() or part[0] == "~" for part in parts):
        raise ValueError("expected names between slashes, without spaces at their ends, such as Lists/Debian")
    if any(not c.isprintable() or c in ".*%\\" for c in name):
        raise ValueError("expected printable characters, and none of . * % \\")
    if unicodedata.normalize("NFC", name) != name:
        raise ValueError("expected letters with their accents as one character (Unicode's NFC)")
    if parts[0].upper() == INBOX or parts[0].lower() in _RESERVED:
        raise ValueError(f"{parts[0]} is taken; expected another name")
    return name


def _checked_address(text: str) -> str:
    try:
        return str(parse_address(text, utf8=True))
    except AddressError as wrong:
        raise ValueError(f"{wrong}; expected an address such as anna@example.net") from None


Folder = Annotated[str, AfterValidator(_checked_folder)]
ForwardTo = Annotated[str, AfterValidator(_checked_address)]


class MailboxMatch(Strict):
    """All keys must match; a key with a list matches when one item does. Case never counts."""

    sender: SomeTexts = Field(
        (),
        description='envelope senders: addresses, "*@domain", "<>" (the sender of bounces); left out = any',
        examples=["boss@example.org", ["*@shop.example", "<>"]],
    )
    sender_domain: SomeTexts = Field(
        (),
        description='the sender\'s domain: a domain, ".domain" (any below it), "@local" (our own); left out = any',
        examples=["shop.example", ["@local", ".example.net"]],
    )
    recipient: SomeTexts = Field(
        (),
        description='the address that was written to: addresses, "*@domain"; left out = any',
        examples=["info@example.org"],
    )
    detail: SomeTexts = Field(
        (),
        description="shell patterns for what stands behind the separator: lists, of anna+lists; left out = any",
        examples=["lists", ["lists-*", "shops"]],
    )
    header: dict[HeaderName, SomeTexts] = Field(
        default_factory=dict,
        description="header fields, and shell patterns for their text; all fields must match; left out = any",
        examples=[{"List-Id": "*<debian-user.*"}, {"Subject": ["*invoice*", "*bill*"]}],
    )
    larger_than_octets: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the message is larger; left out = any", examples=[10485760]
    )
    tag: SomeNames = Field(
        (), description="words that the gateway's message rules gave it; left out = any", examples=["bulk"]
    )


class MailboxRule(Strict):
    """What happens to one kind of message."""

    name: Name = Field(description="its name, once in the file; the journal knows it by this", examples=["lists"])
    enabled: bool = Field(True, description="false = checked, then as if it were not there", examples=[False])
    note: str = Field("", description="for the reader; nothing comes of it; left out = none", examples=["until June"])
    match: MailboxMatch = Field(
        MailboxMatch(), description="which messages; left out = all", examples=[{"detail": "lists"}]
    )
    action: Literal["keep", "file", "forward"] = Field(
        description="keep = into the inbox; file = into `folder`; forward = sent on `to` others", examples=["file"]
    )
    folder: Folder | None = Field(
        None,
        description="for `file`: the folder, made when it is missing; for `forward`: where a copy stays; "
        "left out = there is none",
        examples=["Lists/Debian", "INBOX"],
    )
    to: Annotated[Many[ForwardTo], Field(max_length=MAX_ADDRESSES)] = Field(
        (), description="for `forward`: the addresses; left out = none", examples=["anna@example.net"]
    )

    @model_validator(mode="after")
    def _fits_together(self) -> MailboxRule:
        if (self.action == "forward") != bool(self.to):
            raise ValueError("`to` and action forward go together; expected both or none")
        if self.action == "file" and self.folder is None:
            raise ValueError("action file has no folder; expected the key `folder`")
        if self.action == "keep" and self.folder is not None:
            raise ValueError("action keep means the inbox; expected action file with this folder")
        return self


class MailboxRules(Strict):
    """A whole file."""

    rules: Annotated[Listed[MailboxRule], Field(max_length=MAX_RULES)] = Field(
        (),
        description="asked from the top, the first that matches decides; left out = none",
        examples=[[{"name": "lists", "match": {"detail": "lists"}, "action": "file", "folder": "Lists"}]],
    )


@dataclass(frozen=True, slots=True)
class Letter:
    """What rules look at. `headers`: lower-case names -> decoded values; `domains` are the site's own."""

    reverse_path: str
    forward_path: str
    detail: str
    headers: Mapping[str, tuple[str, ...]]
    size_octets: int
    tags: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


def parse_mailbox_rules(file: str, content: bytes) -> MailboxRules | list[Fault]:
    """The rules, or every fault with its place; `file` is what faults call it."""
    if len(content) > MAX_OCTETS:
        return [Fault(file, 1, 1, f"{len(content)} octets; expected at most {MAX_OCTETS}")]
    document = parse_document(file, content)
    found = read_as(MailboxRules, document)
    if isinstance(found, list):
        return found
    faults: list[Fault] = []
    first: dict[str, int] = {}
    for index, rule in enumerate(found.rules):
        fault = document.fault_at(("rules", index), "")
        rule._at = f"{fault.file}:{fault.line}:{fault.column}"
        if rule.name in first:
            words = f"the name '{rule.name}' stands twice; expected one that no other rule has"
            faults.append(document.fault_at(("rules", index, "name"), words))
        first.setdefault(rule.name, index)
    return faults or found


def choose(rules: MailboxRules, letter: Letter) -> MailboxRule | None:
    """The first rule that matches."""
    return next((rule for rule in rules.rules if rule.enabled and matches(rule.match, letter)), None)


def matches(match: MailboxMatch, letter: Letter) -> bool:
    return all(holds(wanted, letter) for key, holds in MATCHERS.items() if is_asked(wanted := getattr(match, key)))


def _header(wanted: Mapping[str, Iterable[str]], letter: Letter) -> bool:
    return all(
        any(text_matches(patterns, value) for value in letter.headers.get(name.lower(), ()))
        for name, patterns in wanted.items()
    )


MATCHERS: dict[str, Callable[[Any, Letter], bool]] = {
    "sender": lambda wanted, letter: path_matches(wanted, letter.reverse_path),
    "sender_domain": lambda wanted, letter: domain_matches(wanted, letter.reverse_path, letter.domains),
    "recipient": lambda wanted, letter: path_matches(wanted, letter.forward_path),
    "detail": lambda wanted, letter: bool(letter.detail) and text_matches(wanted, letter.detail),
    "header": _header,
    "larger_than_octets": lambda wanted, letter: letter.size_octets > wanted,
    "tag": lambda wanted, letter: not set(wanted).isdisjoint(letter.tags),
}
"""Every key of MailboxMatch, in its order."""
