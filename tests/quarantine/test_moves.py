"""Views of the quarantine, and orders given by moving what they show: with the real quarantine and the real spool.

What a mail program does is done here as Dovecot was seen to do it: a hard link into the folder, and the view's goes."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from prometheus_client import CollectorRegistry

from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.quarantine.hold import Quarantine
from egressguard.quarantine.moves import Moves
from egressguard.quarantine.order import RELEASE, Order
from egressguard.quarantine.showing import REBUILD_SECONDS, Showing
from egressguard.quarantine.views import Views
from egressguard.store.content import Content
from egressguard.store.interface import SpoolBroken
from egressguard.store.spool import SqliteSpool

T = TypeVar("T")
ANNA, BERT, FAR = "anna@site.example", "bert@site.example", "carl@far.example"
ONE, TWO = "0MWSXUK70000DWBB", "0MWSXUK70000DWCC"
CONTENT = b"Subject: held\r\n\r\nbody\r\n"
BOTH = "{quarantine_admins: [boss], own_quarantine: {}}"


class House:
    """A quarantine with its views, and a clock that the test sets."""

    def __init__(self, root: Path, spool: SqliteSpool, access: str = BOTH) -> None:
        self.root, self.spool, self.access = root, spool, access
        self.accounts = {"anna", "bert", "boss"}
        self.now = 0.0
        self.journal: list[tuple[str, dict[str, Any]]] = []
        self.start()

    def start(self) -> None:
        self.showing = Showing(
            Views(self.root / "q" / "views"),
            self.policy,
            self.account_of,
            lambda: self.accounts,
            clock=lambda: self.now,
        )
        self.quarantine = Quarantine(
            self.root / "q", self.spool, self.record, CollectorRegistry(), viewer=self.showing, clock=lambda: 1000.0
        )
        self.moves = Moves(self.quarantine, self.showing)

    def policy(self) -> Policy:
        site = (
            f"site:\n  zones: {{lan: {{networks: 192.0.2.0/24}}}}\n  domains: [site.example]\n  access: {self.access}\n"
        )
        loaded = parse_rules({"site.yaml": site.encode()})
        assert loaded.policy is not None, loaded.faults
        return loaded.policy

    def account_of(self, _policy: Policy, path: str) -> str | None:
        name = path.partition("@")[0]
        return name if name in self.accounts else None

    def record(self, kind: str, fields: Any) -> None:
        self.journal.append((kind, dict(fields)))

    async def settle(self) -> None:
        await self.moves.look(everywhere=True)
        self.now += REBUILD_SECONDS
        await self.showing.bring_up_to_date(self.quarantine.every)

    async def hold(self, message_id: str = ONE, folder: str = "Held", **facts: Any) -> None:
        told = {"reverse_path": FAR, "forward_paths": [ANNA, BERT], "client": "203.0.113.9", "user": None}
        told |= {"rule": "r", "findings": []} | facts
        await self.quarantine.hold(message_id, folder, Content.of(CONTENT), told)

    def seen(self) -> dict[str, list[str]]:
        """By view's folder, the ids that are shown."""
        views = self.root / "q" / "views"
        found: dict[str, list[str]] = {}
        for path in sorted(views.glob("*/**/*,S=*")):
            part = path.relative_to(views).parts
            found.setdefault("/".join(part[:-2]), []).append(path.name.split(".")[1].partition(",")[0][1:])
        return found

    def move(self, view: str, account: str, order: str, message_id: str = ONE) -> None:
        """As Dovecot does MOVE."""
        views = self.root / "q" / "views"
        (source,) = (path for part in ("new", "cur") for path in (views / view / part).glob(f"*.Q{message_id}.*"))
        os.link(source, views / "own" / account / f".{order}" / "new" / source.name)
        source.unlink()

    async def spooled(self) -> list[list[str]]:
        return [[r["address"] for r in row["recipients"]] for row in await self.spool.rows(100)]

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [fields for told, fields in self.journal if told == kind]


def with_house(folder: Path, work: Callable[[House], Awaitable[T]], access: str = BOTH) -> T:
    spool = SqliteSpool(folder / "spool")
    try:

        async def run() -> T:
            house = House(folder, spool, access)
            await house.settle()
            return await work(house)

        return asyncio.run(run())
    finally:
        spool.close()


SHOWN = {"all/.Held": [ONE], "own/anna/.Held": [ONE], "own/bert/.Held": [ONE]}


def test_what_is_held_is_seen_at_once_by_those_whose_it_is(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        assert house.seen() == SHOWN
        await house.hold(TWO, "Infected")
        assert house.seen() == SHOWN | {"all/.Infected": [TWO]}
        (path,) = (tmp_path / "q/views/own/anna/.Held/new").iterdir()
        assert path.samefile(tmp_path / "q/.Held/new" / path.name)

    with_house(tmp_path, work)


def test_what_is_released_or_deleted_is_seen_no_more_whatever_flags_it_got(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        await house.hold(TWO)
        (path,) = (tmp_path / "q/views/own/anna/.Held/new").glob(f"*{ONE}*")
        path.rename(path.parent.parent / "cur" / f"{path.name}:2,FS")
        await house.quarantine.release(ONE, "root")
        await house.settle()
        assert house.seen() == {folder: [TWO] for folder in SHOWN}
        await house.quarantine.delete(TWO, "root")
        await house.settle()
        assert house.seen() == {}

    with_house(tmp_path, work)


def test_views_are_exact_again_after_anything_was_done_to_them(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        views = tmp_path / "q" / "views"
        (path,) = (views / "own/anna/.Held/new").iterdir()
        os.link(path, views / "own/anna/.Held/cur/1000.QAAAAAAAA.x,S=1:2,")
        path.unlink()
        for folder in (views / "all", views / "own" / "bert"):
            for one in sorted(folder.rglob("*"), reverse=True):
                one.unlink() if one.is_file() else one.rmdir()
        house.showing.out_of_date()
        await house.settle()
        assert house.seen() == SHOWN

    with_house(tmp_path, work)


def test_views_follow_accounts_and_policy(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        house.accounts.discard("bert")
        await house.settle()
        assert house.seen() == {folder: [ONE] for folder in ("all/.Held", "own/anna/.Held")}
        house.access = "{quarantine_admins: [boss]}"
        await house.settle()
        assert house.seen() == {"all/.Held": [ONE]}
        assert house.showing.views.accounts() == ["boss"]
        house.access = "{}"
        await house.settle()
        assert house.seen() == {}
        assert house.showing.views.accounts() == []
        house.access = BOTH
        house.accounts.add("bert")
        await house.settle()
        assert house.seen() == SHOWN

    with_house(tmp_path, work)


def test_without_admins_and_owners_there_are_no_views(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        await house.settle()
        assert not (tmp_path / "q" / "views").exists()

    with_house(tmp_path, work, access="{}")


def test_an_admin_s_move_releases_to_all_once(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        house.move("all/.Held", "boss", "Release")
        assert await house.moves.look(everywhere=True) == 1
        assert await house.moves.look(everywhere=True) == 0
        await house.settle()

        assert await house.spooled() == [[ANNA, BERT]]
        (told,) = house.told("quarantine.release")
        assert (told["by"], told["why"]) == ("boss (IMAP)", "moved by a mail program")
        assert house.seen() == {}
        assert await house.quarantine.rows() == []

    with_house(tmp_path, work)


def test_an_admin_s_move_deletes(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        house.move("all/.Held", "boss", "Delete")
        await house.settle()

        assert await house.spooled() == []
        assert [told["by"] for told in house.told("quarantine.delete")] == ["boss (IMAP)"]
        assert house.seen() == {}

    with_house(tmp_path, work)


def test_a_recipient_releases_to_himself_and_the_others_wait(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        house.move("own/anna/.Held", "anna", "Release")
        await house.settle()

        assert await house.spooled() == [[ANNA]]
        assert house.seen() == {"all/.Held": [ONE], "own/bert/.Held": [ONE]}
        house.move("own/bert/.Held", "bert", "Release")
        await house.settle()
        assert sorted(await house.spooled()) == [[ANNA], [BERT]]
        assert house.seen() == {}

    with_house(tmp_path, work)


def test_a_recipient_who_deletes_declines_for_himself(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        house.move("own/anna/.Held", "anna", "Delete")
        await house.settle()
        assert (await house.quarantine.rows())[0]["declined"] == [ANNA]
        assert house.seen() == {"all/.Held": [ONE], "own/bert/.Held": [ONE]}

        house.move("all/.Held", "boss", "Release")
        await house.settle()
        assert await house.spooled() == [[BERT]]

    with_house(tmp_path, work)


def test_when_the_last_recipient_declines_it_is_gone(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold(forward_paths=[ANNA])
        house.move("own/anna/.Held", "anna", "Delete")
        await house.settle()
        assert await house.quarantine.rows() == []
        assert house.seen() == {}

    with_house(tmp_path, work)


@pytest.mark.parametrize(("senders", "released"), [("see", []), ("release", [[FAR]])])
def test_a_sender_releases_only_where_the_rules_say_so(senders: str, released: list[list[str]], tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold(forward_paths=[FAR], user="anna")
        house.move("own/anna/.Held", "anna", "Release")
        await house.settle()

        assert await house.spooled() == released
        assert house.seen() == ({} if released else {"own/anna/.Held": [ONE]})
        assert [told["by"] for told in house.told("quarantine.refuse")] == ([] if released else ["anna (IMAP)"])

    with_house(tmp_path, work, access=f"{{own_quarantine: {{senders: {senders}}}}}")


def test_what_was_appended_or_is_somebody_else_s_is_no_order(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold(forward_paths=[BERT])
        place = tmp_path / "q/views/own/anna/.Release/new"
        (place / "1000.M1P2.gw,S=1").write_bytes(CONTENT)  # as APPEND names it
        (place / f"1000.Q{ONE}.gw,S=1").write_bytes(CONTENT)  # the right name, another file
        (place / f"1001.Q{ONE}.gw,S=1:2,S").hardlink_to(next((tmp_path / "q/views/own/bert/.Held/new").iterdir()))
        await house.settle()

        assert await house.spooled() == []
        assert list(place.iterdir()) == []
        assert len(house.told("quarantine.refuse")) == 3
        assert house.seen() == {"all/.Held": [ONE], "own/bert/.Held": [ONE]}

    with_house(tmp_path, work)


def test_an_order_that_a_crash_left_is_carried_out_once_after_the_start(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        house.move("all/.Held", "boss", "Release")
        (entry,) = (tmp_path / "q/views/own/boss/.Release/new").iterdir()
        kept = tmp_path / "kept"
        os.link(entry, kept)
        await house.settle()
        os.link(kept, entry)  # as if the process had died before it could unlink
        house.start()
        await house.settle()

        assert await house.spooled() == [[ANNA, BERT]]
        assert not entry.exists()

    with_house(tmp_path, work)


def test_an_order_waits_while_the_spool_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(house: House) -> None:
        async def broken(*_arguments: object, **_more: object) -> str:
            raise SpoolBroken("disk")

        await house.hold()
        house.move("own/anna/.Held", "anna", "Release")
        with monkeypatch.context() as patch:
            patch.setattr(house.spool, "put", broken)
            assert await house.moves.look(everywhere=True) == 0
        assert await house.spooled() == []

        await house.moves.look(everywhere=True)
        await house.settle()
        assert await house.spooled() == [[ANNA]]
        assert list((tmp_path / "q/views/own/anna/.Release/new").iterdir()) == []

    with_house(tmp_path, work)


def test_a_hint_makes_it_look_there_and_nowhere_else(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        house.move("own/anna/.Held", "anna", "Release")
        house.move("own/bert/.Held", "bert", "Release")
        house.moves.look_soon(["anna", "../bert", "nobody", "*"])
        assert house.moves.awake.is_set()
        await house.moves.look(everywhere=False)
        assert await house.spooled() == [[ANNA]]
        assert not house.moves.awake.is_set()

    with_house(tmp_path, work)


def test_a_view_that_cannot_be_written_keeps_nothing_from_being_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(house: House) -> None:
        def broken(*_arguments: object) -> None:
            raise OSError("EIO")

        with monkeypatch.context() as patch:
            patch.setattr(os, "link", broken)
            await house.hold()
        assert house.seen() == {}
        assert len(await house.quarantine.rows()) == 1
        await house.settle()
        assert house.seen() == SHOWN

    with_house(tmp_path, work)


def test_users_cannot_make_all_views_be_made_anew_all_the_time(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        asked = 0

        def every() -> Any:
            nonlocal asked
            asked += 1
            return house.quarantine.every()

        for _ in range(10):
            house.showing.out_of_date()
            await house.showing.bring_up_to_date(every)
        assert asked == 0
        house.now += REBUILD_SECONDS
        await house.showing.bring_up_to_date(every)
        assert asked == 1

    with_house(tmp_path, work)


def test_nobody_waits_while_all_views_are_made_anew(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold(TWO)

        def every() -> Any:
            yield from house.quarantine.every()
            # In the middle of it, from another thread, as the quarantine does: a lock that waits would never end.
            ending = threading.Thread(target=lambda: asyncio.run(house.hold()))
            ending.start()
            ending.join(20)
            assert not ending.is_alive()
            house.showing.given_up(house.quarantine._index.find(TWO))  # type: ignore[arg-type]

        house.showing.out_of_date()
        house.now += REBUILD_SECONDS
        await house.showing.bring_up_to_date(every)
        assert {folder: ids for folder, ids in house.seen().items() if ONE in ids}.keys() == SHOWN.keys()
        await house.showing.bring_up_to_date(every)
        assert house.seen() == SHOWN

    with_house(tmp_path, work)


def test_part_of_a_release_by_hand_is_seen_too(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        await house.hold()
        await house.quarantine.act(Order(RELEASE, ONE, "root", recipients=(ANNA,)))
        await house.settle()
        assert house.seen() == {"all/.Held": [ONE], "own/bert/.Held": [ONE]}

    with_house(tmp_path, work)
