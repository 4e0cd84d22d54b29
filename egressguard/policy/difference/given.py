"""One message of a box, as an expectation gives it (policy.expect): what `explain` takes. What is usual is left out."""

from __future__ import annotations

from typing import Any

from egressguard.policy.difference.boxes import Box
from egressguard.policy.difference.messages import (
    FLAGS,
    METHODS,
    NO_AUTHENTICATION,
    NO_LISTS,
    UNKNOWN,
    USUAL_OCTETS,
    Messages,
)
from egressguard.policy.fields import WEEKDAYS
from egressguard.policy.verdict import Verdict

USUAL_TIME = (0, 720)


def given_message(messages: Messages, box: Box) -> dict[str, Any]:
    """The facts of a message in the box."""
    given = _session(messages, box) | _checks(messages, box) | _content(messages, box)
    kinds = {NO_AUTHENTICATION: "authentication", NO_LISTS: "block_list"}
    unknown = [word for name, word in kinds.items() if messages.sample(box, name)]
    unknown += ["score"] if messages.sample(box, "score") is None else []
    unknown += ["attachments"] if messages.sample(box, "attachments") == UNKNOWN else []
    return given | ({"unknown": unknown} if unknown else {})


def clock(weekday: int, minute: int) -> dict[str, Any]:
    """`when`, unless it is the usual time."""
    if (weekday, minute) == USUAL_TIME:
        return {}
    return {"when": f"{WEEKDAYS[weekday]} {minute // 60:02}:{minute % 60:02}"}


def _session(messages: Messages, box: Box) -> dict[str, Any]:
    sample = {
        name: messages.sample(box, name) for name in ("client", "listener", "sender", "recipient", "user", "recipients")
    }
    given: dict[str, Any] = {"client": str(sample["client"]), "listener": sample["listener"]}
    given |= {"sender": sample["sender"], "recipient": [sample["recipient"]]}
    given |= {key: True for key in ("redirected", "tls") if messages.sample(box, key)}
    given |= {"user": sample["user"]} if sample["user"] is not None else {}
    given |= {"recipient_count": sample["recipients"]} if sample["recipients"] != 1 else {}
    if helo := "".join(messages.made(box, "helo")):
        given["helo"] = helo
    return given | clock(messages.sample(box, "weekday"), messages.sample(box, "minute"))


def _checks(messages: Messages, box: Box) -> dict[str, Any]:
    given: dict[str, Any] = {key: messages.sample(box, key) for key in (*METHODS, "dmarc_policy")}
    given = {key: result for key, result in given.items() if result != "none"}
    over = [name for name, fact in messages.limits.items() if messages.sample(box, f"over {fact}")]
    on = [name for name, fact in messages.lists.items() if messages.sample(box, f"on {fact}")]
    return given | ({"over_limit": over} if over else {}) | ({"block_list": on} if on else {})


def _content(messages: Messages, box: Box) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if (size := messages.sample(box, "octets")) != USUAL_OCTETS:
        given["size_octets"] = size
    fields = {name: messages.made(box, f"header {name}") for name in messages.header_fields()}
    if any(fields.values()):
        given["header"] = {name: values for name, values in fields.items() if values}
    verdict, score = messages.sample(box, "verdict"), messages.sample(box, "score")
    if verdict is not Verdict.CLEAN:
        given["verdict"] = verdict.value if verdict else UNKNOWN
    if score:
        given["score"] = int(score) if score == int(score) else str(score)
    attached = messages.sample(box, "attachments")
    if attached == "some":
        given["attachments"] = _attachments(messages, box)
    elif attached == "none" and verdict is None:
        given["attachments"] = []
    return given


def _attachments(messages: Messages, box: Box) -> list[dict[str, Any]]:
    """One for each group of patterns; the first has what else is asked of any."""
    names, kinds = (messages.made(box, f"attachment {of}", least=1) for of in ("name", "type"))
    count = max(len(names), len(kinds))
    found: list[dict[str, Any]] = [
        {"path": names[number % len(names)], "type": kinds[number % len(kinds)]} for number in range(count)
    ]
    if depth := messages.sample(box, "depth"):
        found[0]["path"] = [found[0]["path"]] * (depth + 1)
    found[0] |= {flag: True for flag in FLAGS if messages.sample(box, flag)}
    return found
