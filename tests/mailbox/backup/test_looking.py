from __future__ import annotations

import pytest

from egressguard.mailbox.backup.looking import Sight, all_in
from egressguard.mailbox.takeover.directory import Directory
from tests.mailbox.takeover.made import letters, maildir


@pytest.mark.parametrize(
    ("looks", "listed", "settled", "there"),
    [
        (["ab"], "", False, "ab"),  # one look is none
        (["ab", "ab"], "", True, "ab"),
        (["ab", "abc"], "", False, "abc"),  # something new: look again
        (["ab", "abc", "abc"], "", True, "abc"),
        (["abc", "ab"], "", False, "abc"),  # c is gone, or was not seen
        (["abc", "ab", "abc"], "", True, "abc"),  # it was not seen
        (["abc", "ab", "ab"], "", True, "ab"),  # it is gone
        (["ab", "ab"], "abc", False, "ab"),  # it has a UID: where is it?
        (["ab", "ab", "abc", "abc"], "abc", True, "abc"),
        (["ab", "ab", "ab", "ab"], "abc", True, "ab"),  # it was deleted, and the list lags
        (["ab", "bc", "ab", "bc"], "", False, "abc"),  # never at rest
    ],
)
def test_a_message_is_gone_when_two_looks_have_not_seen_it(looks, listed, settled, there):
    sight = Sight()
    for seen in looks:
        sight.add({base: ("cur", base) for base in seen})
    assert (sight.is_settled(frozenset(listed)), "".join(sorted(sight.there()))) == (settled, there)


def test_a_message_that_a_look_misses_is_found(tmp_path, monkeypatch):
    """As readdir(3) does, when the file gets another name meanwhile."""
    box = maildir(tmp_path / "box", letters(6))
    calls = 0
    names = Directory.names

    def miss_some(directory):
        nonlocal calls
        calls += 1
        return [name for number, name in enumerate(sorted(names(directory))) if number % 5 != calls % 5]

    monkeypatch.setattr(Directory, "names", miss_some)
    with Directory.opened(box / "new") as new, Directory.opened(box / "cur") as cur:
        assert all_in({"new": new, "cur": cur}).keys() == {base for base, _, _ in letters(6)}
