"""Everything that touches a mailbox, at once: our delivery, scanner, expiry and quarantine, and mail programs by IMAP.

Each message has a number in its header; who may move or remove it is told by that number, so that every change is known
to exactly one of those who run here, and what must be left in the end is known, too.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass, field

from egressguard.mailbox.takeover.verify import as_shown

FOLDERS = ("INBOX", "A", "B")
CLIENTS = 4
CLASSES = CLIENTS + 3
"""Numbers modulo this: a client's own, then those that only expiry removes, and two that nobody moves."""
EXPIRED = CLIENTS
AWKWARD = 300
_NUMBER = re.compile(rb"X-Race: (\d+)\r?\n")
_KINDS = (
    b"8-bit \xff\xfe\x80\r\n",
    b"bare \r CR\r\n",
    b"x" * 20_000 + b"\r\n",
    b"no line end",
    b"",
    b"\r\n\r\n\r\n",
    b".\r\n..\r\n.\r\n",
    b"From here\r\n>From there\r\nFrom a@b Thu Nov 26 16:39:50 2026\r\n",
    b"--x\r\nContent-Type: text/plain\r\n\r\nMIME\r\n--x--\r\n",
    b"\xc3\xa9 = =3D soft=\r\n break\r\n",
)


def content(number):
    """Message `number`: AWKWARD different kinds, over and over."""
    kind = number % AWKWARD
    body = _KINDS[kind % len(_KINDS)] * (1 + kind // len(_KINDS) % 5)
    return b"Subject: race \xff %d\r\nX-Race: %d\r\nX-Kind: %d\r\n\r\n" % (number, number, kind) + body


def number_of(octets):
    return int(_NUMBER.search(octets)[1])


@dataclass
class World:
    """What must be true. `operations` are left to do."""

    operations: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    expected: Counter = field(default_factory=Counter)
    placed: dict = field(default_factory=dict)
    """(folder, UIDVALIDITY, UID) -> number, for ever."""
    still: dict = field(default_factory=dict)
    """Of messages that nobody moves: number -> where."""
    faults: list = field(default_factory=list)
    done: Counter = field(default_factory=Counter)
    numbers: int = 0

    def next_number(self, wanted=None):
        with self.lock:
            while True:
                self.numbers += 1
                if wanted is None or self.numbers % CLASSES == wanted:
                    return self.numbers

    def goes_on(self, what):
        with self.lock:
            self.operations -= 1
            self.done[what] += 1
            return self.operations > 0 and not self.faults

    def added(self, number, count=1):
        with self.lock:
            self.expected[number] += count

    def fault(self, words):
        with self.lock:
            self.faults.append(words)

    def saw(self, folder, validity, uid, octets):
        """A mail program has read a message: its octets, and its UID, are what they always were."""
        number = number_of(octets)
        shown = as_shown(content(number))
        if hashlib.sha256(octets[-len(shown) :]).digest() != hashlib.sha256(shown).digest():
            self.fault(f"octets of {number} in {folder}, UID {uid}")
        with self.lock:
            place = (folder, validity, uid)
            if self.placed.setdefault(place, number) != number:
                self.faults.append(f"{place} was {self.placed[place]}, is {number}")
            if number % CLASSES > EXPIRED and self.still.setdefault(number, place) != place:
                self.faults.append(f"{number} was at {self.still[number]}, is at {place}")
        return number


class Client:
    """A mail program: its own messages it copies, moves and expunges; all it reads and flags."""

    def __init__(self, world, imap, own):
        self.world, self.imap, self.own = world, imap, own
        self.random = random.Random(own)
        self.validity = {}
        self.mine = {folder: set() for folder in FOLDERS}

    def run(self):
        actions = (
            self.read,
            self.read,
            self.flag,
            self.flag,
            self.flag,
            self.copy,
            self.move,
            self.expunge,
            self.append,
        )
        try:
            self.select()
            while True:
                action = self.random.choice(actions)
                if self.random.random() < 0.1:
                    self.select()
                action()
                if not self.world.goes_on(action.__name__):
                    return
        except Exception as wrong:  # told to the test
            self.world.fault(f"client {self.own}: {wrong!r}")

    def select(self):
        self.folder = self.random.choice(FOLDERS)
        self.imap.select(self.folder)
        validity = self.imap.response("UIDVALIDITY")[1][0]
        if self.validity.setdefault(self.folder, validity) != validity:
            self.world.fault(f"UIDVALIDITY of {self.folder}")
        answer = self.imap.uid("SEARCH", "ALL")[1][0]
        self.uids = [int(uid) for uid in (answer or b"").split()]

    def read(self):
        some = self.random.sample(self.uids, min(5, len(self.uids)))
        for uid, octets in self.fetch(some).items():
            number = self.world.saw(self.folder, self.validity[self.folder], uid, octets)
            if number % CLASSES == self.own:
                self.mine[self.folder].add(uid)

    def fetch(self, uids):
        if not uids:
            return {}
        answers = self.imap.uid("FETCH", ",".join(map(str, uids)), "(UID BODY.PEEK[])")[1]
        found = (answer for answer in answers if isinstance(answer, tuple))
        return {int(re.search(rb"UID (\d+)", head)[1]): octets for head, octets in found}

    def flag(self):
        if self.uids:
            words = self.random.choice((r"(\Seen)", r"(\Flagged)", r"(\Answered)", "($Label1)", "(Junk race)"))
            self.imap.uid("STORE", str(self.random.choice(self.uids)), self.random.choice("+-") + "FLAGS", words)

    def one_of_mine(self):
        """(UID, number) of a message that only this client may move, and that is there; None."""
        for uid in self.random.sample(sorted(self.mine[self.folder]), min(1, len(self.mine[self.folder]))):
            if octets := self.fetch([uid]).get(uid):
                return uid, number_of(octets)
            self.mine[self.folder].discard(uid)
        return None

    def copy(self):
        if found := self.one_of_mine():
            uid, number = found
            answer = self.imap.uid("COPY", str(uid), self.random.choice(FOLDERS))
            self.world.added(number, answer[0] == "OK")

    def move(self):
        if found := self.one_of_mine():
            uid, number = found
            there = self.random.choice([folder for folder in FOLDERS if folder != self.folder])
            if self.imap.uid("MOVE", str(uid), there)[0] != "OK":
                self.world.fault(f"MOVE of {number}")
            self.mine[self.folder].discard(uid)

    def expunge(self):
        if found := self.one_of_mine():
            uid, number = found
            self.imap.uid("STORE", str(uid), "+FLAGS", r"(\Deleted)")
            if self.imap.uid("EXPUNGE", str(uid))[0] == "OK":
                self.world.added(number, -1)
            self.mine[self.folder].discard(uid)

    def append(self):
        number = self.world.next_number(self.own)
        if append(self.imap, self.random.choice(FOLDERS), content(number)):
            self.world.added(number)


def append(imap, folder, octets):
    """Whether it was taken. imaplib's own would turn a bare CR into a line end."""
    imap.literal = octets
    return imap._simple_command("APPEND", folder)[0] == "OK"


def everything(imap, world):
    """What is there in the end, by number; each message is read once more."""
    there = Counter()
    for folder in FOLDERS:
        imap.select(folder, readonly=True)
        validity = imap.response("UIDVALIDITY")[1][0]
        for answer in imap.uid("FETCH", "1:*", "(UID BODY.PEEK[])")[1]:
            if isinstance(answer, tuple):
                uid = int(re.search(rb"UID (\d+)", answer[0])[1])
                there[world.saw(folder, validity, uid, answer[1])] += 1
    return there
