"""Which clients tried too many passwords, and are let in by none for a while.

Contract
    Pure: `now` is an argument. By address, an IPv6 client by its /64; never by account, or anybody could lock anybody
    out. What fails while a client is shut out is not counted: it ends in time, whatever the client does.
    Bounded: of REMEMBERED clients the one that failed longest ago is forgotten, of one client's addresses the oldest.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from egressguard.net.flow import IPAddress, counted_as, plain_address

REMEMBERED = 10_000
ADDRESSES_OF_ONE = 64
"""An IPv6 client has 2^64; a new one has no more than its first guess before it is shut out, too."""


@dataclass(slots=True)
class _Client:
    times: deque[float]
    addresses: OrderedDict[str, None] = field(default_factory=OrderedDict)
    until: float = float("-inf")


class Guesses:
    """`failures` within `within_seconds` shut a client out for `shut_out_seconds`; all three may change."""

    def __init__(self, failures: int, within_seconds: float, shut_out_seconds: float) -> None:
        self.failures = failures
        self.within_seconds = within_seconds
        self.shut_out_seconds = shut_out_seconds
        self._clients: OrderedDict[IPAddress, _Client] = OrderedDict()

    def failed(self, address: str, attempts: int, now: float) -> bool:
        """Count failed logins; True: with these the client is shut out. What is no address is nobody's."""
        try:
            key = counted_as(plain_address(address))
        except ValueError:
            return False
        client = self._clients.setdefault(key, _Client(deque()))
        self._clients.move_to_end(key)
        if len(self._clients) > REMEMBERED:
            self._clients.popitem(last=False)
        client.addresses[address] = None
        if len(client.addresses) > ADDRESSES_OF_ONE:
            client.addresses.popitem(last=False)
        return now >= client.until and self._counts(client, attempts, now)

    def _counts(self, client: _Client, attempts: int, now: float) -> bool:
        while client.times and now - client.times[0] >= self.within_seconds:
            client.times.popleft()
        client.times.extend([now] * min(attempts, self.failures))
        if len(client.times) < self.failures:
            return False
        client.times.clear()
        client.until = now + self.shut_out_seconds
        return True

    def shut(self, now: float) -> list[str]:
        """The addresses that are shut out, as they were told, sorted."""
        return sorted(
            address for client in self._clients.values() if now < client.until for address in client.addresses
        )
