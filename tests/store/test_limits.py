"""Limits count exactly: beside a model that keeps every event, across processes, restarts and SIGKILL."""

from __future__ import annotations

import ipaddress
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from egressguard.policy.facts import Excess
from egressguard.policy.limits import SLOTS, WINDOWS, Amounts, quotas
from egressguard.policy.load import parse_rules
from egressguard.policy.model import Policy
from egressguard.store.limits import LimitStore, LimitTrouble

HOST = ipaddress.ip_address("192.0.2.7")
NOW = 1_800_000_000.0
SITE = b"site: {zones: {lan: {networks: [192.0.2.0/24, 2001:db8::/32]}}}\n"


def policy_of(limits: str) -> Policy:
    loaded = parse_rules({"a.yaml": SITE + b"limits: [" + limits.encode() + b"]\n"})
    assert loaded.policy is not None, loaded.faults
    return loaded.policy


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LimitStore]:
    made = LimitStore(tmp_path / "limits.sqlite")
    yield made
    made.close()


def take(
    store: LimitStore,
    policy: Policy,
    amounts: Amounts,
    now: float,
    *,
    user: str | None = None,
    sender: str = "a@x.example",
) -> Excess | None:
    """One message: charged when it fits, as the relay does it."""
    with store.step():
        exceeded = store.exceeded(policy, HOST, user, sender, amounts, now)
        if not exceeded:
            store.charge(policy, [limit.name for limit in policy.limits], HOST, user, sender, amounts, now)
    return next(iter(exceeded.values()), None)


def message(*recipients: str, octets: int = 100) -> Amounts:
    return Amounts(messages=1, octets=octets, recipients=recipients or ("b@y.example",))


EDGES: list[tuple[str, Callable[[int], Amounts]]] = [
    ("messages_per_minute: 3", lambda _n: message()),
    ("recipients_per_hour: 6", lambda _n: message("b@y.example", "c@y.example")),
    ("distinct_recipients_per_day: 3", lambda n: message(f"b{n}@y.example")),
    ("octets_per_minute: 300", lambda _n: message()),
    ("new_destinations_per_hour: 3", lambda n: message(f"b@y{n}.example")),
    ("refusals_per_day: 3", lambda _n: Amounts(refusals=1)),
]


@pytest.mark.parametrize(("number", "amounts"), EDGES, ids=[number.partition(":")[0] for number, _ in EDGES])
def test_the_last_that_fits_passes_and_the_next_does_not(
    store: LimitStore, number: str, amounts: Callable[[int], Amounts]
) -> None:
    policy = policy_of(f"{{name: few, per: host, {number}}}")
    assert [take(store, policy, amounts(n), NOW) for n in range(3)] == [None] * 3
    excess = take(store, policy, amounts(3), NOW)
    assert excess is not None and excess.unit == number.partition(":")[0]
    assert all(word in str(excess) for word in (excess.unit, "host 192.0.2.7", str(excess.most), str(excess.found)))


def test_a_message_with_more_recipients_than_are_left_is_above(store: LimitStore) -> None:
    policy = policy_of("{name: few, per: host, recipients_per_hour: 5}")
    assert take(store, policy, message("a@y.example", "b@y.example"), NOW) is None
    excess = take(store, policy, message(*(f"{n}@y.example" for n in range(5))), NOW)
    assert excess is not None and (excess.found, excess.most) == (7, 5)
    assert take(store, policy, message(*(f"{n}@y.example" for n in range(3))), NOW) is None


def test_known_recipients_and_destinations_cost_nothing(store: LimitStore) -> None:
    policy = policy_of("{name: few, per: host, distinct_recipients_per_day: 1, new_destinations_per_day: 1}")
    assert [take(store, policy, message("B@Y.example"), NOW + n) for n in range(5)] == [None] * 5
    assert take(store, policy, message("c@y.example"), NOW) is not None


def test_a_destination_is_new_again_after_thirty_days(store: LimitStore) -> None:
    policy = policy_of("{name: few, per: host, new_destinations_per_minute: 1}")
    day = 86400
    assert take(store, policy, message("b@y.example"), NOW) is None
    assert take(store, policy, message("b@y.example", "c@z.example"), NOW + 29 * day) is None  # y is known
    assert take(store, policy, message("b@y.example", "c@z.example"), NOW + 59 * day + 1) is not None  # both are new


def test_a_refusal_counts_as_a_refusal_only(store: LimitStore) -> None:
    policy = policy_of("{name: few, per: host, messages_per_minute: 1, refusals_per_minute: 5}")
    for _ in range(5):
        assert take(store, policy, Amounts(refusals=1), NOW) is None
    assert take(store, policy, message(), NOW) is None


@pytest.mark.parametrize(
    ("per", "user", "sender", "key"),
    [
        ("host", None, "a@x.example", "host 192.0.2.7"),
        ("user", "anna", "a@x.example", "user anna"),
        ("user", None, "a@x.example", None),
        ("sender_domain", None, "A@X.Example", "sender_domain x.example"),
        ("sender_domain", None, "", None),
        ("zone", None, "", "zone lan"),
        ("device", None, "", None),
    ],
)
def test_who_is_counted(store: LimitStore, per: str, user: str | None, sender: str, key: str | None) -> None:
    policy = policy_of(f"{{name: few, per: {per}, messages_per_minute: 1}}")
    assert take(store, policy, message(), NOW, user=user, sender=sender) is None
    excess = take(store, policy, message(), NOW, user=user, sender=sender)
    assert (excess.key if excess else None) == key


def test_each_window_counts_by_itself(store: LimitStore) -> None:
    policy = policy_of("{name: few, per: host, messages_per_minute: 2, messages_per_hour: 3}")
    assert [take(store, policy, message(), NOW) for _ in range(2)] == [None, None]
    assert (take(store, policy, message(), NOW) or Excess("", "", 0, 0)).unit == "messages_per_minute"
    assert take(store, policy, message(), NOW + 70) is None
    assert (take(store, policy, message(), NOW + 140) or Excess("", "", 0, 0)).unit == "messages_per_hour"


def test_a_clock_that_goes_back_frees_nothing_and_locks_for_no_longer_than_a_window(store: LimitStore) -> None:
    policy = policy_of("{name: few, per: host, messages_per_minute: 1}")
    assert take(store, policy, message(), NOW) is None
    assert take(store, policy, message(), NOW - 50) is not None
    assert take(store, policy, message(), NOW - 3600) is None


def test_what_was_charged_outlives_the_store(tmp_path: Path) -> None:
    policy = policy_of("{name: few, per: host, distinct_recipients_per_day: 1, messages_per_hour: 5}")
    for round_ in range(3):
        store = LimitStore(tmp_path / "limits.sqlite")
        assert (take(store, policy, message("b@y.example"), NOW + round_)) is None
        assert take(store, policy, message("other@y.example"), NOW + round_) is not None
        store.close()


def test_old_rows_go(store: LimitStore, tmp_path: Path) -> None:
    policy = policy_of("{name: few, per: host, messages_per_minute: 9, distinct_recipients_per_hour: 9}")
    take(store, policy, message(), NOW)
    store.contain("192.0.2.7", NOW + 10, "few")
    store.prune(NOW + 2 * 86400)
    db = sqlite3.connect(tmp_path / "limits.sqlite")
    assert [db.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in ("counted", "named", "contained")] == [0] * 3
    db.close()


def test_beyond_the_most_rows_only_unknown_keys_are_stopped(tmp_path: Path) -> None:
    policy = policy_of("{name: few, per: user, messages_per_hour: 100}")
    store = LimitStore(tmp_path / "limits.sqlite", max_rows=3)
    assert [take(store, policy, message(), NOW, user=f"u{n}") for n in range(3)] == [None] * 3
    assert (take(store, policy, message(), NOW, user="another") or Excess("", "", 0, 0)).unit == "keys"
    assert take(store, policy, message(), NOW, user="u1") is None
    store.close()


def test_containment(store: LimitStore) -> None:
    store.contain("192.0.2.7", NOW + 60, "few")
    store.contain("192.0.2.7", NOW + 30, "other")  # an earlier end does not shorten it
    found = store.contained("192.0.2.7", NOW)
    assert found is not None and (found.until, found.limit) == (NOW + 60, "few")
    assert [c.host for c in store.containments(NOW)] == ["192.0.2.7"]
    assert store.contained("192.0.2.7", NOW + 60) is None
    assert store.uncontain("192.0.2.7") and not store.uncontain("192.0.2.7")


def test_usage_shows_the_fullest_first(store: LimitStore) -> None:
    policy = policy_of(
        "{name: few, per: host, messages_per_minute: 10, distinct_recipients_per_hour: 4, octets_per_day: 1000}"
    )
    take(store, policy, message("a@y.example", "b@y.example"), NOW)
    rows = [(row["unit"], row["used"], row["most"]) for row in store.usage(policy, NOW)]
    assert rows == [
        ("distinct_recipients_per_hour", 2, 4),
        ("messages_per_minute", 1, 10),
        ("octets_per_day", 100, 1000),
    ]


def test_a_damaged_file_is_trouble(tmp_path: Path) -> None:
    (tmp_path / "limits.sqlite").write_bytes(b"rubbish" * 1000)
    with pytest.raises(LimitTrouble, match="not a database"):
        LimitStore(tmp_path / "limits.sqlite")


def test_what_fails_inside_a_step_is_undone(store: LimitStore) -> None:
    policy = policy_of("{name: few, per: host, messages_per_minute: 1}")
    with pytest.raises(RuntimeError), store.step():
        store.charge(policy, ["few"], HOST, None, "", message(), NOW)
        raise RuntimeError
    assert take(store, policy, message(), NOW) is None


_TAKER = f"""
import sys
from pathlib import Path
from tests.store.test_limits import LimitStore, message, policy_of, take
policy = policy_of("{{name: few, per: host, messages_per_hour: 100}}")
store = LimitStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
passed = 0
for _ in range(int(sys.argv[2])):
    if take(store, policy, message(), {NOW}) is None:
        passed += 1
        print(passed, flush=True)
"""


def _taker(path: Path, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKER, str(path), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_of_many_processes_exactly_as_many_pass_as_may(tmp_path: Path) -> None:
    takers = [_taker(tmp_path / "limits.sqlite", 60) for _ in range(4)]
    for taker in takers:
        assert taker.stdin is not None
        taker.stdin.write("go\n")
        taker.stdin.flush()
    passed = sum(len(taker.communicate(timeout=60)[0].splitlines()) for taker in takers)
    assert passed == 100


def test_a_killed_process_leaves_what_it_charged(tmp_path: Path) -> None:
    taker = _taker(tmp_path / "limits.sqlite", 100_000)
    assert taker.stdin is not None and taker.stdout is not None
    taker.stdin.write("go\n")
    taker.stdin.flush()
    while int(taker.stdout.readline()) < 20:
        pass
    os.kill(taker.pid, signal.SIGKILL)
    said = 20 + len(taker.stdout.read().splitlines())
    taker.communicate(timeout=10)
    policy = policy_of("{name: few, per: host, messages_per_hour: 100}")
    store = LimitStore(tmp_path / "limits.sqlite")
    with store.step():
        used = store.usage(policy, NOW)[0]["used"]
    store.close()
    assert said <= used <= said + 1


_MANY = f"""
import resource, sys
from pathlib import Path
from tests.store.test_limits import HOST, LimitStore, message, policy_of
policy = policy_of("{{name: few, per: user, messages_per_minute: 9, messages_per_hour: 9, recipients_per_day: 9}}")
store = LimitStore(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with store.step():
    for number in range(100_000):
        store.charge(policy, ["few"], HOST, f"user-{{number}}", "", message(), {NOW})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
store.close()
"""


def test_a_hundred_thousand_keys_cost_less_than_100_megabytes(tmp_path: Path) -> None:
    words = [sys.executable, "-c", _MANY, str(tmp_path / "limits.sqlite")]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120, check=True)
    on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert int(ran.stdout) + on_disk < 100_000_000, (ran.stdout, on_disk)


class CountsLikeTheModel(RuleBasedStateMachine):
    """The model keeps every event in a list; the promise is checked on the events' own times."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = NOW
        self.events: list[tuple[float, Amounts]] = []

    @initialize(
        window=st.sampled_from(sorted(WINDOWS)),
        messages=st.integers(1, 6),
        recipients=st.integers(1, 8),
        distinct=st.integers(1, 5),
        octets=st.integers(1, 900),
    )
    def start(self, window: str, messages: int, recipients: int, distinct: int, octets: int) -> None:
        numbers = f"messages_per_{window}: {messages}, recipients_per_{window}: {recipients}"
        numbers += f", distinct_recipients_per_{window}: {distinct}, octets_per_{window}: {octets}"
        self.policy = policy_of(f"{{name: few, per: host, {numbers}}}")
        self.window = WINDOWS[window]
        self.store = LimitStore(Path(self.folder.name) / "limits.sqlite")

    @rule(
        recipients=st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True), octets=st.integers(0, 300)
    )
    def send(self, recipients: list[str], octets: int) -> None:
        amounts = message(*(f"{name}@y.example" for name in recipients), octets=octets)
        allowed = all(self._model(quota.counted, amounts) <= quota.most for quota in quotas(self.policy.limits[0]))
        assert (take(self.store, self.policy, amounts, self.now) is None) == allowed
        if allowed:
            self.events.append((self.now, amounts))

    def _model(self, counted: str, amounts: Amounts) -> int:
        slot = self.window // SLOTS
        recent = [a for at, a in self.events if self.now // slot - at // slot <= SLOTS] + [amounts]
        if counted == "distinct_recipients":
            return len({name for a in recent for name in a.recipients})
        return sum(a.plain(counted) for a in recent)

    @rule(share=st.sampled_from([0.001, 0.04, 1 / 12, 0.25, 0.9, 1.0, 1.1]))
    def wait(self, share: float) -> None:
        self.now += share * self.window

    @rule()
    def tidy_up(self) -> None:
        self.store.prune(self.now)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = LimitStore(Path(self.folder.name) / "limits.sqlite")

    @invariant()
    def no_span_holds_more(self) -> None:
        for first, _ in self.events:
            inside = [a for at, a in self.events if first <= at < first + self.window]
            for quota in quotas(self.policy.limits[0]):
                held = (
                    len({name for a in inside for name in a.recipients})
                    if quota.counted == "distinct_recipients"
                    else sum(a.plain(quota.counted) for a in inside)
                )
                assert held <= quota.most, quota.unit

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
        self.folder.cleanup()


TestCountsLikeTheModel = CountsLikeTheModel.TestCase
TestCountsLikeTheModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
