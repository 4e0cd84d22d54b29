"""docs/rules.md: the reference of the rule language, its tables made from the schema.

Contract
    Pure; the same schema gives the same page.
    A description's last words "; left out = X" fill the column of that name; else the default does.
    Neighbouring keys that say the same share a row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from egressguard.policy.fields import (
    ADDRESS_FORM,
    DOMAIN_PATTERN,
    FILE_PATTERN,
    FOLDER_PATTERN,
    HEADER_PATTERN,
    LISTING_FORM,
    NAME_PATTERN,
    PREFIX_FORM,
    TEXT_PATTERN,
)
from egressguard.policy.guide import AFTER, BEFORE, COMMON, EXPECTATIONS, SECTIONS, Section
from egressguard.policy.mailboxes import ACCOUNT_PATTERN, MAILBOX_PATTERN, PLACE_PATTERN, SEPARATOR_PATTERN

_LEFT_OUT = "; left out = "
_BARE = re.compile(r"[A-Za-z0-9./_~-][A-Za-z0-9./_~@ +-]*(:[A-Za-z0-9./_-]+)*")
_WORDS = {"true", "false", "null", "~"}
_FORMS = {
    NAME_PATTERN: "name",
    DOMAIN_PATTERN: "domain",
    FILE_PATTERN: '"file:PATH"',
    FOLDER_PATTERN: "folder",
    HEADER_PATTERN: "field name",
    TEXT_PATTERN: "text on one line",
    ACCOUNT_PATTERN: "account",
    MAILBOX_PATTERN: "account or mail address",
    PLACE_PATTERN: "path",
    SEPARATOR_PATTERN: "one of + = # ~ _ -",
    f"^({ADDRESS_FORM})$": "address",
    f"^({PREFIX_FORM})$": "prefix",
    f"^({LISTING_FORM})$": "prefix",
}
"""Patterns in a word; the forms of times are told by their examples."""

Schema = Mapping[str, Any]
Row = tuple[str, str, str, str, str]


def page(rules: Schema, expectations: Schema) -> str:
    """The whole page, from the schemas of a rule file and of a file of expectations."""
    parts = (BEFORE, *_tables(rules, SECTIONS), AFTER, *_tables(expectations, EXPECTATIONS))
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(schema: Schema, sections: tuple[Section, ...]) -> Iterator[str]:
    for section in sections:
        yield from (section.title, section.words, _table(schema, section))


def _table(whole: Schema, section: Section) -> str:
    schema = whole["definitions"][section.definition] if section.definition else whole
    lines = ["| key | value | left out | what it says | example |", "| --- | --- | --- | --- | --- |"]
    is_rule = section.definition != "Device" and schema["properties"].keys() >= set(COMMON)
    wanted = section.keys or [key for key in schema["properties"] if not (is_rule and key in COMMON)]
    rows = [_row(key, schema["properties"][key], schema) for key in wanted]
    for _same, group in groupby(rows, key=lambda row: row[1:4]):
        alike = list(group)
        keys = ", ".join(f"`{row[0]}`" for row in alike)
        lines.append(f"| {keys} | {' | '.join(map(_cell, alike[0][1:]))} |")
    return "\n".join(lines)


def _row(key: str, value: Schema, schema: Schema) -> Row:
    words, _, left_out = value["description"].partition(_LEFT_OUT)
    if key in schema.get("required", ()):
        left_out = "*required*"
    elif "default" in value:
        left_out = f"`{yaml_of(value['default'])}`"
    return key, _kind(value), left_out, words, f"`{key}: {yaml_of(value['examples'][0])}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _kind(schema: Schema) -> str:
    """What may stand as a value, in few words."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return _kind(choices[0])
    if choices and choices[-1].get("type") == "array":
        return f"{_kind(choices[0])}, or a list"
    if choices:
        return _kind(choices[0])
    if "allOf" in schema or "$ref" in schema:
        return f"[mapping](#{_anchor(schema.get('$ref') or schema['allOf'][0]['$ref'])})"
    return _plain_kind(schema)


def _anchor(reference: str) -> str:
    """The link to a definition's heading, as forges name it."""
    definition = reference.rpartition("/")[2]
    title = next(section.title for section in reversed(SECTIONS + EXPECTATIONS) if section.definition == definition)
    return re.sub(r"[^a-z0-9_ -]", "", title.lower()).strip().replace(" ", "-")


def _plain_kind(schema: Schema) -> str:
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if kind == "array":
        return f"list of {_kind(schema['items'])}"
    if kind == "object":
        named = _FORMS.get(schema.get("propertyNames", {}).get("pattern", ""), "name")
        return f"{named}: {_kind(schema['additionalProperties'])}"
    if kind == "integer":
        return _range(schema)
    if kind == "boolean":
        return "`true`, `false`"
    return _FORMS.get(schema.get("pattern", ""), "text" if kind == "string" else str(kind))


def _range(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    return f"{least}..{most}" if most is not None else f"number from {least}"


def yaml_of(value: Any) -> str:
    """A value as one would write it, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {yaml_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_of, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and (value in _WORDS or not _BARE.fullmatch(value) or value.isdecimal()):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def keys_of(schema: Schema) -> Iterator[str]:
    """Every key of every mapping."""
    for part in (schema, *schema["definitions"].values()):
        yield from part.get("properties", {})
