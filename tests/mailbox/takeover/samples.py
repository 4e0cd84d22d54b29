"""Messages that break what is not careful with octets, and a mailbox of them made by a server itself."""

from __future__ import annotations

LETTERS = (
    b"Subject: plain\r\n\r\nhello\r\n",
    b"Subject: 8-bit \xff\xfe\r\nX: \xc3\xa9\r\n\r\n\xff\xfe\x80\r\n",
    b"Subject: no end of line\r\n\r\nend",
    b"Subject: long\r\n\r\n" + b"x" * 200_000 + b"\r\n",
    b"Subject: lines like others\r\n\r\nFrom here\r\n>From there\r\nFrom a@b Thu Nov 26 16:39:50 2026\r\n.\r\n",
    b"Subject: only a header section\r\n\r\n",
    b"Subject: empty lines\r\n\r\n\r\n\r\n\r\n",
    b"Subject: two\r\nX-UIDL: abc\r\nReceived: from a\r\n\tby b\r\n\r\nbody\r\n",
    b"Status-Report: no status field\r\nSubject: x\r\n\r\nStatus: RO\r\nX-UID: 5\r\n",
)
FLAGS = (
    r"(\Seen)",
    r"(\Answered \Flagged)",
    r"(\Deleted)",
    r"(\Draft \Seen)",
    r"($Label1 NonJunk)",
    None,
    r"(\Seen $Label1)",
)
DATES = ('"01-Jan-2020 10:00:00 +0300"', None, '"29-Feb-2024 23:59:59 -0800"')


def fill(client, prefix="", separator="."):
    """Folders, messages, gaps in the UIDs, flags, keywords, subscriptions: what years of use leave."""
    for number, letter in enumerate(LETTERS * 2):
        done = client.append("INBOX", None, DATES[number % len(DATES)], letter)
        assert done[0] == "OK", done
    client.select("INBOX")
    client.store("2,5", "+FLAGS", r"(\Deleted)")
    client.expunge()
    for number in range(len(LETTERS) * 2 - 2):
        if flags := FLAGS[number % len(FLAGS)]:
            client.store(str(number + 1), "+FLAGS", flags)
    for name in ("Sent", "A.B", "Foo bar", "&AOk-t&AOk-", "R&-D"):
        folder = f'"{prefix}{name.replace(".", separator)}"'
        assert client.create(folder)[0] == "OK"
        client.subscribe(folder)
        client.append(folder, r"(\Seen)", DATES[0], LETTERS[0])
        client.append(folder, None, None, LETTERS[1])
    client.unsubscribe(f'"{prefix}Foo bar"')
    client.logout()
