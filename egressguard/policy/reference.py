"""What rule files may say, told by the models themselves: a JSON Schema for editors, a page for people.

Contract
    Pure. rules/*schema.json and docs/rules.md are what these functions give; `make reference` writes them, a test fails
    when they differ.
    Draft-07, which is what yaml-language-server is built on; check-jsonschema takes it as well.
    The schema accepts every file that policy.load accepts, but for YAML that others read otherwise than we do (1.5 and
    0x10 are text here, numbers elsewhere). It knows one file: names that stand elsewhere and keys that exclude each
    other are load's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from egressguard.policy.expect import Expectations
from egressguard.policy.model import Policy
from egressguard.policy.page import page
from egressguard.policy.site import Site

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
_REFERENCES = "#/definitions/{model}"
_VARIABLE = {"$ref": _REFERENCES.format(model="variable")}
_ANNOTATIONS = ("description", "examples", "default")
_EMPTY: tuple[Any, ...] = (None, "", [], {})

_INCLUDE: Schema = {
    "description": "rule files to read before this one, by names below the rules directory; left out = none",
    "examples": ["shared/lists.yaml", ["shared/lists.yaml", "shared/devices.yaml"]],
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}],
}
_PLAIN: Schema = {"anyOf": [{"type": "string", "not": {"pattern": r"\$\{"}}, {"type": ["number", "boolean", "null"]}]}
_VARIABLES: Schema = {
    "description": 'values for ${NAME} in any file; "file:PATH" = what that file says; left out = none',
    "examples": [{"domain": "example.org", "helpdesk": "file:lists/helpdesk.txt", "trusted": ["10.0.0.0/8"]}],
    "type": ["object", "null"],
    "additionalProperties": {"anyOf": [*_PLAIN["anyOf"], {"type": "array", "items": _PLAIN}]},
}


def json_schema(*, overlay: bool = False, variables: bool = True) -> Schema:
    """The schema of one rule file; `overlay`: of one in sites/NAME/, which may say part of a site and take keys away.

    `variables`: whether "${NAME}" may stand for a value, as it may in a file."""
    schema = schema_of(Policy)
    definitions = schema["definitions"]
    if overlay:
        for name in {Site.__name__, *schema_of(Site)["definitions"]}:
            definitions[name] = _partial(definitions[name])
    if variables:
        schema = _with_variables(schema)
        schema["definitions"]["variable"] = {
            "type": "string",
            "pattern": r"\$\{[^}]*\}",
            "description": "a value from `variables`",
        }
    sections = {name: _or_nothing(section) for name, section in schema["properties"].items() if name != "site"}
    title = "overlay of an EgressGuard site" if overlay else "EgressGuard rule file"
    return {
        "$schema": DRAFT,
        "title": title,
        "description": "docs/rules.md explains every key.",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {"include": _INCLUDE, "variables": _VARIABLES, "site": schema["properties"]["site"], **sections},
        "definitions": dict(sorted(schema["definitions"].items())),
    }


def expectations_schema() -> Schema:
    """The schema of one file of expectations (expect/*.yaml)."""
    schema = schema_of(Expectations)
    return {
        "$schema": DRAFT,
        "title": "EgressGuard expectations",
        "description": "docs/rules.md explains every key.",
        **{key: value for key, value in schema.items() if key not in {"description", "definitions"}},
        "definitions": dict(sorted(schema["definitions"].items())),
    }


def schema_of(model: type[BaseModel]) -> Schema:
    """The schema of one mapping and of those inside it, in draft-07's words, without what says nothing."""
    schema = model.model_json_schema(ref_template=_REFERENCES, schema_generator=_InOrder)
    definitions = schema.pop("$defs", {})
    schema["definitions"] = {name: part for name, part in definitions.items() if part["type"] == "object"}
    words = {_REFERENCES.format(model=name): definitions[name] for name in definitions.keys() - schema["definitions"]}
    return _everywhere(_tidied, _everywhere(lambda part: _in_place(part, words), schema))


def _in_place(schema: Schema, words: Mapping[str, Schema]) -> Schema:
    """The definition itself instead of a reference to a mere list of words."""
    found = words.get(schema.get("$ref", ""))
    return {"type": found["type"], "enum": found["enum"]} if found else schema


class _InOrder(GenerateJsonSchema):
    """Keys in the order of the models, not of the alphabet."""

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:  # noqa: ARG002 -- its form
        return value


def markdown() -> str:
    """The reference of the rule language and of its expectations on one page."""
    return page(json_schema(variables=False), expectations_schema())


def _everywhere(change: Callable[[Schema], Schema], schema: Schema) -> Schema:
    """`change` on every schema inside, the innermost first."""

    def inner(key: str, value: Any) -> Any:
        if key in {"properties", "patternProperties", "definitions"}:
            return {name: _everywhere(change, item) for name, item in value.items()}
        if key in {"items", "additionalProperties", "propertyNames"} and isinstance(value, dict):
            return _everywhere(change, value)
        if key in {"anyOf", "allOf"}:
            return [_everywhere(change, item) for item in value]
        return value

    return change({key: inner(key, value) for key, value in schema.items()})


def _tidied(schema: Schema) -> Schema:
    """Less generated titles and defaults that say no more than "left out"; the rest as draft-07 has it."""
    kept = {key: value for key, value in schema.items() if key != "title"}
    if "default" in kept and (kept["default"] in _EMPTY or isinstance(kept["default"], dict)):
        del kept["default"]
    if "$ref" in kept and len(kept) > 1:  # draft-07 does not look at what stands beside $ref
        kept["allOf"] = [{"$ref": kept.pop("$ref")}]
    if "patternProperties" in kept:
        ((pattern, value),) = kept.pop("patternProperties").items()
        kept |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    return kept


def _with_variables(schema: Schema) -> Schema:
    """With "${NAME}" beside each value that is no mapping; where any text may stand it may already."""
    return _everywhere(_filled, schema)


def _filled(schema: Schema) -> Schema:
    changed = dict(schema)
    if "properties" in schema:
        changed["properties"] = {name: _or_variable(value) for name, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            changed[key] = _or_variable(schema[key])
    return changed


def _or_variable(schema: Schema) -> Schema:
    return schema if _takes_any_text(schema) or _holds_mappings(schema) else _or(schema, _VARIABLE)


def _takes_any_text(schema: Mapping[str, Any]) -> bool:
    if "anyOf" in schema:
        return any(_takes_any_text(choice) for choice in schema["anyOf"])
    return schema.get("type") == "string" and not {"pattern", "enum", "maxLength"} & schema.keys()


def _holds_mappings(schema: Mapping[str, Any]) -> bool:
    choices = (*schema.get("anyOf", ()), *schema.get("allOf", ()))
    if choices:
        return any(_holds_mappings(choice) for choice in choices)
    return ("$ref" in schema and schema != _VARIABLE) or schema.get("type") == "object" or _lists_mappings(schema)


def _lists_mappings(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "array" and _holds_mappings(schema["items"])


def _partial(schema: Schema) -> Schema:
    """A mapping of an overlay: no key is required, and each may be null, which takes it away."""
    rest = {key: value for key, value in schema.items() if key != "required"}
    properties = {name: _or_nothing(_items_or_nothing(value)) for name, value in schema["properties"].items()}
    return {**rest, "properties": properties}


def _items_or_nothing(schema: Schema) -> Schema:
    if isinstance(schema.get("additionalProperties"), dict):
        return {**schema, "additionalProperties": _or_nothing(schema["additionalProperties"])}
    return schema


def _or_nothing(schema: Schema) -> Schema:
    return _or(schema, {"type": "null"})


def _or(schema: Schema, other: Schema) -> Schema:
    """Either of them; what describes the first stays outside."""
    words = {key: schema[key] for key in _ANNOTATIONS if key in schema}
    rest = {key: value for key, value in schema.items() if key not in words}
    choices = rest["anyOf"] if set(rest) == {"anyOf"} else [rest]
    return {**words, "anyOf": [*choices, *([other] if other not in choices else [])]}
