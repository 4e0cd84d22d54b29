"""What changes in the kernel's table, as a unified diff of the rendered text that stays readable with long sets."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

SHOWN_ELEMENTS = 10
_ELEMENTS = re.compile(r"^(\s*)elements = \{ (.*) \}$")


def ruleset_diff(before: str, after: str) -> list[str]:
    """The lines of the diff, without ends of lines; [] when nothing changes."""
    return list(
        difflib.unified_diff(list(_lines(before)), list(_lines(after)), "in force", "planned", lineterm="", n=2)
    )


def _lines(text: str) -> Iterator[str]:
    """The text's lines; a long set's elements one a line, so that the diff names those that come and go."""
    for line in text.splitlines():
        found = _ELEMENTS.match(line)
        if found is None:
            yield line
            continue
        elements = found[2].split(", ")
        if len(elements) <= SHOWN_ELEMENTS:
            yield line
        else:
            yield f"{found[1]}elements ="
            yield from (f"{found[1]}\t{element}" for element in elements)
