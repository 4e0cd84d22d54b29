"""The program nft as a child: what it is given, and how it may end."""

from __future__ import annotations

import asyncio
import shutil

import pytest
import uvloop

from egressguard.firewall import nft

RULESET = "table inet one {}\n" * 20_000


@pytest.mark.parametrize("policy", [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def test_a_program_that_ends_before_it_has_read_is_no_trouble(
    policy: type[asyncio.AbstractEventLoopPolicy],
) -> None:
    async def walk() -> None:
        for given in ("", RULESET) * 20:
            assert await nft._execute(["true"], given) == ""
            with pytest.raises(nft.NftError, match="nft ended with status 1"):
                await nft._execute(["false"], given)

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(policy())
    try:
        asyncio.run(walk())
    finally:
        asyncio.set_event_loop_policy(before)


def test_it_reads_all_that_it_is_given() -> None:
    assert asyncio.run(nft._execute(["cat"], RULESET)) == RULESET
    assert asyncio.run(nft._execute(["cat", "/dev/stdin"], RULESET)) == RULESET, "as nft reads its -f -"


def test_an_unprivileged_check_reads_it_too() -> None:
    if shutil.which("nft") is None:
        pytest.skip("needs the program nft")
    asyncio.run(nft.check_unprivileged("table inet one {\nchain a {\ncounter\n}\n}\n"))
    with pytest.raises(nft.NftError):
        asyncio.run(nft.check_unprivileged("table inet one {\nchain a {\nno such word\n}\n}\n"))
