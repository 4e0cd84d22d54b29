"""pydantic's findings in words that an administrator can act on: what is there, and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from egressguard.policy.document import MAX_FAULTS, Document, Fault, Path
from egressguard.policy.fields import (
    DOMAIN_PATTERN,
    FILE_PATTERN,
    FOLDER_PATTERN,
    HEADER_PATTERN,
    NAME_PATTERN,
    TEXT_PATTERN,
)
from egressguard.policy.mailboxes import ACCOUNT_PATTERN, MAILBOX_PATTERN, PLACE_PATTERN, SEPARATOR_PATTERN
from egressguard.policy.model import Policy

_SHOWN = 60  # characters of a value that a message quotes
_LISTED = 20  # choices that a message lists
_CANDIDATES = 200  # names looked at for "did you mean"

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}

_FORMS = {
    NAME_PATTERN: "a name: lower-case letters, digits, '-' and '_', at most 63",
    DOMAIN_PATTERN: "a domain such as example.org",
    FILE_PATTERN: '"file:PATH", never the secret itself',
    FOLDER_PATTERN: "a folder name: a capital letter, then letters, digits and '-', at most 32",
    HEADER_PATTERN: "the name of a header field such as X-Site",
    TEXT_PATTERN: "printable ASCII on one line",
    ACCOUNT_PATTERN: "an account: lower-case letters, digits, '.', '_' and '-', at most 64",
    MAILBOX_PATTERN: "a local part such as info, or an address such as info@example.org",
    PLACE_PATTERN: "an absolute path such as /var/mail/{account}",
    SEPARATOR_PATTERN: "one of + = # ~ _ - or nothing",
}


Schema = TypeVar("Schema", bound=BaseModel)


def read_as(schema: type[Schema], document: Document) -> Schema | list[Fault]:
    """What a whole document says, or its faults, each in its place."""
    if document.faults:
        return document.faults
    try:
        return schema.model_validate(document.value)
    except ValidationError as wrong:
        told = (explain(error, document.value, schema) for error in wrong.errors(include_url=False)[:MAX_FAULTS])
        return [document.fault_at(path, message, key=key) for path, key, message in told]


def explain(error: Mapping[str, Any], value: Any, schema: type[BaseModel] = Policy) -> tuple[Path, bool, str]:
    """(path of the fault, whether its key is meant, words) for one of ValidationError.errors()."""
    path: Path = tuple(p for p in error["loc"] if p != "[key]")
    path = _existing(path, value)
    kind = str(error["type"])
    if "[key]" in error["loc"]:
        form = _form(str(error.get("ctx", {}).get("pattern")))
        return path, True, f"{quote(path[-1])} is no name; expected {form}"
    if kind == "extra_forbidden":
        known = _keys_of(path[:-1], schema)
        return path, True, f"unknown key {quote(path[-1])}{did_you_mean(path[-1], known)}; expected {one_of(known)}"
    if kind == "missing":
        missing = error["loc"][-1]
        return path, False, f"the key '{missing}' is missing; expected it here"
    return path, False, _words(kind, error)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word)[:_SHOWN], list(islice(known, _CANDIDATES)), n=1)
    return f", did you mean {quote(close[0])}?" if close else ""


def quote(text: object) -> str:
    """Text between quotes, cut to a bearable length, without what a terminal would act on."""
    shown = "".join(c if c.isprintable() else "?" for c in str(text)[: _SHOWN + 1])
    return f"'{shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + '...'}'"


def show(value: Any) -> str:
    """A value as a person would point at it, cut to a bearable length."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"'{str(value).lower()}'"
    if isinstance(value, int):
        return f"the number {value}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return f"the text {quote(value)}"


def _words(kind: str, error: Mapping[str, Any]) -> str:
    found, context = show(error.get("input")), error.get("ctx", {})
    if kind in _TYPES:
        return f"found {found}, expected {_TYPES[kind]}"
    if kind in {"enum", "literal_error"}:
        word = error.get("input")
        choices = str(context.get("expected", "")).replace("'", "")
        known = [c.strip() for c in choices.replace(" or ", ", ").split(",")]
        return f"found {found}{did_you_mean(word, known)}; expected one of {', '.join(known)}"
    limits = {"greater_than_equal": ("at least", "ge"), "less_than_equal": ("at most", "le")}
    if kind in limits:
        words, key = limits[kind]
        return f"found {found}, expected a number of {words} {context.get(key)}"
    if kind == "string_pattern_mismatch":
        return f"found {found}, expected {_form(str(context.get('pattern')))}"
    if kind == "too_short":
        return f"found {found} with nothing in it, expected at least one entry; a key left out matches everything"
    if kind == "string_too_long":
        return f"found {found}, expected at most {context.get('max_length')} characters"
    if kind == "value_error":
        return f"found {found}: {context.get('error')}"
    return f"found {found}: {error.get('msg')}"


def _form(pattern: str) -> str:
    """A field's pattern in words; one that has no words here stands for itself."""
    return _FORMS.get(pattern, f"text of the form {pattern}")


def _existing(path: Path, value: Any) -> Path:
    """The part of `path` that stands in the file: one value may have been written for a list of one."""
    kept: list[str | int] = []
    for step in path:
        in_list = isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value)
        if not in_list and not (isinstance(value, dict) and step in value):
            break
        value = value[step]
        kept.append(step)
    return tuple(kept)


def _keys_of(path: Path, top: type[BaseModel]) -> list[str]:
    """The keys that the schema allows at `path`."""
    schema: Any = top
    for step in path:
        schema = _step(schema, step)
        if schema is None:
            return []
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return [info.alias or name for name, info in schema.model_fields.items()]
    return []


def _step(schema: Any, step: str | int) -> Any:
    if isinstance(step, int):
        return schema
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        for name, info in schema.model_fields.items():
            if step in {name, info.alias}:
                return _model_in(info.annotation)
        return None
    return schema


def _model_in(annotation: Any) -> Any:
    """The model class inside dict[Name, X], tuple[X, ...], X | None and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if (found := _model_in(argument)) is not None:
            return found
    return None


def one_of(known: Iterable[str]) -> str:
    """ "one of a, b": the choices, as many as are bearable."""
    names = [quote(name)[1:-1] for name in islice(known, _LISTED + 1)]
    more = ", ..." if len(names) > _LISTED else ""
    return f"one of {', '.join(names[:_LISTED])}{more}" if names else "none, for none is defined"
