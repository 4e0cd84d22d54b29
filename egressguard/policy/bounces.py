"""The schema of what is told to senders, and of who is not written to any more. Each class is one mapping."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from egressguard.policy.fields import Strict

PerHour = Annotated[int, Field(ge=0, le=1_000_000)]


class Dsn(Strict):
    """How many notices (bounces and the like) leave in an hour. Forged senders must not make them others' spam.

    What is over is logged and counted, and not sent. Counting begins anew with the relay.
    """

    per_address: PerHour = Field(50, description="notices an hour to one address; 0 = none", examples=[10])
    per_client: PerHour = Field(
        100, description="notices an hour about mail of one user, or of one host that did not log in", examples=[20]
    )
    in_all: PerHour = Field(1000, description="notices an hour to everybody together", examples=[200])


class Suppression(Strict):
    """When a recipient that does not exist is put on the suppression list: mail to it then bounces without dialling.

    What is put on the list by `egressguard suppression add` counts with or without this.
    """

    after: Annotated[int, Field(ge=1, le=100)] = Field(
        3, description="so many refusals as unknown (5.1.1 and the like), at least an hour between two", examples=[5]
    )
    for_seconds: Annotated[int, Field(ge=3600, le=366 * 86400)] = Field(
        30 * 86400, description="how long it stays on the list", examples=[604800]
    )
