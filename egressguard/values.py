"""Values: dataclasses that are made once and changed by nobody.

A frozen dataclass sets each field by way of `object.__setattr__`, and so takes four to eight times as long to make as a
plain one; on the way of one message seventy of them are made. The type checker holds what is frozen just as well, and
before anything runs. So it, and the reader, see the frozen dataclass; the interpreter gets a plain one with the same
equality and the same hash (docs/decisions/0037).

For what is made for each message, command or packet; anything else stays a frozen `dataclass`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:
    from dataclasses import dataclass

    def value(*, frozen, slots):
        return dataclass(slots=slots, unsafe_hash=frozen)


__all__ = ["value"]
