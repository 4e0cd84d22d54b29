"""The words that rule files are made of: names, ports, addresses, one value or a list of them.

Each type refuses what it does not understand with words of what was expected; none repairs anything.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from egressguard.net.flow import IPAddress, IPNetwork

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
DOMAIN_PATTERN = r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,253})$"
FILE_PATTERN = r"^file:.+$"
FOLDER_PATTERN = r"^[A-Z][A-Za-z0-9-]{0,31}$"
TEXT_PATTERN = r"^[\x20-\x7e]*$"
HEADER_PATTERN = r"^[!-9;-~]{1,76}$"

Name = Annotated[str, Field(pattern=NAME_PATTERN, description="lower-case name, at most 63 characters")]
Port = Annotated[int, Field(ge=1, le=65535)]
ListenPort = Annotated[int, Field(ge=0, le=65535, description="0 = any free port")]
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


def _parse_address(value: Any) -> Any:
    try:
        return ipaddress.ip_address(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("expected an address such as 192.0.2.1 or 2001:db8::1") from None


def _one_or_many(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value if isinstance(value, tuple) else (value,)


def _list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Network = Annotated[IPNetwork, BeforeValidator(parse_network)]
Address = Annotated[IPAddress, BeforeValidator(_parse_address)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)
    _at: str = PrivateAttr(default="")

    @property
    def at(self) -> str:
        return self._at


Item = TypeVar("Item")
Many = Annotated[tuple[Item, ...], BeforeValidator(_one_or_many)]
"""One value or a list of them; always a tuple inside."""
Listed = Annotated[tuple[Item, ...], BeforeValidator(_list)]
Names = Many[Name]
Texts = Many[str]
Networks = Many[Network]
Ports = Many[Port]

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_NUMBER = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,3})?")


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


Hours = Annotated[tuple[int, int], BeforeValidator(parse_hours)]
Weekdays = Annotated[frozenset[int], BeforeValidator(parse_weekdays)]
Number = Annotated[float, BeforeValidator(_parse_number)]
"""A decimal; YAML's other forms of floats (exponents, .inf) are not taken."""
AuthResult = Literal["none", "pass", "fail", "softfail", "neutral", "policy", "temperror", "permerror"]
"""RFC 8601 s2.7: what a check of SPF, DKIM or DMARC can come to."""
