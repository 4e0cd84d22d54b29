"""The resolver of checks: answers as values, one question for all, and a bound for each who asks."""

from __future__ import annotations

import asyncio

import pytest

from egressguard.senderauth.resolver import FAILED, MOST_RECORDS, NOTHING, Questions, Records, TooManyQuestions
from tests.senderauth.nameserver import NameServer, running
from tests.senderauth.signing import txt

ZONE = (
    "host.example. 300 A 192.0.2.1\nhost.example. 300 AAAA 2001:db8::1\n"
    "host.example. 300 MX 10 Mail.host.example.\nnull.example. 300 MX 0 .\n"
    "1.2.0.192.in-addr.arpa. 300 PTR host.example.\nalias.example. 300 CNAME host.example.\n"
    + txt("host.example", "x" * 3000)
    + "".join(f"many.example. 300 A 10.0.{i // 256}.{i % 256}\n" for i in range(MOST_RECORDS + 1))
    + r'a\.b.example. 300 TXT "one label with a full stop"' + "\n"
)  # fmt: skip


def ask(*questions: tuple[str, str]) -> tuple[list[Records], NameServer]:
    server = NameServer(ZONE, failing=["failing.example"], silent=["silent.example"])

    async def asked() -> list[Records]:
        async with running(server, lifetime_seconds=1.0) as resolver:
            return await asyncio.gather(*(resolver.ask(name, kind) for name, kind in questions))

    return asyncio.run(asked()), server


@pytest.mark.parametrize(
    ("name", "kind", "records"),
    [
        ("host.example", "A", Records(("192.0.2.1",))),
        ("HOST.example.", "AAAA", Records(("2001:db8::1",))),
        ("alias.example", "A", Records(("192.0.2.1",))),
        ("host.example", "MX", Records(((10, "Mail.host.example"),))),
        ("null.example", "MX", Records(((0, "."),))),
        ("1.2.0.192.in-addr.arpa", "PTR", Records(("host.example",))),
        ("host.example", "TXT", Records((b"x" * 3000,))),  # comes by TCP
        ("example", "A", NOTHING),
        ("nowhere.example", "A", NOTHING),
        ("a.b.example", "TXT", NOTHING),
        ("a\\.b.example", "TXT", NOTHING),  # a backslash of others is no escape
        ("a..example", "TXT", NOTHING),
        ("x" * 64 + ".example", "TXT", NOTHING),
        ("x." * 130 + "example", "TXT", NOTHING),
        ("\udcff.example", "TXT", NOTHING),
        ("ä b\0.example", "TXT", NOTHING),
        ("failing.example", "A", FAILED),
        ("silent.example", "A", FAILED),
        ("many.example", "A", FAILED),
    ],
)
def test_answers_are_values(name: str, kind: str, records: Records) -> None:
    assert ask((name, kind))[0] == [records]


def test_all_who_ask_the_same_share_a_question() -> None:
    found, server = ask(*[("host.example", "A")] * 20, ("Host.Example", "A"))
    assert set(found) == {Records(("192.0.2.1",))}
    assert server.asked == {("host.example.", "A"): 1}


def test_questions_run_out() -> None:
    async def asked() -> None:
        async with running(NameServer(ZONE)) as resolver:
            questions = Questions(resolver, 2)
            await questions.ask("host.example", "A")
            await questions.ask("host.example", "A")
            with pytest.raises(TooManyQuestions):
                await questions.ask("host.example", "A")

    asyncio.run(asked())
