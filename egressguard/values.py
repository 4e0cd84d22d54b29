"""Values: dataclasses that are made once and changed by nobody.

A frozen dataclass sets each field by way of `object.__setattr__`, and so takes four to eight times as long to make as a
plain one; on the way of one message seventy of them are made. The type checker holds what is frozen just as well, and
before anything runs. So it, and the reader, see the frozen dataclass; the interpreter gets a plain one with the same
equality and the same hash (docs/decisions/0037).

For what is made for each message, command or packet; anything else stays a frozen `dataclass`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen, slots):
        return dataclass(slots=slots, unsafe_hash=frozen)


def changed(old: T, **changes: Any) -> T:
    """As dataclasses.replace does it, in a third of its time: for a `value` whose `__post_init__`, if it has one, has
    nothing to say of what changes. Raises AttributeError for a field that there is not."""
    new = object.__new__(type(old))
    for name in new.__dataclass_fields__:  # type: ignore[attr-defined]  # a derived value's slots are its own only
        setattr(new, name, getattr(old, name))
    for name, changed_to in changes.items():
        setattr(new, name, changed_to)
    return new


__all__ = ["changed", "value"]
