"""Messages given to clamd ahead: each answer goes to its own message, and what goes wrong costs one more question."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from egressguard.policy.scanning import Clamd
from egressguard.scan.clamd import ClamdEngine
from egressguard.scan.clamd_session import MOST_UNDER_WAY, Session
from egressguard.scan.engine import Answer, Subject
from egressguard.scan.engine_words import EngineDown
from tests.scan import daemons
from tests.scan.daemons import MARKER

FOUND = Answer(found=("Egress.Test.UNOFFICIAL",))


@contextmanager
def file_of(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("message")
    try:
        os.write(fd, content)
        yield fd
    finally:
        os.close(fd)


Talk = Callable[[socket.socket], None]


@contextmanager
def clients_get(*talks: Talk) -> Iterator[str]:
    """The path of a daemon that deals with each client in its own way, one after the other."""
    with tempfile.TemporaryDirectory(prefix="eg-engine-") as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{name}/s")
        listener.listen()

        def play() -> None:
            for talk in talks:
                try:
                    client = listener.accept()[0]
                except OSError:
                    return
                with client, suppress(ConnectionError):
                    talk(client)

        player = threading.Thread(target=play)
        player.start()
        try:
            yield f"{name}/s"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            player.join()


def hear(client: socket.socket, messages: int) -> None:
    """So many FILDES, each with one octet of its own, or all that come."""
    heard = b""
    while heard.count(b"zFILDES\0\0") < messages and (chunk := client.recv(4096)):
        heard += chunk


def answers(messages: int, said: bytes) -> Talk:
    def talk(client: socket.socket) -> None:
        hear(client, messages)
        client.sendall(said)
        client.recv(1)  # until the other side has had enough

    return talk


@pytest.mark.peers
def test_the_real_clamd_answers_each_under_its_number() -> None:
    contents = [b"good", b"x " + MARKER, b"", b"y " + MARKER, b"good, too"]
    with daemons.clamd() as address:
        engine = ClamdEngine(Clamd(address=address))
        numbers = []
        for content in contents:
            with file_of(content) as fd:
                numbers.append(engine.give_ahead(fd, len(content)))
        assert None not in numbers
        told = [engine.ask(Subject(c, number=n), 20) for c, n in zip(contents, numbers, strict=True)]
    assert told == [Answer(), FOUND, Answer(), FOUND, Answer()]


def test_answers_may_come_in_any_order_and_in_pieces() -> None:
    with (
        clients_get(answers(3, b"3: fd[9]: OK\x001: fd[7]: A FOUND\x002: fd[8]: B FOUND\0")) as path,
        file_of(b"") as fd,
    ):
        session = Session(path)
        numbers = [session.send(fd) for _ in range(3)]
        assert [session.answer(n or 0, 5) for n in numbers] == ["fd[7]: A FOUND", "fd[8]: B FOUND", "fd[9]: OK"]
        session.close()


@pytest.mark.parametrize(
    "said",
    [b"", b"OK\0", b"fd[7]: OK\0", b"2: fd[7]: OK\0", b"0: fd[7]: OK\0", b"-1: OK\0", b"\xff: OK\0", b"1" * 9000],
)
def test_what_is_no_answer_ends_the_session_and_the_message_is_asked_about_again(said: bytes) -> None:
    def once(client: socket.socket) -> None:
        hear(client, 1)
        client.sendall(said)

    with clients_get(once, answers(0, b"stream: W FOUND\0")) as path, file_of(b"x") as fd:
        engine = ClamdEngine(Clamd(address=f"unix:{path}"))
        number = engine.give_ahead(fd, 1)
        assert number is not None
        assert engine.ask(Subject(b"x", fd=fd, number=number), 5) == Answer(found=("W",))


def test_what_it_could_not_read_in_the_session_is_asked_about_again() -> None:
    def cannot(client: socket.socket) -> None:
        hear(client, 1)
        client.sendall(b"1: fd[7]: Not a regular file ERROR\0")

    with clients_get(cannot, answers(0, b"stream: OK\0")) as path, file_of(b"x") as fd:
        engine = ClamdEngine(Clamd(address=f"unix:{path}"))
        assert engine.ask(Subject(b"x", fd=fd, number=engine.give_ahead(fd, 1)), 5) == Answer()


def test_a_number_of_a_session_that_broke_is_not_answered_by_the_next() -> None:
    """clamd counts each session's messages from one: a clean answer must not reach the message before."""

    def breaks(client: socket.socket) -> None:
        hear(client, 1)

    with clients_get(breaks, answers(1, b"1: fd[7]: OK\0")) as path, file_of(b"x") as fd:
        session = Session(path)
        first = session.send(fd)
        assert first is not None and session.answer(first, 5) is None
        second = session.send(fd)
        assert second is not None and second != first
        assert session.answer(first, 5) is None
        assert session.answer(second, 5) == "fd[7]: OK"
        session.close()


def test_one_that_is_silent_is_down_in_time() -> None:
    with clients_get(answers(2, b"")) as path, file_of(b"x") as fd:
        engine = ClamdEngine(Clamd(address=f"unix:{path}"))
        number = engine.give_ahead(fd, 1)
        with pytest.raises(EngineDown, match=r"too long|timed out"):
            engine.ask(Subject(b"x", fd=fd, number=number), 0.1)


def test_what_was_passed_over_is_forgotten() -> None:
    with clients_get(answers(2, b"1: fd[7]: A FOUND\x002: fd[8]: OK\0")) as path, file_of(b"x") as fd:
        session = Session(path)
        first, second = session.send(fd), session.send(fd)
        assert session.answer(second or 0, 5) == "fd[8]: OK"
        assert session.answer(first or 0, 5) is None
        session.close()


def test_only_so_many_are_under_way() -> None:
    with clients_get(answers(MOST_UNDER_WAY + 1, b"")) as path, file_of(b"x") as fd:
        session = Session(path)
        assert None not in [session.send(fd) for _ in range(MOST_UNDER_WAY)]
        assert session.send(fd) is None
        session.close()


@pytest.mark.parametrize(
    ("address", "size"), [("127.0.0.1:1", 1), ("unix:/nowhere/at/all", 1), ("unix:/nowhere/at/all", 1 << 40)]
)
def test_where_it_cannot_be_given_ahead_it_is_not(address: str, size: int) -> None:
    with file_of(b"x") as fd:
        assert ClamdEngine(Clamd(address=address)).give_ahead(fd, size) is None
