"""Dropped mail goes through acceptance like any other: taken once, put off, or set aside; never lost."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

import pytest

from egressguard.mail.envelope import Envelope
from egressguard.mail.reply import Reply
from egressguard.relay.pickup import RETRY_SECONDS, Pickup
from egressguard.smtp.hooks import SessionFacts
from egressguard.store.content import Content
from egressguard.store.drop import Dropped, put

OK, LATER, NO = Reply(250, "2.0.0", "ok"), Reply(451, "4.3.0", "later"), Reply(550, "5.7.1", "no")


class Acceptor:
    def __init__(self, recipient: Reply = OK, message: Reply = OK) -> None:
        self.recipient, self.message = recipient, message
        self.taken: list[tuple[SessionFacts, Envelope, bytes]] = []

    def on_recipient(self, _session: SessionFacts, _from: str, _to: str, _size: int | None) -> Reply:
        return self.recipient

    async def on_message(self, session: SessionFacts, envelope: Envelope, content: Content) -> Reply:
        self.taken.append((session, envelope, content.whole()))
        return self.message


class Scripts:
    """What the owner may say, what is against it, and what can be kept."""

    def __init__(self, *, may: bool = True, why: str = "", keeps: bool = True) -> None:
        self.may, self.why, self.keeps = may, why, keeps
        self.trouble: OSError | None = None
        self.kept: list[tuple[str, str]] = []

    def may_speak(self, _dropped: Dropped) -> bool:
        return self.may

    def why_not(self, _dropped: Dropped) -> str:
        return self.why

    async def keep(self, dropped: Dropped, why: str) -> bool:
        if self.trouble is not None:
            raise self.trouble
        self.kept.append((dropped.account, why))
        return self.keeps


class Place:
    def __init__(self, folder: Path, acceptor: Acceptor, scripts: Scripts | None = None) -> None:
        self.folder, self.now = folder, 1000.0
        self.rows: list[tuple[str, Mapping[str, object]]] = []
        self.pickup = Pickup(
            folder,
            acceptor,
            scripts or Scripts(),
            lambda kind, fields: self.rows.append((kind, fields)),
            max_octets=lambda: 1000,
            clock=lambda: self.now,
        )

    def look(self) -> list[str]:
        asyncio.run(self.pickup.look())
        return sorted(path.suffix for path in self.folder.iterdir())


def test_it_is_taken_as_its_owners_and_gone(tmp_path: Path) -> None:
    acceptor = Acceptor()
    name = put(tmp_path, "cron", ("root@far.example", "ä@far.example"), b"Subject: x\r\n\r\n\xff\r\n")

    assert Place(tmp_path, acceptor).look() == []
    ((session, envelope, content),) = acceptor.taken
    assert (session.user, session.source_id) == (pwd.getpwuid(os.getuid()).pw_name, f"drop:{name}")
    assert (str(session.client), session.kind, session.listener) == ("127.0.0.1", "submission", "drop")
    assert envelope == Envelope("cron@localhost", ("root@far.example", "ä@far.example"), smtputf8=True, body_8bit=True)
    assert content == b"Subject: x\r\n\r\n\xff\r\n"


def test_what_is_put_off_is_tried_again_later(tmp_path: Path) -> None:
    acceptor = Acceptor(message=LATER)
    place = Place(tmp_path, acceptor)
    put(tmp_path, "", ("root@far.example",), b"x")

    assert place.look() == [".msg"] and place.look() == [".msg"]
    assert len(acceptor.taken) == 1
    place.now += RETRY_SECONDS
    acceptor.message = OK
    assert place.look() == []
    assert len(acceptor.taken) == 2


def test_what_is_refused_or_no_message_is_set_aside_and_told(tmp_path: Path) -> None:
    acceptor = Acceptor(recipient=NO)
    place = Place(tmp_path, acceptor)
    put(tmp_path, "", ("root@far.example",), b"x")
    put(tmp_path, "", ("no address at all",), b"x")
    (tmp_path / "rubbish.msg").write_bytes(b"rubbish")
    (tmp_path / ".half.part").write_bytes(b"half")

    assert place.look() == [".part", ".refused", ".refused", ".refused"]
    assert acceptor.taken == []
    assert [kind for kind, _ in place.rows] == ["mail.refused"] * 3
    assert place.look() == [".part", ".refused", ".refused", ".refused"]


def of_script(folder: Path) -> None:
    put(folder, "anna@here.example", ("carl@far.example",), b"Subject: x\r\n\r\ny\r\n", "anna")


def test_what_a_script_sends_is_judged_as_its_account_s(tmp_path: Path) -> None:
    acceptor, scripts = Acceptor(), Scripts()
    of_script(tmp_path)

    assert Place(tmp_path, acceptor, scripts).look() == []
    assert [session.user for session, _, _ in acceptor.taken] == ["anna"]
    assert scripts.kept == []


def test_who_may_not_speak_for_accounts_gets_nothing_taken(tmp_path: Path) -> None:
    acceptor = Acceptor()
    of_script(tmp_path)

    assert Place(tmp_path, acceptor, Scripts(may=False)).look() == [".refused"]
    assert acceptor.taken == []


@pytest.mark.parametrize(
    ("acceptor", "why", "kept"),
    [
        (Acceptor(), "not out of here", "not out of here"),
        (Acceptor(recipient=NO), "", "550 5.7.1 no"),
        (Acceptor(message=NO), "", "550 5.7.1 no"),
    ],
)
def test_what_a_script_may_not_send_on_is_kept(tmp_path: Path, acceptor: Acceptor, why: str, kept: str) -> None:
    scripts = Scripts(why=why)
    of_script(tmp_path)

    assert Place(tmp_path, acceptor, scripts).look() == []
    assert scripts.kept == [("anna", kept)]
    assert len(acceptor.taken) == (acceptor.message is NO)


def test_a_reply_that_is_refused_is_set_aside(tmp_path: Path) -> None:
    of_script(tmp_path)

    assert Place(tmp_path, Acceptor(message=NO), Scripts(keeps=False)).look() == [".refused"]


def test_what_cannot_be_kept_now_waits(tmp_path: Path) -> None:
    scripts = Scripts(why="no")
    scripts.trouble = OSError(28, "No space left on device")
    place = Place(tmp_path, Acceptor(), scripts)
    of_script(tmp_path)

    assert place.look() == [".msg"]
    scripts.trouble, place.now = None, place.now + RETRY_SECONDS
    assert place.look() == []
    assert len(scripts.kept) == 1
