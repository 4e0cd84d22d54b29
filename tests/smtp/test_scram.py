"""SCRAM-SHA-256: the published exchange, a client of our own, and everybody who only pretends."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.smtp.scram import (
    MESSAGE_OCTETS,
    NONCE_CHARACTERS,
    ScramError,
    ScramServer,
    WrongProof,
    parse_client_first,
)
from egressguard.store.verifier import fake_verifier, make_verifier
from tests.smtp.scram_client import ScramClient

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
OUR_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
PENCIL = make_verifier("pencil", salt=SALT, iterations=4096)


def server(first: bytes, *, known: bool = True) -> ScramServer:
    verifier = PENCIL if known else fake_verifier(b"k" * 32, "nobody")
    return ScramServer(parse_client_first(first), verifier, known=known, nonce=OUR_NONCE)


def test_the_exchange_of_rfc_7677() -> None:
    exchange = server(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")
    assert exchange.challenge == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    final = exchange.finish(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert final == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("gs2_header", ["n,,", "y,,", "n,a=user,", "y,a=user,"])
def test_both_sides_are_satisfied(gs2_header: str) -> None:
    client = ScramClient("user", "pencil", gs2_header=gs2_header)
    exchange = server(client.first())
    assert client.is_satisfied(exchange.finish(client.final(exchange.challenge)))


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20))
def test_any_name_is_understood(name: str) -> None:
    client = ScramClient(name, "pencil")
    assert parse_client_first(client.first()).name == name


def test_names_are_prepared() -> None:
    assert parse_client_first("n,a=IX,n=I\u00adX,r=x".encode()).name == "IX"


def test_a_wrong_password_and_an_unknown_name_fail_alike() -> None:
    seen = []
    for password, known in (("wrong", True), ("pencil", False)):
        client = ScramClient("user", password)
        exchange = server(client.first(), known=known)
        with pytest.raises(WrongProof) as wrong:
            exchange.finish(client.final(exchange.challenge))
        seen.append((str(wrong.value), len(base64.b64decode(exchange.challenge.split(b",s=")[1].split(b",")[0]))))
    assert seen[0] == seen[1]


def test_who_has_stolen_the_file_of_an_unknown_name_does_not_get_in() -> None:
    client = ScramClient("user", "pencil")
    exchange = ScramServer(parse_client_first(client.first()), PENCIL, known=False, nonce=OUR_NONCE)
    with pytest.raises(WrongProof):
        exchange.finish(client.final(exchange.challenge))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n,,",
        b"n,,n=user",
        b"n,,n=,r=x",
        b"n,,n=user,r=",
        b"n,,r=x,n=user",
        b"n=user,r=x",
        b"n,n=user,r=x",
        b"x,,n=user,r=x",
        b"p=tls-unique,,n=user,r=x",
        b"p=tls-exporter,,n=user,r=x",
        b"n,a=,n=user,r=x",
        b"n,,m=must,n=user,r=x",
        b"n,,n=us=er,r=x",
        b"n,,n=us=2cer,r=x",
        b"n,,n=us=41er,r=x",
        b"n,,n=us\0er,r=x",
        b"n,,n=us\x07er,r=x",
        b"n,,n=\xc2\xad,r=x",
        b"n,,n=\xff,r=x",
        b"n,,n=user,r=a b",
        b"n,,n=user,r=\xc3\xa4",
        b"n,,n=user,r=x,",
        b"n,,n=user,r=x,ext",
        b"n,,n=user,r=" + b"x" * (NONCE_CHARACTERS + 1),
        b"n,,n=" + b"u" * MESSAGE_OCTETS + b",r=x",
        b"\n\n",
    ],
)
def test_what_is_no_first_message(message: bytes) -> None:
    with pytest.raises(ScramError):
        parse_client_first(message)


def test_nobody_acts_as_somebody_else() -> None:
    with pytest.raises(WrongProof):
        parse_client_first(b"n,a=root,n=user,r=x")


def test_unknown_extensions_are_passed_over() -> None:
    assert parse_client_first(b"n,,n=user,r=x,z=anything,q=").bare == "n=user,r=x,z=anything,q="


def _spoiled(final: str) -> list[str]:
    before, proof = final.split(",p=")
    nonce = before.partition(",r=")[2]
    return [
        "",
        before,
        f"{before},p=",
        f"{before},p=*",
        f"{before},p=YQ==",
        f"{before},p={proof},x=y",
        final.replace("c=biws", "c=eSws"),
        final.replace("c=biws", "c="),
        final.replace("c=biws", "c=b"),
        final.replace(f"r={nonce}", f"r={nonce}x"),
        final.replace(f"r={nonce}", f"r={nonce[:-1]}"),
        final.replace(f"r={nonce}", "r=rOprNGfwEbeRWgbNEkqO"),
        final.replace(",p=", ",x,p="),
        final.replace(",p=", f",p={proof},p="),
        final + "\n",
        final + " " * MESSAGE_OCTETS,
    ]


def test_final_messages_that_are_spoiled() -> None:
    client = ScramClient("user", "pencil")
    exchange = server(client.first())
    good = client.final(exchange.challenge)
    for message in _spoiled(good.decode()):
        with pytest.raises(ScramError):
            exchange.finish(message.encode())
    assert client.is_satisfied(exchange.finish(good))


def test_a_message_that_was_said_is_signed_with_what_it_said() -> None:
    client = ScramClient("user", "pencil")
    exchange = server(client.first() + b",z=added")
    with pytest.raises(WrongProof):
        exchange.finish(client.final(exchange.challenge))


@pytest.mark.parametrize("nonce", ["", "a,b", "a b", "x" * (NONCE_CHARACTERS + 1)])
def test_a_nonce_that_would_break_the_message_is_our_own_fault(nonce: str) -> None:
    with pytest.raises(ValueError, match="nonce"):
        ScramServer(parse_client_first(b"n,,n=user,r=x"), PENCIL, known=True, nonce=nonce)


@given(st.binary(max_size=100) | st.text(st.sampled_from("nyp,=a2C3DrxcY\u00ad\u0627 "), max_size=40).map(str.encode))
def test_any_octets_are_a_message_or_refused(octets: bytes) -> None:
    exchange = server(b"n,,n=user,r=x")
    for step in (parse_client_first, exchange.finish):
        try:
            step(octets)
        except ScramError:
            continue
        assert step is parse_client_first


@given(st.binary(min_size=32, max_size=32))
def test_no_proof_fits_by_chance(proof: bytes) -> None:
    exchange = server(b"n,,n=user,r=x")
    message = f"c=biws,r=x{OUR_NONCE},p={base64.b64encode(proof).decode()}".encode()
    with pytest.raises(WrongProof):
        exchange.finish(message)
