"""The words that rule files are made of: names, ports, addresses, one value or a list of them.

Contract
    Each type refuses what it does not understand with words of what was expected; none repairs anything.
    Each says its form in JSON Schema too (policy.reference makes the schema of the rule files from it): not stricter
    than the type itself, and looser only where a pattern cannot tell.
"""

from __future__ import annotations

import ipaddress
import re
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue

from egressguard.net.flow import IPAddress, IPNetwork
from egressguard.policy.next_hop import EXPECTED, NEXT_HOP_FORM, parse_next_hop

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
DOMAIN_PATTERN = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253})$"
FILE_PATTERN = r"^file:.+$"
FOLDER_PATTERN = r"^[A-Z][A-Za-z0-9-]{0,31}$"
TEXT_PATTERN = r"^[\x20-\x7e]*$"
HEADER_PATTERN = r"^[!-9;-~]{1,76}$"
ADDRESS_FORM = r"[0-9A-Fa-f:.]+"
PREFIX_FORM = ADDRESS_FORM + rf"(/[0-9.]{{1,15}}|-{ADDRESS_FORM})?"
LISTING_FORM = PREFIX_FORM + r"|file:.+"

MAC_FORM = r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"
MAC_LISTING_FORM = MAC_FORM + r"|file:.+"

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535)]
Domain = Annotated[str, Field(pattern=DOMAIN_PATTERN)]

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_network(value: Any) -> IPNetwork:
    """A prefix as rules write it. Raises ValueError with words of what was expected."""
    try:
        network = ipaddress.ip_network(value if isinstance(value, str) else "", strict=False)
    except ValueError:
        raise ValueError("expected an address or a prefix such as 192.0.2.0/24 or 2001:db8::/32") from None
    if "%" in value:
        raise ValueError(f"expected no interface in a prefix, such as {str(network).partition('%')[0]}")
    if ipaddress.ip_address(value.partition("/")[0]) != network.network_address:
        raise ValueError(f"it has bits behind the prefix; expected {network}")
    if network.version == 6 and network.subnet_of(_MAPPED):
        raise ValueError("expected an IPv4 prefix: mapped addresses count as the IPv4 address they stand for")
    return network


def parse_prefixes(value: Any) -> tuple[IPNetwork, ...]:
    """A prefix, or a range "192.0.2.10-192.0.2.20" as the prefixes that it is made of. Raises ValueError."""
    first, dash, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    if not dash:
        return (parse_network(value),)
    try:
        ends = ipaddress.ip_address(first), ipaddress.ip_address(last)
        spans = ipaddress.summarize_address_range(*ends)  # of two families: TypeError
        networks = tuple(spans)
    except (ValueError, TypeError):
        words = "expected a range of one family, the lower address first, such as 192.0.2.10-192.0.2.20"
        raise ValueError(words) from None
    return tuple(parse_network(str(network)) for network in networks)


_MAC = re.compile(MAC_FORM)


def parse_mac(value: Any) -> str:
    """A MAC address, in lower case. Raises ValueError."""
    if not isinstance(value, str) or not _MAC.fullmatch(value):
        raise ValueError("expected a MAC address such as 00:53:00:12:34:56")
    return value.lower()


def _parse_address(value: Any) -> Any:
    try:
        return ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("expected an address such as 192.0.2.1 or 2001:db8::1") from None


_NAME = re.compile(NAME_PATTERN)


def parse_via(value: Any) -> str:
    """One item of a way out: a name or a next hop, as it is written. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(EXPECTED)
    if not _NAME.fullmatch(value):
        parse_next_hop(value)
    return value


def _one_or_many(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


def _flat(value: tuple[tuple[IPNetwork, ...], ...]) -> tuple[IPNetwork, ...]:
    return tuple(chain.from_iterable(value))


def as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def form(pattern: str) -> WithJsonSchema:
    """Text of this form, as JSON Schema says it."""
    return WithJsonSchema({"type": "string", "pattern": f"^({pattern})$"})


Address = Annotated[IPAddress, BeforeValidator(_parse_address), form(ADDRESS_FORM)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)
    _at: str = PrivateAttr(default="")

    @property
    def at(self) -> str:
        return self._at


Item = TypeVar("Item")


class _OneOrList:
    """JSON Schema's word for it: an item, or the list of items."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        listed = handler(core)
        return {"anyOf": [listed["items"], listed]}


Many = Annotated[tuple[Item, ...], BeforeValidator(_one_or_many), _OneOrList()]
"""One value or a list of them; always a tuple inside."""
Some = Annotated[tuple[Item, ...], Field(min_length=1), BeforeValidator(_one_or_many), _OneOrList()]
"""What a matcher takes: an empty list is refused. Left out it would match everything, which is not what [] says."""
Listed = Annotated[tuple[Item, ...], BeforeValidator(as_tuple)]
Names = Many[Name]
SomeNames = Some[Name]
Texts = Many[str]
SomeTexts = Some[str]
_Prefixes = Annotated[Any, BeforeValidator(parse_prefixes), form(PREFIX_FORM)]
_Listing = Annotated[Any, BeforeValidator(parse_prefixes), form(LISTING_FORM)]
Networks = Annotated[tuple[_Prefixes, ...], BeforeValidator(_one_or_many), AfterValidator(_flat), _OneOrList()]
Listings = Annotated[tuple[_Listing, ...], BeforeValidator(_one_or_many), AfterValidator(_flat), _OneOrList()]
"""A set's entries. "file:PATH" stands in the rule file only: policy.expand puts what the file lists in its place."""
Macs = Many[Annotated[str, BeforeValidator(parse_mac), form(MAC_LISTING_FORM)]]
SomePorts = Some[Port]
Ways = Many[Annotated[str, BeforeValidator(parse_via), form(f"{NAME_PATTERN[1:-1]}|{NEXT_HOP_FORM}")]]
"""What is tried in this order: "mx", names of smart hosts, next hops (policy.next_hop)."""

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
CLOCK_FORM = r"(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)"
NUMBER_FORM = r"-?[0-9]{1,6}(\.[0-9]{1,3})?"
_CLOCK = re.compile(CLOCK_FORM)
_NUMBER = re.compile(NUMBER_FORM)
_DAY = f"({'|'.join(WEEKDAYS)})"


def parse_hours(value: Any) -> tuple[int, int]:
    """ "08:00-18:00" -> (first minute of the day, the minute behind the last). Raises ValueError.

    "22:00-06:00" goes over midnight: the first is greater than the second."""
    first, dash, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    if not (dash and _CLOCK.fullmatch(first) and _CLOCK.fullmatch(last) and first != last):
        raise ValueError("expected two different times of day such as 08:00-18:00 or 22:00-06:00")
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (first, last))
    return start % DAY_MINUTES, end


def parse_weekdays(value: Any) -> frozenset[int]:
    """ "mon" or "mon-fri" -> numbers, Monday = 0. Raises ValueError."""
    first, dash, last = value.partition("-") if isinstance(value, str) else ("", "", "")
    if first not in WEEKDAYS or (dash and last not in WEEKDAYS):
        raise ValueError("expected a day such as mon, or days such as mon-fri")
    start, end = WEEKDAYS.index(first), WEEKDAYS.index(last or first)
    return frozenset((start + step) % 7 for step in range((end - start) % 7 + 1))


def _parse_number(value: Any) -> Any:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise ValueError("expected a number such as 6 or 7.5")


Hours = Annotated[tuple[int, int], BeforeValidator(parse_hours), form(f"{CLOCK_FORM}-{CLOCK_FORM}")]
Weekdays = Annotated[frozenset[int], BeforeValidator(parse_weekdays), form(f"{_DAY}(-{_DAY})?")]
Number = Annotated[
    float,
    BeforeValidator(_parse_number),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{NUMBER_FORM}$"}]}),
]
"""A decimal; YAML's other forms of floats (exponents, .inf) are not taken."""
AuthResult = Literal["none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"]
"""RFC 8601 s2.7: what a check of SPF, DKIM or DMARC can come to."""
