"""SCRAM verifiers: the example of RFC 7677, and a file that never lets in who should not be."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.store.verifier import (
    ITERATIONS,
    MIN_ITERATIONS,
    SALT_OCTETS,
    Verifier,
    VerifierError,
    Verifiers,
    bound_to,
    fake_verifier,
    make_verifier,
    parse_verifier,
    parse_verifiers,
    render_verifier,
    render_verifiers,
)

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")  # RFC 7677 s3
ANNA = make_verifier("pencil", salt=SALT, iterations=4096)
LINE = f"anna:{render_verifier(ANNA)}:{bound_to('$argon2id$x')}"


def test_the_form_is_the_one_of_rfc_5803() -> None:
    text = render_verifier(ANNA)
    assert text.startswith("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$")
    assert parse_verifier(text) == ANNA


def test_each_password_gets_a_salt_of_its_own_and_enough_iterations() -> None:
    one, two = make_verifier("pencil"), make_verifier("pencil")
    assert one.salt != two.salt
    assert len(one.salt) == SALT_OCTETS
    assert one.iterations == ITERATIONS >= MIN_ITERATIONS


def test_passwords_that_prepare_alike_are_alike() -> None:
    assert make_verifier("I\u00adX", salt=SALT) == make_verifier("\u2168", salt=SALT)


@pytest.mark.parametrize("password", ["", "\u00ad", "a\nb", "\U0001f511", "\udcff"])
def test_passwords_without_a_form_have_no_verifier(password: str) -> None:
    with pytest.raises(VerifierError):
        make_verifier(password)


def test_a_name_without_a_verifier_is_shown_the_same_at_each_question() -> None:
    key = bytes(32)
    one, again, other = fake_verifier(key, "anna"), fake_verifier(key, "anna"), fake_verifier(key, "bert")
    assert one.salt == again.salt != other.salt
    assert one.stored_key != again.stored_key  # nobody could ever prove to know it
    assert (len(one.salt), one.iterations) == (SALT_OCTETS, ITERATIONS)
    assert fake_verifier(b"x" * 32, "anna").salt != one.salt


KEYS = "$" + ":".join([base64.b64encode(bytes(32)).decode()] * 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SCRAM-SHA-1$4096:YQ==" + KEYS,
        "SCRAM-SHA-256$4095:YQ==" + KEYS,
        "SCRAM-SHA-256$1000001:YQ==" + KEYS,
        "SCRAM-SHA-256$-4096:YQ==" + KEYS,
        "SCRAM-SHA-256$4096:" + KEYS,
        "SCRAM-SHA-256$4096:YQ" + KEYS,
        "SCRAM-SHA-256$4096:Y*==" + KEYS,
        "SCRAM-SHA-256$4096:YQ==$YQ==:YQ==",
        "SCRAM-SHA-256$4096:YQ==" + KEYS + "\n",
    ],
)
def test_what_is_no_verifier(text: str) -> None:
    with pytest.raises(VerifierError):
        parse_verifier(text)
    verifiers, faults = parse_verifiers(f"anna:{text}:{bound_to('h')}")
    assert verifiers.by_owner == {}
    assert faults


def test_the_file_comes_back_as_it_was() -> None:
    verifiers = Verifiers(bytes(32)).having("anna", "$argon2id$x", ANNA).having("bert", "$argon2id$y", ANNA)
    text = render_verifiers(verifiers)
    assert text.startswith("#key ")
    assert parse_verifiers(text) == (verifiers, [])


def test_a_verifier_belongs_to_one_hash() -> None:
    verifiers, _ = parse_verifiers(LINE)
    assert verifiers.of("anna", "$argon2id$x") == ANNA
    assert verifiers.of("anna", "$argon2id$y") is None
    assert verifiers.of("bert", "$argon2id$x") is None


def test_of_two_lines_with_one_owner_the_first_holds() -> None:
    other = make_verifier("other", salt=SALT)
    verifiers, _ = parse_verifiers(LINE + "\n" + LINE.replace(render_verifier(ANNA), render_verifier(other)))
    assert verifiers.of("anna", "$argon2id$x") == ANNA


def test_nobody_left_is_an_empty_file() -> None:
    verifiers, _ = parse_verifiers(LINE)
    assert render_verifiers(verifiers.only([("anna", "$argon2id$new")])) == ""


@given(st.text(max_size=200) | st.text(st.sampled_from("#key an:$SCRAM-SHA-256409610YQ=\n"), max_size=120))
def test_any_text_is_read_without_an_error(text: str) -> None:
    verifiers, faults = parse_verifiers(text)
    assert len(verifiers.by_owner) + len(faults) <= text.count("\n") + 1


@given(
    st.builds(
        Verifier,
        st.binary(min_size=1, max_size=64),
        st.integers(MIN_ITERATIONS, 1_000_000),
        st.binary(min_size=32, max_size=32),
        st.binary(min_size=32, max_size=32),
    )
)
def test_any_verifier_comes_back(verifier: Verifier) -> None:
    assert parse_verifier(render_verifier(verifier)) == verifier
