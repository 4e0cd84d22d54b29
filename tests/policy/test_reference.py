"""The rule language explains itself: every key has words and a true example, the schema agrees with the loader.

EGRESSGUARD_FUZZ is how many odd values are tried (`make fuzz`)."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import ValidationError

from egressguard.policy import expect
from egressguard.policy.fields import Strict
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.policy.page import keys_of, yaml_of
from egressguard.policy.reference import expectations_schema, json_schema, markdown, schema_of
from tests.policy import language

ROOT = Path(__file__).parents[2]
TRIES = int(os.environ.get("EGRESSGUARD_FUZZ", "400"))
KEYS = [(kind, key) for kind in language.PLACES for key in language.keys(kind)]
SCHEMA = Draft7Validator(json_schema())
PLAIN = Draft7Validator(json_schema(variables=False))
OVERLAY = Draft7Validator(json_schema(overlay=True))


def faults_of(value: object, **more: bytes) -> list[str]:
    return [str(fault) for fault in parse_rules({"a.yaml": language.as_yaml(value), **language.LISTED, **more}).faults]


def test_every_kind_of_mapping_is_looked_at() -> None:
    definitions = {name for name in schema_of(Policy)["definitions"] if name != "variable"}
    assert definitions | {"Policy"} == {kind.__name__ for kind in language.PLACES}
    assert faults_of(language.WHOLE) == []


@pytest.mark.parametrize(("kind", "key"), KEYS, ids=lambda part: getattr(part, "__name__", part))
def test_every_key_has_words_and_says_what_leaving_it_out_means(kind: type[Strict], key: str) -> None:
    info = language.keys(kind)[key]
    assert info.description and info.description[0] != " " and not info.description.endswith(".")
    default = info.get_default(call_default_factory=True)
    tells = info.is_required() or "; left out = " in info.description or default not in (None, "", (), {})
    assert tells, info.description


@pytest.mark.parametrize(("kind", "key"), KEYS, ids=lambda part: getattr(part, "__name__", part))
def test_every_example_is_a_good_rule(kind: type[Strict], key: str) -> None:
    examples = language.keys(kind)[key].examples
    assert examples
    for example in examples:
        value = language.with_key(kind, key, example)
        assert faults_of(value) == []
        assert list(SCHEMA.iter_errors(value)) == []
        written = f"{key}: {yaml_of(example)}"  # as the page shows it
        parsed = language.mapping_at(value, language.PLACES[kind])
        assert parse_in_flow(written) == {key: parsed[key]}


def parse_in_flow(text: str) -> dict[str, Any]:
    from egressguard.policy.document import parse_document

    document = parse_document("f", text.encode())
    assert not document.faults, text
    return document.value


@pytest.mark.parametrize("key", ["include", "variables"])
def test_the_examples_of_what_is_in_no_model_are_good(key: str) -> None:
    for example in json_schema()["properties"][key]["examples"]:
        value = {key: example, **language.WHOLE}
        assert faults_of(value) == [] and list(SCHEMA.iter_errors(value)) == []


def test_the_page_names_every_key_and_its_links_lead_somewhere() -> None:
    page = markdown()
    assert [key for key in set(keys_of(json_schema())) if f"| `{key}`" not in page and f", `{key}`" not in page] == []
    titles = [title.lower() for title in re.findall(r"^#+ (.*)$", page, re.MULTILINE)]
    anchors = {re.sub(r"[^a-z0-9_ -]", "", title).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors
    widths = {row.count(" | ") for row in page.splitlines() if row.startswith("| `")}
    assert max(widths) <= 4


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("rules/schema.json", json.dumps(json_schema(), indent=2) + "\n"),
        ("rules/overlay.schema.json", json.dumps(json_schema(overlay=True), indent=2) + "\n"),
        ("rules/expect.schema.json", json.dumps(expectations_schema(), indent=2) + "\n"),
        ("docs/rules.md", markdown()),
    ],
)
def test_what_is_committed_is_current(path: str, text: str) -> None:
    assert (ROOT / path).read_text() == text, "run: make reference"


def test_the_policies_in_the_page_are_good() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", markdown(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        files = {"a.yaml": block.encode(), "shared/helpdesk.txt": b"x@example.org", **language.LISTED}
        assert [str(fault) for fault in parse_rules(files).faults] == []


# The schema and the loader: what one takes the other takes, as far as JSON Schema can say.
# Exceptions: YAML that others read as numbers (floats, 0x10) and we as text; whole numbers of more than 18 digits;
# Python's "$", which stands before a last line break too; what only functions know (pydantic's value_error: a form such
# as 300.0.0.0/8, two keys that go together); and crosscheck's matters.

ODD: list[Any] = [None, True, False, 0, 1, 17, 25, 100, 601, 1024, 65535, 65536, -1, 10**12, 10**12 + 1, "", "x", "lan"]
ODD += ["A b", "@any", "@mail-servers", "10.0.0.0/8", "300.0.0.0/8", "::1", "08:00-18:00", "8:00-18:00", "mon", "mon-"]
ODD += ["fri-mon", "file:x", "file:", "none", "pass", "tcp", "accept", "reject", "7.5", "1e3", "Held", "held", "ä", "*"]
ODD += ["anna@example.org", "infected", "x" * 401, "a" * 64, [], [[]], ["lan"], [25, "x"], ["mon", "tue"], {}, {"a": 1}]
ODD += [{"lan": {}}, {"name": "x"}, {"Subject": []}, {"Subject": "*"}, {"no name": "x"}, [{}], [{"name": "a"}], [None]]


def complaints(value: object) -> set[str]:
    """The kinds of what the model finds."""
    try:
        Policy.model_validate(copy.deepcopy(value))
    except ValidationError as wrong:
        return {str(error["type"]) for error in wrong.errors()}
    return set()


@settings(max_examples=TRIES, deadline=None)
@given(st.sampled_from([*KEYS, *[(kind, "no_such_key") for kind in language.PLACES]]), st.sampled_from(ODD))
def test_the_schema_takes_what_the_loader_takes(place: tuple[type[Strict], str], item: object) -> None:
    kind, key = place
    value = language.with_key(kind, key, item)
    errors = [error.message for error in PLAIN.iter_errors(value)]
    if not faults_of(value):
        assert errors == [] and [*SCHEMA.iter_errors(value)] == []
    if kind is Policy:  # a section may be empty in a file; it is then not there in the policy
        return
    found = complaints(value)
    if not errors:
        assert found <= {"value_error"}
    if not found:
        assert errors == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "flows:",
        "include: shared/lists.yaml",
        "variables: {a: 1, b: [x, true], c: null, d: '1.5'}",
        "variables: {p: 25}\nflows: [{name: a, port: '${p}', action: drop}]",
        "variables: {p: [25, 26]}\nflows: [{name: a, port: '${p}', action: drop}]",
        "variables: {p: 25}\nflows: [{name: a, port: ['${p}', 26], action: drop}]",
        "variables: {a: drop}\nflows: [{name: 'a-${a}', action: '${a}'}]",
        "variables: {t: true}\nmail: [{name: a, staged: '${t}', match: {tls: '${t}'}, action: accept}]",
        "variables: {v: [clean]}\nmail: [{name: a, match: {verdict: '${v}', hours: ['${h}']}, action: accept}]",
    ],
)
def test_files_of_all_forms_pass_the_schema(text: str) -> None:
    from egressguard.policy.document import parse_document

    files = {"a.yaml": text.encode(), "b.yaml": language.as_yaml({"site": language.WHOLE["site"]}), **language.LISTED}
    files["c.yaml"] = b"variables: {h: 22:00-06:00}"
    assert [str(fault) for fault in parse_rules(files).faults] == []
    assert list(SCHEMA.iter_errors(parse_document("a", text.encode()).value)) == []


@pytest.mark.parametrize(
    "text",
    [
        "site: {relay: {hostname: north.example.org, redirect_to: null}}",
        "site: {zones: {guests: null}, sets: {blocked: null}}",
        "site: {smart_hosts: {backup: {port: 2525}, provider: {auth: null}}}",
        "site: {scan: null, relay: {tls: null, retry: {first_seconds: 60}}}",
        "site: {relay: {listeners: {lan: {port: 26}, submission: null}}}",
        "flows: [{name: f, action: drop}]\nlimits:",
    ],
)
def test_overlays_pass_their_schema_and_not_the_other(text: str) -> None:
    from egressguard.policy.document import parse_document

    files = {"a.yaml": language.as_yaml(language.WHOLE), "sites/n/a.yaml": text.encode(), **language.LISTED}
    assert [str(fault) for fault in parse_rules(files, "n").faults] == []
    value = parse_document("a", text.encode()).value
    assert list(OVERLAY.iter_errors(value)) == []
    assert "site" not in value or list(SCHEMA.iter_errors(value))


# Expectations

EXPECTATIONS = Draft7Validator(expectations_schema())
A_FLOW = {"name": "f", "given": {"from": "10.0.0.9", "to": "192.0.2.7"}, "expect": {"action": "reject"}}
A_MESSAGE = {"name": "m", "given": {"client": "10.0.0.9", "recipient": "a@b.example"}, "expect": {}}
EXPECT_WHOLE = {
    "with": {},
    "flows": [A_FLOW],
    "mail": [{**A_MESSAGE, "given": {**A_MESSAGE["given"], "attachments": [{"path": "a"}]}}],  # type: ignore[dict-item]
}
EXPECT_PLACES: dict[type[Strict], language.Path] = {
    expect.Expectations: (),
    expect.Stand: ("with",),
    expect.FlowCase: ("flows", 0),
    expect.FlowGiven: ("flows", 0, "given"),
    expect.FlowExpect: ("flows", 0, "expect"),
    expect.MailCase: ("mail", 0),
    expect.MailGiven: ("mail", 0, "given"),
    expect.AttachmentGiven: ("mail", 0, "given", "attachments", 0),
    expect.MailExpect: ("mail", 0, "expect"),
}
EXPECT_KEYS = [(kind, key) for kind in EXPECT_PLACES for key in language.keys(kind)]


def test_every_kind_of_mapping_in_expectations_is_looked_at() -> None:
    named = {kind.__name__ for kind in EXPECT_PLACES} | {"Device"}
    assert expectations_schema()["definitions"].keys() | {"Expectations"} == named


@pytest.mark.parametrize(("kind", "key"), EXPECT_KEYS, ids=lambda part: getattr(part, "__name__", part))
def test_every_example_is_a_good_expectation(kind: type[Strict], key: str) -> None:
    info = language.keys(kind)[key]
    examples = info.examples
    assert examples and info.description
    assert info.is_required() or "; left out = " in info.description or info.default not in (None, "", ()), key
    for example in examples:
        value = copy.deepcopy(EXPECT_WHOLE)
        language.mapping_at(value, EXPECT_PLACES[kind])[key] = example
        found = expect.parse_expectations("a.yaml", language.as_yaml(value), {"messages/eicar.eml": b"x"})
        assert isinstance(found, expect.ExpectFile), found
        assert list(EXPECTATIONS.iter_errors(value)) == []


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*EXPECT_KEYS, *[(kind, "no_such_key") for kind in EXPECT_PLACES]]), st.sampled_from(ODD))
def test_the_schema_takes_what_the_reader_of_expectations_takes(place: tuple[type[Strict], str], item: object) -> None:
    value = copy.deepcopy(EXPECT_WHOLE)
    language.mapping_at(value, EXPECT_PLACES[place[0]])[place[1]] = item
    found = expect.parse_expectations("a.yaml", language.as_yaml(value), {})
    errors = [error.message for error in EXPECTATIONS.iter_errors(value)]
    if isinstance(found, expect.ExpectFile):
        assert errors == []
    elif place[1] == "no_such_key":
        assert errors


# check-jsonschema: what a commit hook would run.

WRONG = {
    "wrong-type": ("flows: [{name: a, port: http, action: drop}]", "'http'"),
    "number-as-text": ('flows: [{name: a, port: "25", action: drop}]', "'25'"),
    "unknown-key": ("flows: [{name: a, prot: 25, action: drop}]", "prot"),
    "bad-enum": ("mail: [{name: a, action: rejekt}]", "rejekt"),
    "out-of-range": ("site: {zones: {}, metrics: {port: 70000}}", "70000"),
    "missing": ("limits: [{name: a, messages_per_hour: 3}]", "per"),
    "bad-name": ("site: {zones: {LAN: {networks: 10.0.0.0/8}}}", "LAN"),
    "unknown-section": ("flow: []", "flow"),
    "no-list": ("flows: {name: a, action: drop}", "flows"),
    "empty-list": ("mail: [{name: a, match: {client: []}, action: accept}]", "client"),
    "secret": ("site: {zones: {}, smart_hosts: {s: {host: h, auth: {user: u, secret: x}}}}", "secret"),
}


def check(*words: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("check-jsonschema")
    return subprocess.run([str(program), *words], capture_output=True, text=True, check=False)


def test_check_jsonschema_accepts_all_that_is_shipped() -> None:
    for schema, files in {
        "rules/schema.json": [
            *ROOT.glob("rules/*.yaml"),
            *ROOT.glob("docs/example/*.yaml"),
            *ROOT.glob("docs/example/shared/*.yaml"),
        ],
        "rules/expect.schema.json": [*ROOT.glob("rules/expect/*.yaml"), *ROOT.glob("tests/sites/campus/expect/*.yaml")],
        "rules/overlay.schema.json": [*ROOT.glob("rules/sites/*/*.yaml"), *ROOT.glob("docs/example/sites/*/*.yaml")],
    }.items():
        names = [str(file) for file in files]
        done = check("--schemafile", str(ROOT / schema), *names)
        assert done.returncode == 0, done.stdout + done.stderr
    assert check("--check-metaschema", *map(str, ROOT.glob("rules/*schema.json"))).returncode == 0


def test_check_jsonschema_refuses_what_is_wrong(tmp_path: Path) -> None:
    names = []
    for name, (text, _word) in WRONG.items():
        (tmp_path / f"{name}.yaml").write_text(f"{text}\n")
        names.append(str(tmp_path / f"{name}.yaml"))
    done = check("--output-format", "json", "--schemafile", str(ROOT / "rules/schema.json"), *names)
    assert done.returncode == 1
    told = {Path(error["filename"]).stem: json.dumps(error) for error in json.loads(done.stdout)["errors"]}
    assert sorted(told) == sorted(WRONG)
    assert [name for name, (_text, word) in WRONG.items() if word not in told[name]] == []
    for name, (text, _word) in WRONG.items():
        assert parse_rules({"a.yaml": text.encode()}).faults, name
