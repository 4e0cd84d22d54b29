"""The fuzzer's targets by name: each takes any octets, and raises when something is wrong with us."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.fuzz.content import bdat, data, seven_bit, stuffing
from tests.fuzz.files import archive, document
from tests.fuzz.grammar import address, command, parameters, path, proxy
from tests.fuzz.hosts import host
from tests.fuzz.login import auth, scram
from tests.fuzz.message import message
from tests.fuzz.session import session

CORPUS = Path(__file__).parent / "corpus"
Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        command,
        path,
        address,
        parameters,
        data,
        bdat,
        stuffing,
        seven_bit,
        auth,
        scram,
        proxy,
        session,
        host,
        message,
        archive,
        document,
    )
}


def corpus_of(name: str) -> Path:
    return CORPUS / name
