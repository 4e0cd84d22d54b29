"""The client against a host that answers, refuses, hangs, cuts and lies."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from egressguard.mail.envelope import RecipientOptions
from egressguard.mail.outcome import Outcome, Result
from egressguard.smtp.certificates import OwnCertificate
from egressguard.smtp.client import Patience, Peer, Sent, SmtpClient, Transaction, of_reply, send
from egressguard.smtp.dane import Tlsa
from egressguard.smtp.tls import server_context
from egressguard.store.content import Content
from tests.lab.internet import write_certificate
from tests.smtp.fake_mx import CUT, HANG, FakeMx, make_certificate
from tests.tls.certificates import Certificate, authority, issue

B, C = "b@example.net", "c@example.net"
QUICK = Patience(connect_seconds=0.5, command_seconds=0.5, data_seconds=0.5, whole_seconds=5)
CONTENT = b"Subject: x\r\n\r\n.hello\r\n..\r\n"


def letter(**more: Any) -> Transaction:
    facts: dict[str, Any] = {"reverse_path": "a@example.org", "forward_paths": (B, C), "content": CONTENT}
    facts |= more
    facts["content"] = Content.of(facts["content"])
    return Transaction(**facts)


def peer_of(mx: FakeMx, **more: Any) -> Peer:
    facts: dict[str, Any] = {"name": "mx.test", "addresses": ("127.0.0.1",), "port": mx.port, "tls": "none"}
    return Peer(**(facts | more))


def sent_to(mx: FakeMx, transaction: Transaction | None = None, patience: Patience = QUICK, **peer: Any) -> Sent:
    async def walk() -> Sent:
        async with mx.listening():
            return await send(transaction or letter(), peer_of(mx, **peer), "gw.example.org", patience)

    return asyncio.run(walk())


def results(sent: Sent) -> dict[str, tuple[Result, str]]:
    return {path: (outcome.result, outcome.status) for path, outcome in sent.outcomes.items()}


def test_a_message_arrives_as_it_was() -> None:
    mx = FakeMx()
    sent = sent_to(mx)
    assert results(sent) == {B: (Result.DELIVERED, "2.0.0"), C: (Result.DELIVERED, "2.0.0")}
    assert sent.outcomes[B].said_by == "mx.test"
    ((sender, paths, content),) = mx.messages
    assert sender == f"MAIL FROM:<a@example.org> SIZE={len(CONTENT)}"
    assert (paths, content) == ([B, C], CONTENT)
    assert mx.commands[0] == "EHLO gw.example.org"
    assert mx.commands[-1] == "QUIT"


def test_the_null_reverse_path_is_sent_as_it_is() -> None:
    mx = FakeMx(extensions=())
    assert sent_to(mx, letter(reverse_path="")).outcomes[B].result is Result.DELIVERED
    assert mx.messages[0][0] == "MAIL FROM:<>"


@pytest.mark.parametrize("path", ['"a b"@example.net', '"a\\"(x)b"@example.net', "a+(x)@example.net"])
def test_an_address_is_sent_octet_for_octet(path: str) -> None:
    mx = FakeMx()
    sent_to(mx, letter(forward_paths=(path,)))
    assert mx.messages[0][1] == [path]


def test_an_address_cannot_smuggle_a_command() -> None:
    mx = FakeMx()
    sent = sent_to(mx, letter(forward_paths=(B, "x@y.example>\r\nRCPT TO:<evil@example.com")))
    assert mx.messages[0][1] == [B]
    assert [outcome.result for outcome in sent.outcomes.values()] == [Result.PERMANENT, Result.DELIVERED]


def test_a_bare_line_ending_cannot_end_the_message() -> None:
    mx = FakeMx()
    sent = sent_to(mx, letter(content=b"Subject: x\r\n\r\na\n.\nMAIL FROM:<evil@example.com>\r\n.\rb\r\n"))
    assert results(sent) == {B: (Result.PERMANENT, "5.6.0"), C: (Result.PERMANENT, "5.6.0")}
    assert mx.messages == []
    assert [line for line in mx.commands if "evil" in line] == []


T, P, D = Result.TRANSIENT, Result.PERMANENT, Result.DELIVERED


@pytest.mark.parametrize(
    ("replies", "at_b", "at_c", "begun"),
    [
        ({"GREETING": "554 no"}, (T, "4.3.2"), (T, "4.3.2"), False),
        ({"GREETING": "421 busy"}, (T, "4.3.2"), (T, "4.3.2"), False),
        ({"GREETING": CUT}, (T, "4.4.2"), (T, "4.4.2"), False),
        ({"GREETING": HANG}, (T, "4.4.2"), (T, "4.4.2"), False),
        ({"GREETING": "nonsense"}, (T, "4.3.2"), (T, "4.3.2"), False),
        ({"EHLO": "550 no", "HELO": "550 no"}, (T, "4.3.2"), (T, "4.3.2"), False),
        ({"EHLO": HANG}, (T, "4.4.2"), (T, "4.4.2"), False),
        ({"MAIL": "451 4.7.1 later"}, (T, "4.7.1"), (T, "4.7.1"), True),
        ({"MAIL": "550 5.7.1 never"}, (P, "5.7.1"), (P, "5.7.1"), True),
        ({"MAIL": HANG}, (T, "4.4.2"), (T, "4.4.2"), False),
        ({"MAIL": CUT}, (T, "4.4.2"), (T, "4.4.2"), False),
        ({f"RCPT TO:<{B}": "550 5.1.1 who"}, (P, "5.1.1"), (D, "2.0.0"), True),
        ({f"RCPT TO:<{B}": "450 4.2.1 greylisted"}, (T, "4.2.1"), (D, "2.0.0"), True),
        ({f"RCPT TO:<{C}": CUT}, (T, "4.4.2"), (T, "4.4.2"), True),
        ({f"RCPT TO:<{C}": HANG}, (T, "4.4.2"), (T, "4.4.2"), True),
        ({f"RCPT TO:<{B}": "550 no", f"RCPT TO:<{C}": "450 no"}, (P, "5.0.0"), (T, "4.0.0"), True),
        ({"DATA": "451 4.3.0 no"}, (T, "4.3.0"), (T, "4.3.0"), True),
        ({"DATA": "554 5.5.1 no"}, (P, "5.5.1"), (P, "5.5.1"), True),
        ({"DATA": "250 what"}, (T, "4.5.0"), (T, "4.5.0"), True),
        ({"DATA": HANG}, (T, "4.4.2"), (T, "4.4.2"), True),
        ({"DATA": CUT}, (T, "4.4.2"), (T, "4.4.2"), True),
        ({"DOT": "452 4.3.1 full"}, (T, "4.3.1"), (T, "4.3.1"), True),
        ({"DOT": "550 5.7.1 spam"}, (P, "5.7.1"), (P, "5.7.1"), True),
        ({"DOT": "550 4.7.1 lying class"}, (P, "5.0.0"), (P, "5.0.0"), True),
        ({"DOT": CUT}, (T, "4.4.2"), (T, "4.4.2"), True),
        ({"DOT": HANG}, (T, "4.4.2"), (T, "4.4.2"), True),
        ({"DOT": "999 what"}, (T, "4.5.0"), (T, "4.5.0"), True),
        ({f"RCPT TO:<{B}": "550 5.1.1 who", "DOT": "452 4.3.1 full"}, (P, "5.1.1"), (T, "4.3.1"), True),
        ({"QUIT": CUT}, (D, "2.0.0"), (D, "2.0.0"), True),
    ],
    ids=str,
)
def test_every_reply_hang_and_cut_is_an_outcome(
    replies: dict[str, str], at_b: tuple[Result, str], at_c: tuple[Result, str], begun: bool
) -> None:
    sent = sent_to(FakeMx(replies))
    assert (results(sent), sent.begun) == ({B: at_b, C: at_c}, begun)


def test_an_old_host_without_ehlo_is_served() -> None:
    assert sent_to(FakeMx({"EHLO": "502 what"}), letter()).outcomes[B].result is Result.DELIVERED


def test_a_reply_without_an_end_is_bounded() -> None:
    sent = sent_to(FakeMx({"MAIL": "\r\n".join(["250-again"] * 5000)}))
    assert sent.outcomes[B].result is Result.TRANSIENT
    assert len(sent.outcomes[B].text) <= 500


@pytest.mark.parametrize(
    "said", ["554 no\x00\x1b[31m", "no\x00\x1b[31mnsense", "554-no\r\n554 \u202eno", "554 " + "x" * 5000]
)
@pytest.mark.parametrize("where", ["GREETING", "EHLO", "AUTH"])
def test_a_host_that_does_not_want_us_says_so_in_one_visible_line(where: str, said: str) -> None:
    """What it says is logged, journaled and told to the sender."""
    mx = FakeMx({where: said, "HELO": said}, extensions=("AUTH PLAIN",))
    outcome = sent_to(mx, user="anna", password="x").outcomes[B]
    assert outcome.result is Result.TRANSIENT
    assert outcome.text.isprintable() and len(outcome.text) <= 500


@pytest.mark.parametrize(
    ("extensions", "transaction", "status"),
    [
        (
            ("SMTPUTF8",),
            {"content": "Received: x\r\nDKIM-Signature: x\r\n\r\ngrå\r\n".encode(), "body_8bit": True},
            "5.6.3",
        ),
        ((), {"content": "Subject: grå\r\n\r\ngrå\r\n".encode(), "body_8bit": True}, "5.6.3"),
        (("8BITMIME",), {"forward_paths": ("grå@example.net",), "smtputf8": True}, "5.6.7"),
        (("8BITMIME",), {"content": "Subject: grå\r\n\r\n".encode(), "smtputf8": True}, "5.6.7"),
        (("8BITMIME",), {"reverse_path": "grå@example.net", "smtputf8": True}, "5.6.7"),
        (("8BITMIME",), {"forward_paths": (B, "grå@grå.example"), "smtputf8": True}, "5.6.7"),
        ((), {"content": b"Received: x\r\nDKIM-Signature: x\r\n\r\n\0", "body_8bit": True, "binary": True}, "5.6.3"),
        (("SIZE 10",), {}, "5.3.4"),
    ],
)
def test_what_the_host_cannot_take_is_not_offered(
    extensions: tuple[str, ...], transaction: dict[str, Any], status: str
) -> None:
    mx = FakeMx(extensions=extensions)
    sent = sent_to(mx, letter(**transaction))
    assert {(outcome.result, outcome.status) for outcome in sent.outcomes.values()} == {(P, status)}
    assert not any(line.startswith("MAIL") for line in mx.commands)


@pytest.mark.parametrize(
    "size", ["\u00b2", "\u0663", "9" * 5000, "0", "-1", "x", "1 2"], ids=lambda size: repr(size[:9])
)
def test_a_size_that_is_no_limit_limits_nothing(size: str) -> None:
    assert sent_to(FakeMx(extensions=(f"SIZE {size}",))).outcomes[B].result is Result.DELIVERED


def test_a_plain_message_passes_a_host_without_extensions_though_its_client_said_smtputf8() -> None:
    sent = sent_to(FakeMx(extensions=()), letter(smtputf8=True, body_8bit=True))
    assert sent.outcomes[B].result is Result.DELIVERED


def test_eight_bit_and_utf8_are_declared() -> None:
    mx = FakeMx()
    path = "grå@example.net"
    sent_to(mx, letter(content="Subject: å\r\n\r\n".encode(), forward_paths=(path,), smtputf8=True))
    assert mx.messages[0][0].endswith(" BODY=8BITMIME SMTPUTF8")
    assert mx.messages[0][1] == [path]


def test_a_host_without_smtputf8_gets_a_domain_by_its_a_labels() -> None:
    mx = FakeMx(extensions=("8BITMIME", "DSN"))
    path = "b@grå.example"
    options = {path: RecipientOptions(("FAILURE",), "utf-8;grå@x.example")}
    sent = sent_to(mx, letter(reverse_path="a@grå.example", forward_paths=(path,), smtputf8=True, options=options))
    assert sent.outcomes[path].result is Result.DELIVERED
    assert mx.messages[0][:2] == ("MAIL FROM:<a@xn--gr-zia.example>", ["b@xn--gr-zia.example"])
    assert "RCPT TO:<b@xn--gr-zia.example> NOTIFY=FAILURE ORCPT=utf-8;gr\\x{E5}@x.example" in mx.commands


def test_the_next_address_is_dialled_when_one_refuses() -> None:
    mx = FakeMx()
    sent = sent_to(mx, addresses=("127.0.0.9", "127.0.0.1"))
    assert sent.outcomes[B].result is Result.DELIVERED


def test_nobody_there_is_transient_and_says_where() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sent = asyncio.run(send(letter(), peer_of(FakeMx(port=unused.getsockname()[1])), "gw", QUICK))
    assert (sent.outcomes[B].result, sent.outcomes[B].status, sent.begun) == (T, "4.4.1", False)
    assert "127.0.0.1" in sent.outcomes[B].text


def test_a_large_message_has_more_time_than_a_small_one() -> None:
    assert QUICK.for_data(16 * 1024 * 60) == QUICK.for_data(0) + 60


def test_the_whole_dialogue_has_an_end() -> None:
    endless = Patience(connect_seconds=60, command_seconds=60, data_seconds=60, whole_seconds=0.3)
    sent = sent_to(FakeMx({"RCPT": HANG}), patience=endless)
    assert results(sent) == {B: (T, "4.4.2"), C: (T, "4.4.2")}


# TLS and AUTH.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "mx.test")


def test_opportunistic_encrypts_without_asking_who_it_is(certificate: tuple[ssl.SSLContext, Path]) -> None:
    mx = FakeMx(starttls=certificate[0])
    assert sent_to(mx, tls="opportunistic", name="other.test").outcomes[B].result is Result.DELIVERED
    assert "STARTTLS" in mx.commands


def test_opportunistic_goes_plain_where_tls_is_broken_and_remembers_it() -> None:
    no_certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def walk() -> None:
        client = SmtpClient()
        mx = FakeMx(starttls=no_certificate)
        async with mx.listening():
            peer = peer_of(mx, tls="opportunistic")
            for _ in range(2):
                sent = await client.send(letter(), peer, "gw.example.org", QUICK)
                assert sent.outcomes[B].result is Result.DELIVERED
        assert mx.commands.count("STARTTLS") == 1
        assert mx.connections == 2  # one that failed, one that both messages went over

    asyncio.run(walk())


def test_opportunistic_goes_plain_where_nothing_is_offered() -> None:
    mx = FakeMx()
    assert sent_to(mx, tls="opportunistic").outcomes[B].result is Result.DELIVERED
    assert mx.connections == 1


@pytest.mark.parametrize(
    ("name", "trusted", "status"),
    [("mx.test", True, "2.0.0"), ("other.test", True, "4.7.5"), ("mx.test", False, "4.7.5")],
)
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_verified_tls_sends_to_the_right_host_only(
    certificate: tuple[ssl.SSLContext, Path], tls: str, name: str, trusted: bool, status: str
) -> None:
    context, path = certificate
    mx = FakeMx(starttls=context) if tls == "starttls" else FakeMx(implicit=context)
    sent = sent_to(mx, tls=tls, name=name, ca_file=str(path) if trusted else None)
    assert sent.outcomes[B].status == status
    assert (len(mx.messages) == 1) is (status == "2.0.0")


def test_an_authority_of_the_sites_own_without_key_identifiers_is_trusted(tmp_path: Path) -> None:
    """Python 3.13 would refuse it (VERIFY_X509_STRICT); other mail servers do not, nor did Python before."""
    path, key = write_certificate(tmp_path, "mx.test")
    sent = sent_to(FakeMx(starttls=server_context(path, key)), tls="starttls", ca_file=str(path))
    assert sent.outcomes[B].status == "2.0.0"


def test_starttls_stripped_on_the_way_is_not_downgraded() -> None:
    mx = FakeMx()
    sent = sent_to(mx, tls="starttls")
    assert (sent.outcomes[B].result, sent.outcomes[B].status) == (T, "4.7.4")
    assert mx.messages == []


def test_a_ca_file_that_cannot_be_read_is_our_trouble() -> None:
    sent = sent_to(FakeMx(), tls="starttls", ca_file="/nonexistent.pem")
    assert (sent.outcomes[B].result, sent.outcomes[B].status) == (T, "4.3.5")


def test_a_password_goes_over_tls(certificate: tuple[ssl.SSLContext, Path]) -> None:
    mx = FakeMx(starttls=certificate[0], extensions=("AUTH PLAIN",))
    sent = sent_to(mx, tls="starttls", ca_file=str(certificate[1]), user="anna", password="pässword")
    assert sent.outcomes[B].result is Result.DELIVERED
    auth = next(line for line in mx.commands if line.startswith("AUTH"))
    assert base64.b64decode(auth.split()[-1]).decode() == "\0anna\0pässword"


def test_a_password_never_goes_in_the_clear_where_tls_was_only_tried() -> None:
    mx = FakeMx(extensions=("AUTH PLAIN",))
    sent = sent_to(mx, tls="opportunistic", user="anna", password="secret")
    assert (sent.outcomes[B].result, sent.outcomes[B].status) == (T, "4.7.0")
    assert not any(line.startswith("AUTH") for line in mx.commands)


def test_a_refused_password_is_transient(certificate: tuple[ssl.SSLContext, Path]) -> None:
    mx = FakeMx({"AUTH": "535 5.7.8 no"}, starttls=certificate[0], extensions=("AUTH PLAIN LOGIN",))
    sent = sent_to(mx, tls="starttls", ca_file=str(certificate[1]), user="anna", password="wrong")
    assert (sent.outcomes[B].result, sent.outcomes[B].status, sent.begun) == (T, "4.7.8", False)
    assert mx.messages == []


def test_a_password_does_not_appear_in_what_is_logged() -> None:
    assert "secret" not in repr(Peer("x", (), 25, user="anna", password="secret"))


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (250, "2.0.0 ok", ("delivered", "2.0.0", "ok")),
        (250, "ok", ("delivered", "2.0.0", "ok")),
        (550, "5.1.1 a\n5.1.1 b", ("permanent", "5.1.1", "a 5.1.1 b")),
        (550, "5.1.1", ("permanent", "5.1.1", "")),
        (450, "5.1.1 wrong class", ("transient", "4.0.0", "5.1.1 wrong class")),
        (354, "go", ("transient", "4.5.0", "unexpected reply 354 go")),
        (-1, "?", ("transient", "4.5.0", "unexpected reply -1 ?")),
        (553, "sorry, no (#5.7.1)", ("permanent", "5.7.1", "sorry, no (#5.7.1)")),
        (451, "qq crashed (#4.3.0)", ("transient", "4.3.0", "qq crashed (#4.3.0)")),
        (451, "see (#5.7.1)", ("transient", "4.0.0", "see (#5.7.1)")),
        (550, "(#5.7.1) and more", ("permanent", "5.0.0", "(#5.7.1) and more")),
        (550, "5.1.1 who (#5.7.1)", ("permanent", "5.1.1", "who (#5.7.1)")),
        (550, "x\x1b[31m\x00\u202e", ("permanent", "5.0.0", "x [31m")),
    ],
)
def test_replies_are_read_carefully(code: int, message: str, expected: tuple[str, str, str]) -> None:
    outcome: Outcome = of_reply(code, message, "mx")
    assert (outcome.result.value, outcome.status, outcome.text) == expected


OTHER = issue(["other.example"])
OURS = issue(["mx.test"], authority())


def tlsa(certificate: Certificate, usage: int) -> tuple[Tlsa, ...]:
    usage, selector, matching, data = certificate.tlsa(usage, 1, 1).split()  # type: ignore[assignment]
    return (Tlsa(int(usage), int(selector), int(matching), bytes.fromhex(data)),)


@pytest.mark.parametrize(
    ("peer", "certificate", "status"),
    [
        ({"tls": "encrypt"}, OTHER, "2.0.0"),
        ({"tls": "dane", "tlsa": tlsa(OTHER, 3)}, OTHER, "2.0.0"),
        ({"tls": "dane", "tlsa": tlsa(OTHER, 3)}, OURS, "4.7.5"),
        ({"tls": "dane", "tlsa": tlsa(authority(), 2)}, OURS, "2.0.0"),
        ({"tls": "dane", "tlsa": tlsa(authority(), 2), "names": ("other.example",)}, OURS, "4.7.5"),
        ({"tls": "dane", "tlsa": ()}, OURS, "4.7.5"),
        ({"tls": "starttls", "ca_file": "CA"}, OURS, "2.0.0"),
        ({"tls": "starttls", "ca_file": "CA", "names": (".test",)}, OURS, "2.0.0"),
        ({"tls": "starttls", "ca_file": "CA", "names": ("other.example",)}, OURS, "4.7.5"),
        ({"tls": "starttls", "ca_file": "CA", "names": ("other.example",)}, OTHER, "4.7.5"),
        ({"tls": "encrypt"}, None, "4.7.4"),
        ({"tls": "dane", "tlsa": tlsa(OTHER, 3)}, None, "4.7.4"),
    ],
)
def test_what_is_demanded_of_tls_is_given_or_nothing_is_sent(
    tmp_path: Path, peer: dict[str, Any], certificate: Certificate | None, status: str
) -> None:
    if "ca_file" in peer:
        peer = peer | {"ca_file": str(tmp_path / "ca.pem")}
        (tmp_path / "ca.pem").write_bytes(authority().pem)
    mx = FakeMx(starttls=certificate.server_context() if certificate else None)
    assert sent_to(mx, **peer).outcomes[B].status == status
    assert bool(mx.messages) == (status == "2.0.0")
    assert [line for line in mx.commands if line.startswith("EHLO")] == ["EHLO gw.example.org"] * (
        2 if mx.messages else 1
    ), "a host that fails hears no second EHLO"


@pytest.mark.parametrize("tls", ["encrypt", "dane", "starttls"])
def test_the_memory_of_broken_hosts_overrides_no_demand(tls: Any) -> None:
    mx = FakeMx(extensions=("STARTTLS",))

    async def walk() -> None:
        client = SmtpClient()
        async with mx.listening():
            plain = await client.send(letter(), peer_of(mx, tls="opportunistic"), "gw.example.org", QUICK)
            assert plain.outcomes[B].result is Result.DELIVERED
            demanded = await client.send(letter(), peer_of(mx, tls=tls), "gw.example.org", QUICK)
            assert demanded.outcomes[B].status == "4.7.5"
        await client.close()

    asyncio.run(walk())
    assert len(mx.messages) == 1


def test_a_connection_is_used_again_only_under_the_same_demands() -> None:
    mx = FakeMx(starttls=OTHER.server_context())

    async def walk() -> None:
        client = SmtpClient()
        async with mx.listening():
            for tls in ("opportunistic", "encrypt", "opportunistic", "encrypt"):
                await client.send(letter(), peer_of(mx, tls=tls), "gw.example.org", QUICK)
            await client.close()

    asyncio.run(walk())
    assert (mx.connections, len(mx.messages)) == (2, 4)


@pytest.mark.parametrize(
    ("mx", "peer", "heard"),
    [
        (FakeMx(), {"tls": "none"}, ["plain"]),
        (FakeMx(), {"tls": "opportunistic"}, ["plain"]),
        (FakeMx(), {"tls": "encrypt"}, ["starttls-not-supported"]),
        (FakeMx(extensions=("STARTTLS",)), {"tls": "opportunistic"}, ["validation-failure", "plain"]),
        (FakeMx(starttls=OTHER.server_context()), {"tls": "opportunistic"}, ["encrypted"]),
        (FakeMx(starttls=OTHER.server_context()), {"tls": "starttls"}, ["certificate-not-trusted"]),
        (FakeMx(starttls=OTHER.server_context()), {"tls": "dane", "tlsa": tlsa(OTHER, 3)}, ["verified"]),
        (
            FakeMx(starttls=OTHER.server_context()),
            {"tls": "opportunistic", "trial": True},
            ["certificate-not-trusted", "encrypted"],
        ),
        (FakeMx(replies={"GREETING": CUT}), {"tls": "starttls"}, []),
    ],
)
def test_how_tls_went_is_told(mx: FakeMx, peer: dict[str, Any], heard: list[str]) -> None:
    told: list[str] = []

    async def walk() -> None:
        client = SmtpClient(lambda _peer, _address, result: told.append(result))
        async with mx.listening():
            await client.send(letter(), peer_of(mx, **peer), "gw.example.org", QUICK)
        await client.close()

    asyncio.run(walk())
    assert told == heard


def test_a_host_that_asks_is_shown_our_certificate(tmp_path: Path) -> None:
    ca, pem, key = tmp_path / "ca.pem", tmp_path / "ours.pem", tmp_path / "ours.key"
    ours = issue(["gw.example.org"], authority())
    for path, octets in ((ca, authority().pem), (pem, ours.pem), (key, ours.key_pem)):
        path.write_bytes(octets)
    for shown, status in ((OwnCertificate(str(pem), str(key)), "2.0.0"), (None, "4.7.0")):
        mx = FakeMx(starttls=OURS.server_context(asks=ca))
        assert sent_to(mx, tls="encrypt", ours=shown).outcomes[B].status == status
