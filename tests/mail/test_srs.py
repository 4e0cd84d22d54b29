"""SRS: there and back, over several hosts; what is forged, old or does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egressguard.mail.srs import DAYS, Unfit, is_rewritten, restored, rewritten

SECRET, OTHER, DAY = b"sixteen octets of it", b"another secret of ours", 20_000
PATH = "anna@sender.example"


def made(path: str = PATH, domain: str = "ours.example", secret: bytes = SECRET, day: int = DAY) -> str:
    found = rewritten(path, domain, secret, day)
    assert found is not None
    return found


def test_there_and_back() -> None:
    assert made().startswith("SRS0=") and made().endswith("=sender.example=anna@ours.example")
    assert is_rewritten(made()) and not is_rewritten(PATH)
    assert restored(made(), [SECRET], DAY, 21) == PATH


@pytest.mark.parametrize(
    ("path", "looks"),
    [
        ("SRS0=x@a.example", True), ("srs1+x@a.example", True), ("SRS0-x@a.example", True), ("SRS2=x@a.example", False),
        ("SRS0@a.example", False), ("srs0x@a.example", False), ("", False), ("xSRS0=a@a.example", False),
    ],
)  # fmt: skip
def test_what_looks_like_one(path: str, looks: bool) -> None:
    assert is_rewritten(path) is looks


@pytest.mark.parametrize("change", [str.lower, str.upper, str.swapcase])
def test_hosts_on_the_way_may_change_the_case(change: object) -> None:
    local_part, _, domain = made().partition("@")
    back = restored(f"{change(local_part)}@{domain}", [SECRET], DAY, 21)  # type: ignore[operator]
    assert isinstance(back, str) and back.lower() == PATH


@pytest.mark.parametrize(
    ("age", "limit", "fits"),
    [
        (0, 21, True),
        (21, 21, True),
        (22, 21, False),
        (1, 1, True),
        (2, 1, False),
        (-1, 21, True),
        (-2, 21, False),
    ],
)
def test_an_old_one_is_refused(age: int, limit: int, fits: bool) -> None:
    for day in (DAY, DAYS * 20, DAYS * 20 + 3):  # where the count of days comes round, too
        found = restored(made(day=day), [SECRET], day + age, limit)
        assert found == (PATH if fits else Unfit.EXPIRED)


@pytest.mark.parametrize(
    ("old", "new"),
    [("=anna@", "=eve@"), ("sender.example", "victim.example"), ("SRS0", "SRS1"), ("=sender", "=A=sender")],
)
def test_a_changed_one_is_forged(old: str, new: str) -> None:
    assert old in made() and restored(made().replace(old, new), [SECRET], DAY, 21) is Unfit.FORGED


@pytest.mark.parametrize(
    "path",
    ["SRS0=@o.example", "SRS0==@o.example", "SRS0=AAAAAAAA=AA=x.example=a@o.example", "SRS0=====@o.example",
     "SRS1=x@o.example", "SRS0+\u00e9=\u00e9=@o.example", "SRS1=AAAAAAAA=a.example==b@o.example"],
)  # fmt: skip
def test_rubbish_is_forged(path: str) -> None:
    assert restored(path, [SECRET, OTHER], DAY, 21) is Unfit.FORGED


def test_a_new_secret_makes_and_the_old_one_still_counts() -> None:
    old = made(secret=OTHER)
    assert restored(old, [SECRET, OTHER], DAY, 21) == PATH and restored(old, [SECRET], DAY, 21) is Unfit.FORGED


@pytest.mark.parametrize("separator", "=+-")
def test_over_three_hosts_and_back(separator: str) -> None:
    """The first is another's: SRS0 of any form; the second and third are ours."""
    first = f"SRS0{separator}HHH=TT=sender.example=anna@first.example"
    second = made(first, "second.example", OTHER)
    third = made(second, "third.example")
    assert second.startswith("SRS1=") and third.startswith("SRS1=")
    assert third.partition("=")[2].partition("=")[2].startswith("first.example=")
    assert restored(third, [SECRET], DAY + 500, 21) == first  # the first one knows when it was
    assert restored(second, [OTHER], DAY, 21) == first


def test_an_address_grows_once() -> None:
    path = made("a@b.example", "first.example")
    lengths = []
    for number in range(4):
        path = made(path, f"host{number}.example")
        lengths.append(len(path))
    assert len(set(lengths)) == 1


@pytest.mark.parametrize(
    "path",
    [
        "a" * 40 + "@sender.example", '"two words"@sender.example', "a@[192.0.2.1]", "SRS1=x@a.example",
        "SRS1+x=y=z@a.example" + "x" * 60, "a@b.example" + ".example" * 8,
    ],
)  # fmt: skip
def test_what_does_not_fit_is_left(path: str) -> None:
    assert rewritten(path, "ours.example", SECRET, DAY) is None


LOCAL_PARTS = st.from_regex(r"[a-zA-Z0-9=+_/-]{1,12}(\.[a-z]{1,5})?", fullmatch=True)


@given(local_part=LOCAL_PARTS, day=st.integers(0, 100_000), age=st.integers(0, 21))
def test_whatever_the_local_part_is(local_part: str, day: int, age: int) -> None:
    path = f"{local_part}@sender.example"
    found = rewritten(path, "ours.example", SECRET, day)
    if found is not None and not is_rewritten(path):
        assert restored(found, [SECRET], day + age, 21) == path


@given(st.text(max_size=80))
def test_nothing_gets_through_by_chance(text: str) -> None:
    for name in ("SRS0=", "SRS1="):
        assert restored(f"{name}{text}@ours.example", [SECRET], DAY, 21) is Unfit.FORGED
