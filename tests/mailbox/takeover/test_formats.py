"""The files of other servers, line by line: what is right is taken, what cannot be right is not believed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from egressguard.mailbox.folder_name import modified_utf7
from egressguard.mailbox.takeover import compressed, keywords, pop3_names, uid_lists
from egressguard.mailbox.takeover.folder_names import NAME_OCTETS, decode_utf7, safe_name, safe_part
from egressguard.mailbox.takeover.from_line import received_at
from egressguard.mailbox.takeover.source import MAX_UID, SourceError
from egressguard.mailbox.takeover.uid_lists import Given
from egressguard.mailbox.takeover.verify import as_shown, fingerprint


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_modified_utf7_is_read_as_it_was_written(text):
    assert decode_utf7(modified_utf7(text)) == text


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        ("Sent", "Sent"),
        ("Entw&APw-rfe", "Entw&APw-rfe"),  # is right already
        ("Entwürfe", "Entw&APw-rfe"),
        ("R&D", "R&-D"),
        ("R&-D", "R&-D"),
        ("日本", "&ZeVnLA-"),
        ("\udcff", "&,,0-"),  # an octet that is no UTF-8: U+FFFD
        ("a.b/c", "a_b_c"),
        ("tab\there", "tab_here"),
        ("", "_"),
        ("  ", "_"),
        ("~root", "_root"),
    ],
)
def test_every_name_becomes_one_that_can_be_a_folder(raw, part):
    assert safe_part(raw) == part


@settings(max_examples=50)
@given(st.lists(st.text(max_size=40).map(lambda text: text * 6), min_size=1, max_size=8))
def test_names_from_anywhere_are_bounded_and_right(parts):
    name = safe_name(tuple(parts))
    assert len(".".join(name)) <= NAME_OCTETS
    assert all(decode_utf7(part) is not None and part and "/" not in part and "." not in part for part in name)
    assert name[0].upper() != "INBOX"


def test_a_uid_list_is_read_as_it_was_written():
    rows = [("1.a", Given(1)), ("2.b,S=3", Given(7, "00000007", 2)), ("x", Given(9, None, 1))]
    lines = b"".join(uid_lists.render_uid_list(5, 12, "ab", rows)).split(b"\n")[:-1]
    found = uid_lists.parse_dovecot(lines)
    assert (found.uid_validity, found.uid_next, found.guid) == (5, 12, "ab")
    assert found.given == dict(rows)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([b"3 V5 N12 Gab", b"1 :a", b"2 W5 S6 Pxy O3 :b:2,S"], (5, 12, {"a": Given(1), "b": Given(2, "xy", 3)})),
        ([b"3 V5 N1", b"8 :a"], (5, 9, {"a": Given(8)})),  # the header lags
        ([b"1 5 12", b"1 a", b"2 b:2,S"], (5, 12, {"a": Given(1), "b": Given(2)})),
        ([b"3 V5 N3", b"1 :a", b"2 :a"], (5, 3, {"a": Given(2)})),  # the later line is about the file of now
        ([b"3 V5 N3", b"x :a", b"-1 :b", b"99999999999 :c", b"1 :", b"", b"1"], (5, 3, {})),
        ([b"3 V5 N3", b"%d :a" % MAX_UID], (5, MAX_UID, {"a": Given(MAX_UID)})),
        ([b"3 V0 N3"], None),
        ([b"3 N3"], None),
        ([b"2 V1 N3"], None),
        ([b""], None),
        ([], None),
    ],
)
def test_uid_lists(lines, told):
    found = uid_lists.parse_dovecot(lines)
    assert (found and (found.uid_validity, found.uid_next, found.given)) == told


def test_dovecots_keywords():
    lines = [b"0 $Label1", b"1 foo", b"25 z", b"26 beyond", b"x y", b"2 two words", b"3"]
    found = keywords.parse_dovecot_keywords(lines)
    assert found == {"a": "$Label1", "b": "foo", "z": "z"}
    assert keywords.render_dovecot_keywords(["$Label1", "foo"]) == "0 $Label1\n1 foo\n"


def test_couriers_keywords():
    lines = [b"$Label1", b"foo", b"", b"1.a:0 1", b"2.b:1 9 x", b"3.c:"]
    assert keywords.parse_courier_list(lines) == {"1.a": ("$Label1", "foo"), "2.b": ("foo",), "3.c": ()}
    assert keywords.parse_courier_file([b"foo", b"no keyword", b"\\Seen"]) == ("foo",)


@pytest.mark.parametrize(
    ("form", "uidl"),
    [
        ("%08Xu%08Xv", "0000000f6b0860d6"),
        ("%08Xv%08Xu", "6b0860d60000000f"),
        ("UID%u-%v", "UID15-1795711190"),
        ("%v.%u", "1795711190.15"),
        ("%f", "1.M2.host"),
        ("", None),
    ],
)
def test_uidls(form, uidl):
    assert pop3_names.render_uidl(pop3_names.check_format(form), 15, 1795711190, "1.M2.host") == uidl


@pytest.mark.parametrize("form", ["%x", "%", "100%", "a b%u", "%999u"])
def test_what_is_no_format_is_told(form):
    with pytest.raises(pop3_names.FormatError, match="expected %u"):
        pop3_names.check_format(form)


def test_a_uidl_is_what_pop3_can_say_and_unique():
    assert [pop3_names.checked(text) for text in ("a b", "x" * 71, "\xe9", "", None, "ok")] == [None] * 5 + ["ok"]
    assert pop3_names.without_repeats(["a", None, "a", "b"]) == ["a", None, None, "b"]


def test_couriers_pop3_sizes():
    lines = [b"/3 3 1795711257", b"3.c,S=14:2,RS 17 1:1795711257:0", b"2.b 17 0:1795711257", b"nonsense"]
    found = pop3_names.parse_courier_sizes(lines)
    assert list(found.items()) == [("3.c,S=14", "UID1-1795711257"), ("2.b", "2.b")]
    assert pop3_names.parse_courier_sizes([b"other"]) == {}


LOCAL = 3600.0
"""Of the tests' zone: an hour east."""


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        (b"From a@b Thu Nov 26 16:39:50 2026", 1795711190 - LOCAL),
        (b"From a@b  Thu Nov  6 16:39:50 2026", 1795711190 - LOCAL - 20 * 86400),
        (b"From a@b Thu Nov 26 16:39 2026", 1795711140 - LOCAL),
        (b"From a@b Thu Nov 26 16:39:50 +0100 2026", 1795711190 - 3600),
        (b"From a@b Thu Nov 26 16:39:50 2026 -0800", 1795711190 + 8 * 3600),
        (b"From a@b Thu Nov 26 16:39:50 UTC 2026", 1795711190),
        (b"From a@b Thu Nov 26 16:39:50 PST 2026", 1795711190 + 8 * 3600),
        (b"From a@b Thu, 26 Nov 2026 16:39:50 +0000", 1795711190),
        (b"From a@b Thu Nov 26 16:39:50 2026 remote from host", 1795711190 - LOCAL),
        (b'From "a Thu b"@c Thu Nov 26 16:39:50 2026', 1795711190 - LOCAL),
        (b"From  Thu Nov 26 16:39:50 2026", 1795711190 - LOCAL),
        (b"From here on", None),
        (b"From a@b Thu Nov 31 16:39:50 2026", None),
        (b"From a@b Thu Nov 26 25:39:50 2026", None),
        (b"From a@b Thu Nov 26 16:39:50", None),
        (b">From a@b Thu Nov 26 16:39:50 2026", None),
        (b"From " + b"x" * 2000 + b" Thu Nov 26 16:39:50 2026", None),
    ],
)
def test_from_lines(line, seconds):
    def an_hour_east(date):
        import calendar

        return calendar.timegm(date.timetuple()) - LOCAL

    assert received_at(line, an_hour_east) == seconds


PLAIN = b"Subject: x\n\n" + b"body\n" * 100_000


def read(tmp_path, octets):
    path = tmp_path / "m"
    path.write_bytes(octets)
    fd = os.open(path, os.O_RDONLY)
    try:
        return b"".join(compressed.plain_pieces(fd, "m"))
    finally:
        os.close(fd)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_messages_are_read_as_their_server_shows_them(tmp_path, pack):
    assert read(tmp_path, pack(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (gzip.compress(PLAIN)[:-20], "not one whole one"),
        (gzip.compress(PLAIN) + b"more", "not one whole one"),
        (b"\x1f\x8b\x08" + b"junk" * 50, "damaged"),
        (b"\x28\xb5\x2f\xfdxx", "not read here"),
    ],
)
def test_what_cannot_be_unpacked_is_told(tmp_path, octets, words):
    with pytest.raises(SourceError, match=words):
        read(tmp_path, octets)


def test_a_bomb_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "MAX_MESSAGE_OCTETS", 100_000)
    with pytest.raises(SourceError, match="unpacks to more"):
        read(tmp_path, gzip.compress(PLAIN))


@given(st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\r\n", b"\0"]), max_size=20), st.integers(1, 5))
def test_a_fingerprint_does_not_depend_on_how_the_octets_come(words, size):
    octets = b"".join(words)
    pieces = [octets[at : at + size] for at in range(0, len(octets), size)]
    assert fingerprint(iter(pieces)) == fingerprint(iter([octets]))
    assert fingerprint(iter([octets]))[1] == fingerprint(iter([as_shown(octets)]))[0]
