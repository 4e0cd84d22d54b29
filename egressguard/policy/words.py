"""pydantic's findings in words that an administrator can act on: what is there, and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from egressguard.policy.document import Path
from egressguard.policy.model import Policy

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}


def explain(error: Mapping[str, Any], value: Any) -> tuple[Path, bool, str]:
    """(path of the fault, whether its key is meant, words) for one of ValidationError.errors()."""
    path: Path = tuple(p for p in error["loc"] if p != "[key]")
    path = _existing(path, value)
    kind = str(error["type"])
    if "[key]" in error["loc"]:
        return path, True, f"'{path[-1]}' is no name; expected lower-case letters, digits, '-' and '_'"
    if kind == "extra_forbidden":
        known = _keys_of(path[:-1])
        return path, True, f"unknown key '{path[-1]}'{did_you_mean(path[-1], known)}; expected {_some(known)}"
    if kind == "missing":
        missing = error["loc"][-1]
        return path, False, f"the key '{missing}' is missing"
    return path, False, _words(kind, error)


def did_you_mean(word: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f", did you mean '{close[0]}'?" if close else ""


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
    text = str(value)
    return f"the text '{text if len(text) <= 60 else text[:57] + '...'}'"


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
        return f"found {found}, expected text of the form {context.get('pattern')}"
    if kind == "string_too_long":
        return f"found {found}, expected at most {context.get('max_length')} characters"
    if kind == "value_error":
        return f"found {found}: {context.get('error')}"
    return f"found {found}: {error.get('msg')}"


def _existing(path: Path, value: Any) -> Path:
    """The part of `path` that stands in the file: one value may have been written for a list of one."""
    kept: list[str | int] = []
    for step in path:
        if (isinstance(value, dict) and step in value) or (isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value)):
            value = value[step]
        else:
            break
        kept.append(step)
    return tuple(kept)


def _keys_of(path: Path) -> list[str]:
    """The keys that the schema allows at `path`."""
    schema: Any = Policy
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


def _some(known: list[str]) -> str:
    return f"one of {', '.join(known)}" if known else "no key here"
