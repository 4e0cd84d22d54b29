"""How much the server takes on at once: connections in all and per client address, octets in memory."""

from __future__ import annotations

from collections import Counter

from egressguard.net.flow import IPAddress, counted_as


class Connections:
    """Counts what is open. Whoever was let in says when it leaves."""

    def __init__(self) -> None:
        self._by_client: Counter[IPAddress] = Counter()
        self.open = 0

    def exceeded(self, client: IPAddress, *, limit: int, limit_per_client: int) -> str | None:
        """The name of the limit that one more of this client's would exceed."""
        if self.open >= limit:
            return "max_connections"
        return "max_connections_per_client" if self._by_client[counted_as(client)] >= limit_per_client else None

    def enter(self, client: IPAddress) -> None:
        self.open += 1
        self._by_client[counted_as(client)] += 1

    def leave(self, client: IPAddress) -> None:
        client = counted_as(client)
        self.open -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]


class Budget:
    """Octets of messages held in memory by all sessions together."""

    def __init__(self) -> None:
        self.taken_octets = 0

    def change(self, octets: int, limit_octets: int) -> bool:
        """Hold so many more (or less); False: there is more held than there may be."""
        self.taken_octets += octets
        return octets <= 0 or self.taken_octets <= limit_octets
