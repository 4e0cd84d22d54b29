"""What the sender of a message can do after a refusal, by the enhanced status code (RFC 3463). Pure."""

from __future__ import annotations

_SPELLING = "Look for a mistake in the address; if there is none, ask the recipient by other means."
_DOMAIN = "Look for a mistake behind the @ of the address."
_OTHER_ADDRESS = "Ask the recipient by other means for an address that takes mail."
_SMALLER = "Send less at once, or put a large file where the recipient can fetch it."
_LATER = "Send it again later. If the same comes back, ask the recipient by other means."
_POSTMASTER = "Show this message to your postmaster: people at the mail hosts have to mend it."
_REFUSED = "The host refuses it by its own rules. What it said may tell why; else show this message to your postmaster."
_PLAIN_TEXT = "Send it without a signature, or have your mail program encode it in seven bits."
_ASCII_ADDRESS = "Ask the recipient for an address of plain letters, or send from one."

_BY_STATUS = {
    "1.0": _SPELLING,
    "1.1": _SPELLING,
    "1.2": _DOMAIN,
    "1.3": _SPELLING,
    "1.6": _OTHER_ADDRESS,
    "1.10": _OTHER_ADDRESS,
    "2.1": _OTHER_ADDRESS,
    "2.2": "The mailbox is full. " + _LATER,
    "2.3": _SMALLER,
    "3.4": _SMALLER,
    "4.1": _LATER,
    "4.2": _LATER,
    "4.3": _LATER,
    "4.4": _DOMAIN,
    "4.6": _POSTMASTER,
    "4.7": _LATER,
    "6.3": _PLAIN_TEXT,
    "6.7": _ASCII_ADDRESS,
}
_BY_SUBJECT = {"5": _POSTMASTER, "6": _POSTMASTER, "7": _REFUSED}


def advice(status: str) -> str:
    """One sentence or two, or, where nothing is known, the postmaster."""
    class_, _, rest = status.partition(".")
    if rest in _BY_STATUS:
        return _BY_STATUS[rest]
    return _BY_SUBJECT.get(rest.partition(".")[0], _LATER if class_ == "4" else _POSTMASTER)
