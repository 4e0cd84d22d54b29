"""Hosts with every bad manner: the right outcome for each recipient, an end in time, a bound to what is listened to,
and nothing of it left for the next message."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from egressguard.mail.outcome import Result
from egressguard.smtp import pool
from egressguard.smtp.client import Patience, Peer, Sent, SmtpClient, Transaction
from egressguard.store.content import Content
from tests.smtp.fake_mx import ALERT, CUT, ENDLESS, FIN, HANG, RESET, FakeMx, make_certificate

B, C = "b@example.net", "c@example.net"
AT_B = f"RCPT TO:<{B}"
QUICK = Patience(connect_seconds=0.2, command_seconds=0.2, data_seconds=0.2, whole_seconds=2)
PATIENT = Patience(connect_seconds=20, command_seconds=20, data_seconds=20, whole_seconds=60)
MOST_SECONDS = 100  # far less than the hour of a host that hangs
MOST_HEARD_OCTETS = 32 * 1024 * 1024  # what the kernel's buffers on both sides may swallow, and then some
VERBS = ("MAIL", "RCPT", "DATA", "CONTENT", "DOT")
SMALL = b"Subject: x\r\n\r\n.hello\r\n..\r\n"
T, P, D = Result.TRANSIENT, Result.PERMANENT, Result.DELIVERED


@pytest.fixture(params=[(), ("PIPELINING",)], ids=["one-by-one", "pipelining"])
def extensions(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return ("8BITMIME", *request.param)


@pytest.fixture(autouse=True)
def nobody_waits_for_a_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "QUIT_SECONDS", 0.2)


def letter(content: Content | None = None) -> Transaction:
    return Transaction("a@example.org", (B, C), content or Content.of(SMALL))


def large(folder: Path) -> Content:
    """More than the kernel's buffers take, from a file, as the spool has it."""
    octets = (b"y" * 998 + b"\r\n") * 16_000
    path = folder / "content"
    path.write_bytes(octets)
    return Content(file=path, file_octets=len(octets))


def met(
    mx: FakeMx,
    transaction: Transaction | None = None,
    patience: Patience | None = None,
    *,
    mended: bool = False,
    tls: str = "none",
) -> list[Sent]:
    """What became of a message at this host; with `mended` of another one, sent when it has learned manners.

    Who hangs is waited for shortly, all others as long as a slow machine may need."""
    patience = patience or (QUICK if HANG in mx.replies.values() else PATIENT)

    async def walk() -> list[Sent]:
        client = SmtpClient()
        async with mx.listening(), asyncio.timeout(MOST_SECONDS):
            peer = Peer("mx.test", ("127.0.0.1",), mx.port, tls)  # type: ignore[arg-type]
            sent = [await client.send(transaction or letter(), peer, "gw.example.org", patience)]
            if mended:
                mx.replies, mx.leaves_after = {}, ()
                sent.append(await client.send(letter(), peer, "gw.example.org", PATIENT))
            await client.close()
            return sent

    return asyncio.run(walk())


def results(sent: Sent) -> tuple[Result, Result]:
    return sent.outcomes[B].result, sent.outcomes[C].result


ROWS: list[tuple[dict[str, str], Result, Result]] = [
    # It ends the connection: before the dot nothing was handed over, behind it that is in doubt. Both mean later.
    *(({verb: manner}, T, T) for verb in ("GREETING", "EHLO", *VERBS) for manner in (HANG, CUT, FIN, RESET)),
    *(({"QUIT": manner}, D, D) for manner in (HANG, CUT, FIN, RESET, ENDLESS, "550 5.5.0 no", "rubbish")),
    # It refuses, for now or for good.
    *(({verb: "421 4.3.2 closing"}, T, T) for verb in ("GREETING", "EHLO", *VERBS)),
    *(({verb: "451 4.3.0 later"}, T, T) for verb in ("GREETING", *VERBS)),
    *(({verb: "550 5.7.1 never"}, P, P) for verb in VERBS),
    ({"GREETING": "554 5.7.1 never"}, T, T),  # it speaks for this host only
    ({AT_B: "450 4.2.1 later"}, T, D),
    ({AT_B: "550 5.1.1 who"}, P, D),
    ({AT_B: "421 4.3.2 closing"}, T, D),
    ({AT_B: "550 5.1.1 who", "RCPT": "450 4.2.1 later"}, P, T),
    ({AT_B: "450 4.2.1 later", "RCPT": "550 5.1.1 who"}, T, P),
    ({AT_B: "550 5.1.1 who", "DATA": "451 4.3.0 later"}, P, T),
    ({AT_B: "450 4.2.1 later", "DATA": "554 5.5.1 no"}, T, P),
    ({AT_B: "550 5.1.1 who", "DOT": "452 4.3.1 full"}, P, T),
    ({AT_B: "450 4.2.1 later", "DOT": "550 5.7.1 spam"}, T, P),
    ({AT_B: "550 5.1.1 who", "DOT": CUT}, P, T),
    ({AT_B: "550 5.1.1 who", "CONTENT": FIN}, P, T),
    # Codes that do not belong there.
    ({"": "354 go"}, T, T),
    ({"": "250 ok"}, T, T),
    *(({verb: "354 go"}, T, T) for verb in ("GREETING", "MAIL", "RCPT", "DOT")),
    *(({"DATA": said}, T, T) for said in ("220 what", "250 what", "200", "353 go", "334 go")),
    *(({verb: said}, T, T) for verb in VERBS for said in ("150 wait", "000 what", "999 what", "334 go")),
    # What is no reply.
    *(({verb: "rubbish"}, T, T) for verb in ("GREETING", "EHLO", *VERBS)),
    *(({verb: ""}, T, T) for verb in ("GREETING", "EHLO", *VERBS)),
    *(({verb: "250 ok\r\n\0\x7f rubbish"}, T, T) for verb in ("MAIL", "RCPT")),
    ({"DATA": "354 go\r\nrubbish"}, T, T),
    ({"DOT": "250 2.0.0 taken\r\nrubbish"}, D, D),  # it has taken it, whatever it says then
    ({"DOT": "250-2.0.0 taken\r\nrubbish"}, T, T),
    # Answers ahead of the question: which is whose cannot be told.
    ({"MAIL": "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken"}, T, T),
    ({AT_B: "550 5.1.1 who\r\n550 5.1.1 who"}, T, T),
    ({"DATA": "354 go\r\n250 taken"}, T, T),
]


@pytest.mark.parametrize(("manners", "at_b", "at_c"), ROWS, ids=str)
def test_each_recipient_has_the_outcome_it_must_and_the_next_message_nothing_of_it(
    manners: dict[str, str], at_b: Result, at_c: Result, extensions: tuple[str, ...]
) -> None:
    first, second = met(FakeMx(dict(manners), extensions=extensions), mended=True)
    assert results(first) == (at_b, at_c)
    assert results(second) == (D, D)


def test_a_refusal_behind_an_answer_too_many_is_not_believed() -> None:
    """It may be another recipient's. (Who pipelines sees that only where the answers come together.)"""
    mx = FakeMx({AT_B: "250 ok\r\n250 ok", "RCPT": "550 5.1.1 who"})
    assert results(met(mx)[0]) == (T, T)


@pytest.mark.parametrize("verb", ["GREETING", "EHLO", *VERBS])
@pytest.mark.parametrize("said", ["421 4.3.2 closing", "421 4.3.2 closing\r\n421 bye"])
def test_a_host_that_says_421_and_hangs_up_is_tried_again(verb: str, said: str, extensions: tuple[str, ...]) -> None:
    mx = FakeMx({verb: said}, extensions=extensions, leaves_after=(verb,))
    first, second = met(mx, mended=True)
    assert (results(first), results(second)) == ((T, T), (D, D))


def test_what_was_said_of_a_recipient_before_the_goodbye_stands(extensions: tuple[str, ...]) -> None:
    mx = FakeMx(
        {AT_B: "550 5.1.1 who", f"RCPT TO:<{C}": "421 bye"}, extensions=extensions, leaves_after=("RCPT TO:<C",)
    )
    assert results(met(mx)[0]) == (P, T)


@pytest.mark.parametrize("said", ["552 5.3.4 too large", "452 4.3.1 full", "250 2.0.0 thanks", "421 4.3.2 closing"])
@pytest.mark.parametrize("leaves", [(), ("CONTENT",)], ids=["stays", "leaves"])
def test_an_answer_in_the_middle_of_the_message_may_refuse_it_but_not_take_it(
    said: str, leaves: tuple[str, ...], tmp_path: Path
) -> None:
    mx = FakeMx({"CONTENT": said}, leaves_after=leaves, extensions=())
    (sent,) = met(mx, letter(large(tmp_path)))
    assert results(sent) == ((P, P) if said.startswith("5") else (T, T))


def test_a_host_that_stops_reading_is_left(tmp_path: Path, extensions: tuple[str, ...]) -> None:
    (sent,) = met(FakeMx({"CONTENT": HANG}, extensions=extensions), letter(large(tmp_path)))
    assert results(sent) == (T, T)


@pytest.mark.parametrize("verb", ["GREETING", "EHLO", *VERBS, "QUIT"])
@pytest.mark.parametrize("said", [ENDLESS, "250 " + "x" * 100_000, "x" * 100_000], ids=lambda said: said[:7])
def test_a_host_that_talks_without_end_is_not_listened_to(verb: str, said: str) -> None:
    mx = FakeMx({verb: said})
    (sent,) = met(mx)
    assert results(sent) == ((D, D) if verb == "QUIT" else (T, T))
    assert mx.said_octets < MOST_HEARD_OCTETS
    assert len(sent.outcomes[B].text) <= 500


def test_one_octet_at_a_time_is_not_an_answer_in_time(extensions: tuple[str, ...]) -> None:
    mx = FakeMx(drip_seconds=0.02, extensions=extensions)
    (sent,) = met(mx, patience=QUICK)
    assert results(sent) == (T, T) and mx.messages == []
    assert mx.said_octets < 20


def test_answers_that_each_come_in_time_have_an_end_together(extensions: tuple[str, ...]) -> None:
    """Half a second for all of them; each one alone might take a minute."""
    mx = FakeMx(delays={"RCPT": 0.3}, extensions=extensions)
    patience = Patience(60, 60, 60, whole_seconds=0.4)
    (sent,) = met(mx, patience=patience)
    assert results(sent) == (T, T) and mx.messages == []


@pytest.mark.parametrize("verb", ["GREETING", "EHLO", *VERBS[:3], "DOT", ""])
def test_a_host_that_takes_its_time_is_waited_for(verb: str) -> None:
    (sent,) = met(FakeMx(delays={verb: 0.03}))
    assert results(sent) == (D, D)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return make_certificate(tmp_path_factory.mktemp("tls"), "mx.test")[0]


@pytest.mark.parametrize("manner", [ALERT, CUT, FIN, RESET])
@pytest.mark.parametrize("verb", VERBS)
def test_tls_that_breaks_in_mid_transaction_is_tried_again(
    verb: str, manner: str, tls: ssl.SSLContext, extensions: tuple[str, ...]
) -> None:
    mx = FakeMx({verb: manner}, extensions=extensions, starttls=tls)
    first, second = met(mx, mended=True, tls="opportunistic")
    assert (results(first), results(second)) == ((T, T), (D, D))
    assert mx.commands.count("STARTTLS") == 2  # the second message was not sent in the clear for it


STARTTLS_ANSWERS = ("250 what", "354 go", "421 4.3.2 closing", "454 4.7.0 later", "502 5.5.1 no", "rubbish", "")


@pytest.mark.parametrize("said", [HANG, CUT, FIN, RESET, ENDLESS, *STARTTLS_ANSWERS, "220 go\r\n250 injected"])
def test_where_tls_must_be_no_word_of_a_message_goes_without(said: str, tls: ssl.SSLContext) -> None:
    mx = FakeMx({"STARTTLS": said}, starttls=tls)
    (sent,) = met(mx, tls="starttls")
    assert results(sent) == (T, T)
    assert not any(line.startswith(("MAIL", "RCPT", "DATA")) for line in mx.commands)


@pytest.mark.parametrize("said", [HANG, CUT, FIN, RESET, "454 4.7.0 later", "rubbish"])
def test_where_tls_may_be_a_host_that_breaks_it_gets_its_mail_once_or_later(said: str, tls: ssl.SSLContext) -> None:
    mx = FakeMx({"STARTTLS": said}, starttls=tls)
    (sent,) = met(mx, tls="opportunistic")
    assert results(sent) in {(D, D), (T, T)}
    assert len(mx.messages) == (results(sent) == (D, D))
