"""How hosts of the world introduce themselves: what each says to EHLO, and its manners.

Exchange and Domino by sessions that were published, qmail by its published protocol (PIPELINING, 8BITMIME, no SIZE, its
codes in brackets behind the words), the Notes MTA and GroupWise by their banners and what their manuals promise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.smtp.fake_mx import FakeMx


@dataclass(frozen=True, slots=True)
class Dialect:
    """`greeting` and `ehlo` as they stand on the wire; `replies` as FakeMx has them."""

    greeting: str
    ehlo: tuple[str, ...]
    replies: dict[str, str] = field(default_factory=dict)
    refusal: str = "550 5.1.1 User unknown"
    leaves_after: tuple[str, ...] = ()

    def host(self, **more: str) -> FakeMx:
        """One that speaks so; `more` are replies that matter to a test."""
        name, *keywords = self.ehlo
        return FakeMx(
            {"GREETING": f"220 {self.greeting}", **self.replies, **more},
            extensions=tuple(keywords),
            ehlo_name=name,
            leaves_after=self.leaves_after,
        )


EXCHANGE_2000 = Dialect(
    "mail.exchange.example Microsoft ESMTP MAIL Service, Version: 5.0.2195.6713 ready at  Mon, 3 Mar 2003",
    (
        "mail.exchange.example Hello [192.0.2.1]",
        "TURN",
        "ATRN",
        "SIZE",
        "ETRN",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "8bitmime",
        "BINARYMIME",
        "CHUNKING",
        "VRFY",
        "X-EXPS GSSAPI NTLM LOGIN",
        "X-EXPS=LOGIN",
        "AUTH GSSAPI NTLM LOGIN",
        "AUTH=LOGIN",
        "X-LINK2STATE",
        "XEXCH50",
        "OK",
    ),
    {
        "MAIL": "250 2.1.0 a@example.org....Sender OK",
        "RCPT": "250 2.1.5 b@example.net ",
        "DATA": "354 Start mail input; end with <CRLF>.<CRLF>",
        "DOT": "250 2.6.0  <1@mail.exchange.example> Queued mail for delivery",
        "QUIT": "221 2.0.0 mail.exchange.example Service closing transmission channel",
    },
    refusal="550 5.1.1 User unknown",
)
EXCHANGE_2016 = Dialect(
    "mail.exchange.example Microsoft ESMTP MAIL Service ready at Tue, 24 Sep 2024 04:21:14 +0000",
    (
        "mail.exchange.example Hello [192.0.2.1]",
        "SIZE 37748736",
        "PIPELINING",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "X-ANONYMOUSTLS",
        "AUTH NTLM",
        "X-EXPS GSSAPI NTLM",
        "8BITMIME",
        "BINARYMIME",
        "CHUNKING",
        "SMTPUTF8",
        "XRDST",
    ),
    {
        "MAIL": "250 2.1.0 Sender OK",
        "RCPT": "250 2.1.5 Recipient OK",
        "DATA": "354 Start mail input; end with <CRLF>.<CRLF>",
        "DOT": "250 2.6.0 <1@mail.exchange.example> [InternalId=5111011082268, Hostname=mail.exchange.example] Queued",
    },
    refusal="550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
)
DOMINO = Dialect(
    "mail.domino.example ESMTP Service (Lotus Domino Release 8.5.3FP1) ready at Mon, 26 Aug 2013 21:02:25 -0400",
    ("mail.domino.example Hello gw.example.org ([192.0.2.1]), pleased to meet you", "HELP", "SIZE", "PIPELINING"),
    {
        "MAIL": "250 a@example.org... Sender OK",
        "RCPT": "250 b@example.net... Recipient OK",
        "DATA": '354 Enter message, end with "." on a line by itself',
        "DOT": "250 Message accepted for delivery",
        "QUIT": "221 mail.domino.example SMTP Service closing transmission channel",
    },
    refusal="550 b@example.net... No such user",
)
NOTES_MTA = Dialect(
    "mail.notes.example Lotus SMTP MTA Service Ready",
    ("mail.notes.example",),
    {"EHLO": "500 Command unrecognized", "HELO": "250 mail.notes.example", "DOT": "250 OK"},
    refusal="550 No such user",
)
GROUPWISE = Dialect(
    "mail.groupwise.example GroupWise Internet Agent 7.0.1 Ready (C)1993, 2006 Novell, Inc.",
    ("mail.groupwise.example", "AUTH LOGIN", "AUTH=LOGIN", "8BITMIME", "SIZE", "DSN"),
    {"MAIL": "250 Ok", "RCPT": "250 Ok", "DATA": "354 Enter mail, end with '.' on a line by itself", "DOT": "250 Ok"},
    refusal="550 b@example.net No such recipient",
)
QMAIL = Dialect(
    "mail.qmail.example ESMTP",
    ("mail.qmail.example", "PIPELINING", "8BITMIME"),
    {
        "MAIL": "250 ok",
        "RCPT": "250 ok",
        "DATA": "354 go ahead",
        "DOT": "250 ok 1039000000 qp 12345",
        "QUIT": "221 mail.qmail.example",
    },
    refusal="553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
    leaves_after=("QUIT",),
)
DIALECTS = {
    "Exchange 2000": EXCHANGE_2000,
    "Exchange 2016": EXCHANGE_2016,
    "Domino": DOMINO,
    "Notes MTA": NOTES_MTA,
    "GroupWise": GROUPWISE,
    "qmail": QMAIL,
}
