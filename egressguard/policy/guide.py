"""The words around the tables of docs/rules.md (policy.page puts them together)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """One table: the mapping `definition` of the schema ("" = the file itself), or `keys` of it only."""

    title: str
    definition: str
    words: str = ""
    keys: tuple[str, ...] = ()


COMMON = ("name", "enabled", "staged", "note")
"""Keys of every rule, told once."""

BEFORE = """\
# The rule language

Made by `make reference` from the models in `egressguard/policy`; a change of this page is lost. `rules/README.md`
tells how to work with rule files, `docs/example/` is a small policy with limits, effects, a staged rule and an
overlay.

A policy is a folder of YAML files. Each has some of these sections; the lists of one section are joined in the order
of the file names, `site` stands once. This is a whole one:

```yaml
site:
  zones:
    lan: {interfaces: "@inside", networks: 192.168.0.0/16}
  domains: example.org
  relay:
    listeners: {lan: {kind: smtp, port: 25}, submission: {kind: submission, port: 587}}
flows:
  - {name: block-direct-smtp, from: lan, port: 25, action: reject}
mail:
  - {name: malware, match: {verdict: infected}, action: quarantine, folder: Infected}
  - {name: users, match: {authenticated: true}, action: accept}
  - {name: own-domains, match: {recipient_domain: "@local"}, action: accept}
```

`egressguard check DIRECTORY` tells every fault with file, line, column, what was found and what was expected. In an
editor with a YAML language server the first line `# yaml-language-server: $schema=schema.json` does so while you type
(in a file of `sites/NAME/`: `../../overlay.schema.json`).

## First match wins

Flow rules, message rules and routes are asked from the top, and the first that matches decides. All keys of a rule
must match; a key with a list matches when one item does; a key left out matches everything. An empty list is a fault.

- A flow that no rule matches passes: this is a wall around SMTP, not the site's whole firewall.
- A message that no rule matches is refused: "relaying denied", 550.
- A message that no route matches goes to the recipient domain's MX.

What cannot be known now (a scanner that does not answer) is no match and no miss: the message is deferred with 451,
unless another key of the rule says no for certain. A recipient whom no content could get accepted is refused at RCPT;
the rest is decided after DATA. A message to several recipients gets the strictest of their decisions: defer, reject,
quarantine, hold, accept, in this order.

## Values and names

| word | is written |
| --- | --- |
| name | lower-case letters, digits, `-` and `_`, at most 63 |
| prefix | `192.0.2.0/24`, `2001:db8::/32`, or one address; IPv4-mapped IPv6 counts as IPv4 |
| text | with quotes where it starts with `@`, `*`, `&`, `!` or a quote, or holds `: ` or ` #` |
| shell pattern | `*` any text, `?` one character, `[ab]` one of these; case is ignored, the whole text must match |
| domain, in a match | `example.org`, `.example.org` (all below it, not itself), `"@local"` |
| mail address, in a match | `anna@example.org`, `"*@example.org"`; for senders also `"<>"`, the sender of bounces |

`true`, `false`, `null` and whole numbers are what they look like; all else is text: `no`, `on`, `22:22`, `0755`,
`1.5`. YAML's aliases, anchors and tags are refused.

- A **zone** is a part of the network: by interfaces, by networks, or both. Message rules know a client by its address
  only, so a zone that they name needs `networks`. `any` and `gateway` are taken.
- A **set** is a list of prefixes from `site.sets`, named with an @: `source: "@mail-servers"`. A rule that names only
  empty sets never matches.
- `"@inside"` (interfaces of a zone) is every interface without a default route, `"@local"` (domains) is
  `site.domains`, `"@any"` (match of a device) is each device. `mx` (ways out) is delivery by MX look-up; no smart
  host can have this name."""

SECTIONS = (
    Section("## A file", ""),
    Section("## site", "Site", "Stands once. An overlay changes it key by key."),
    Section("### site.zones", "Zone", "Name: mapping. One of the two keys must be there."),
    Section("### site.relay", "Relay"),
    Section("### site.relay.listeners", "Listener", "Name: mapping."),
    Section("### site.relay.tls", "Tls", "Both or none."),
    Section("### site.relay.sessions", "SessionLimits"),
    Section("### site.relay.retry", "Retry"),
    Section("### site.relay.concurrency", "Concurrency"),
    Section("### site.relay.dsn", "Dsn", "Notices are bounces, and what NOTIFY asks for."),
    Section("### site.relay.suppression", "Suppression"),
    Section("### site.block_lists", "BlockList", "Name: mapping. A list that does not answer lists nobody."),
    Section("### site.smart_hosts", "SmartHost", "Name: mapping."),
    Section("### site.smart_hosts auth", "SmartHostAuth", "Secrets never stand in rule files."),
    Section("### site.signing", "Signer", "Name: mapping. Two of one domain: both sign. [Below](#signatures) is more."),
    Section("### site.forwarding", "Forwarding"),
    Section("### site.forwarding.srs", "Srs"),
    Section("### site.smart_hosts rate", "Rate", "As those of a destination: kept over a restart, counted here only."),
    Section("### site.smart_hosts breaker", "Breaker"),
    Section("### site.destinations", "Destination", "Name: mapping."),
    Section("### site.pipes", "Pipe", "Name: mapping. [Below](#programs) is what a program has to know."),
    Section("### client_certificate", "ClientCertificate", "Of smart hosts and of `tls` rules."),
    Section("### site.packet_plane", "PacketPlane"),
    Section("### site.apply", "Apply"),
    Section("### site.apply.management", "ManagementFlow", "Items of the list."),
    Section("### site.scan", "Scan"),
    Section(
        "### site.scan.clamd", "Clamd", "Found by any engine is infected. An engine that fails is left alone a while."
    ),
    Section("### site.scan.rspamd", "Rspamd", "`score_at_least` compares with the highest score of those asked."),
    Section("### site.scan.rspamd.controller", "RspamdController"),
    Section("### site.scan.spamd", "Spamd"),
    Section(
        "### site.scan.yara", "Yara", "Rule files are part of the rules: checked, applied and rolled back with them."
    ),
    Section("### site.mailboxes", "Mailboxes", "[Below](#mailboxes) is how an address finds its account."),
    Section("### site.mailboxes.accounts", "MailboxAccount", "By the account's name."),
    Section("### site.mailboxes quota", "Quota", "Of all, or of one account, which then has no other."),
    Section("### site.mailboxes.mbox", "Mbox", "`docs/operate.md` has what the relay's user must be allowed to do."),
    Section("### site.access", "Access", "Dovecot. Passwords are taken over TLS only."),
    Section("### site.access.guessing", "Guessing"),
    Section("### site.access.own_quarantine", "OwnQuarantine", "By hard links: what moves away there stays held."),
    Section("### site.quarantine", "Holding"),
    Section("### site.quarantine.retention", "Retention", "By the name of the folder."),
    Section("### site.quarantine.digest", "Digest"),
    Section("### site.quarantine.digest.links", "Links", "`docs/operate.md` has how they get to people."),
    Section("### site.journal", "Journaling", "`docs/operate.md` has what is recorded."),
    Section("### site.journal.passed_flows", "PassedFlows"),
    Section("### site.metrics", "Metrics"),
    Section("## Every rule", "FlowRule", "Items of `flows`, `mail`, `limits`, `routes` and `tls` have these.", COMMON),
    Section("## flows", "FlowRule"),
    Section("## mail", "MailRule"),
    Section("### mail match", "MailMatch", "Local time is the gateway's. Facts of the content are known after DATA."),
    Section("## limits", "Limit", "At least one number must be there. [Below](#counting) is how they count."),
    Section("## routes", "Route"),
    Section("### routes match", "RouteMatch"),
    Section("## tls", "TlsRule", "For delivery by MX. [Below](#tls-with-other-hosts) is what the levels mean."),
    Section("### tls match", "TlsMatch"),
    Section(
        "## devices",
        "Device",
        "A thing that cannot log in: from its addresses, with its senders, to its recipients.\n"
        "A message rule with `device` in its match has to say what such messages may do.",
    ),
    Section(
        "## invariants",
        "Invariant",
        "What `egressguard prove` proves for all packets, in the rules and in the kernel, or shows a packet against.\n"
        "It decides nothing. Every site has some without writing them: see `docs/operate.md`.",
    ),
    Section("### invariants never, always, except", "Packets", "Packets of one kind; all keys must match."),
)

AFTER = """\
## Actions

| in | action | what happens |
| --- | --- | --- |
| flows | `allow` | the flow passes |
| | `reject` | blocked: TCP gets a reset, UDP an ICMP error |
| | `drop` | blocked without an answer |
| | `redirect` | ends in the relay, at the listener `site.relay.redirect_to`; needs `port`, TCP, `decide: kernel` |
| | `tarpit` | ends at `site.relay.tarpit_port`, in a greeting that never ends; needs the same |
| mail | `accept` | stored, 250, delivered |
| | `reject` | 550 with `text` |
| | `defer` | 451 with `text`; the client tries again |
| | `quarantine` | stored in the quarantine's `folder`, 250; delivered when somebody releases it |
| | `hold` | stored in the queue, 250; waits there until somebody releases it |
| | `continue` | the next rule is asked; what this one adds (`limit`, `tag`, `add_header`, `route`, ...) stays |

`redirect` brings a message to the relay, the message rules then say what may become of it: match `redirected: true`.

Flow rules judge every packet of who opened a flow, so a new rule cuts flows that stand. `speaks: smtp` looks at what
is said and meets a flow whose opening other rules let pass; a rule before it that names the flow goes first.

Two things need no rule: a packet with an IPv4-mapped address is dropped, and so is TCP in fragments from a zone. One
is left to the zones: IPIP, 6in4 (6to4, ISATAP), GRE and Teredo that no flow rule names are rejected, unless the zone
says `tunnels: allow`. A rule with `protocol: gre` and the like is an exception for some hosts.

A rule with `staged: true` is evaluated, counted and journaled as what it would have done, and decides nothing; so is
a staged limit. Take `staged` away when the journal shows what you want.

## Ways out

What `via` of a route and `route` of a message rule may say. What is tried comes in order: the next one only while none
has answered a MAIL command.

| written | is |
| --- | --- |
| `mx` | the MX hosts of the recipient's domain |
| `provider` | a smart host of `site.smart_hosts`, which may have a password; a list is tried in its order |
| `"[mx.example.org]"`, `"[192.0.2.1]:2525"` | this very host, port 25 if none is said; STARTTLS if offered |
| `"smtps:[mx.example.org]"` | the same with TLS from the start, its certificate verified, port 465 |
| `smtp:example.org` | the MX hosts of another domain; stands alone |
| `"lmtp:[192.0.2.1]"`, `lmtp:unix:/run/dovecot/lmtp` | a mailbox server (RFC 2033), port 24 or a Unix socket |
| `pipe:uucp`, `pipe:uucp:nodeb` | a program of `site.pipes`, `nodeb` its {nexthop}; stands alone |

A next hop that is this gateway itself is not dialled. Trouble with a next hop (no such name, a refused connection)
is never a bounce before the message is given up.

Where a message rule has `source_routes`, users and devices that it takes may program the route themselves: one field
`X-EgressGuard-Route: [mx.example.org]:2525` in the message names a way out of that list. Another one is refused;
without the field, routes decide. Nothing else in a message is a route, neither `a%b@c` nor `@a,@b:c@d`.

The first route that matches decides. Mail for `site.domains` goes into the mailboxes here before any route is asked;
only `route` of a message rule can send it elsewhere.

## Programs

A pipe's program runs as the relay's user, without a shell, without capabilities and with no way to gain any (setuid
does not work); where it has to become another user, it needs a door of its own, such as a socket or a spool that the
relay's user may write to. It gets a fixed environment and the directory `/`.

| its exit status | means |
| --- | --- |
| 0 | delivered, if it was given the whole message |
| 65, 67, 68, 69, 76, 77 of sysexits | refused: 5.6.0, 5.1.1, 5.1.2, 5.3.0, 5.5.0, 5.7.0 |
| 75 and all others, a signal, no end in time | tried later |

Of what it says the first line goes into log and notice; an RFC 3463 code in front of it counts where the status means
the same. No program is given an address that begins with `-`, that is not ASCII, or that has a space, a quote, a
parenthesis or one of `\\<>$|;&` and the backquote: such a recipient is refused.

## TLS with other hosts

| `level` | what a host must do to get mail |
| --- | --- |
| `none` | nothing: TLS is not tried |
| `opportunistic` | nothing: STARTTLS where it works, whoever answers; where it is broken, plaintext |
| `published` | what its domain asks for: DANE (`site.dnssec`), else MTA-STS (`relay.mta_sts`), else opportunistic |
| `encrypt` | STARTTLS, whoever answers; never plaintext |
| `dane` | match the TLSA records (RFC 7672), where there are any; else opportunistic |
| `dane-only` | match the TLSA records; none that can be used is no delivery |
| `verify` | show a certificate of a trusted authority for its own name; who lies in DNS can choose the name |
| `secure` | show a certificate of a trusted authority for the recipient's domain or a name below it |

`published` is what happens where no rule matches. What is demanded and not given is tried again later, and bounces
when the message is given up. A message with REQUIRETLS goes only to hosts that offer it and are known for certain, by
DNSSEC, by MTA-STS, or by `secure`; else it bounces (5.7.30, 5.7.10).

## Counting

A limit counts for messages that a matching rule names it for (`limit:`), apart for each host, device, user, sender
domain or zone (`per`). What the message would add is looked at before the rule decides: above the limit, `above`
decides in the rule's place. `defer` (451), `reject` (550), `quarantine` (into `folder`); `contain` is `defer`, and
the host gets 451 for everything during `contain_seconds`. A refused message counts as a refusal and nothing else.

Time is cut into twelfths of the span, and thirteen of them are looked at: no span ever holds more than the number;
what was counted frees up at most a twelfth late. `over_limit` in a match asks whether a limit would be exceeded,
without charging it.

## Mailboxes

An address of `site.domains` is looked for in this order; case never counts.

1. An alias of the whole address, then of the local part. Its addresses get the message as one of its own, each with
   retries of its own; what they name may be an alias again. An account in its own alias gets the mail itself.
2. The account of that name; then with what stands behind the last `separator` taken away, and so on: `anna+lists` is
   for `anna`, and `lists` is the detail that its rules can ask for. The part in front may be an alias, too.
3. `postmaster`: the first of `access.quarantine_admins`, where no account has that name.
4. `catch_all` of the domain. Else there is no such mailbox: 550 at RCPT.

An account over its quota is put off at RCPT, 452 4.2.2; a message larger than the whole quota is refused, 552 5.2.3.
What is counted are the messages in all folders, Trash too, with CRLF line ends, as Dovecot's quota plugin counts them.
What was taken before stays in the queue while the account is full. A forwarded message carries Delivered-To, and one
that has been there already is not sent on again: an account keeps it, an alias refuses it (5.4.6).

## Signatures

Mail of users, devices, redirected hosts, local programs and the gateway itself is signed when it is taken, by the
signers of the author's domain (the one domain of its one From field). A message without such a From is not signed;
where a key cannot be read the message is deferred, 451. Mail of the world is never signed: it gets an ARC set, if
`site.forwarding.seal` says so and a recipient is not ours.

A new key: `egressguard dkim make`, a second signer with `sign: false`, DNS, `egressguard dkim check`; then `sign: true`
there and `sign: false` at the old one, whose record stays in DNS as long as signed mail may be under way.

`rewrite_sender` needs `site.forwarding.srs`. Bounces (null reverse-path only) to an address so made go back to its
sender, as long as rules take mail for that domain; a forged or old one is refused, 550 5.1.1.

## Includes, variables, lists of prefixes

Every `*.yaml` at the top of the folder is read, in the order of names. A file in a folder below is read only when
something names it: `include: shared/devices.yaml` in front of the file that says so, each file once. Names are
relative to the rules folder and never leave it.

```yaml
include: shared/devices.yaml
variables: {domain: example.org, trusted: [10.1.0.0/16, 10.2.0.0/16], helpdesk: "file:shared/helpdesk.txt"}
site:
  zones: {lan: {networks: "${trusted}"}}
  sets: {blocked: ["file:lists/blocked.txt", 192.0.2.7]}
  domains: ["${domain}", "mail.${domain}"]
```

`${NAME}` alone is the variable's value, be it text, number or list; inside other text it is its text. It stands for
values, never for keys, and not in `include` or `variables`. Variables hold in all files; where a name stands twice
the file read later wins, and an overlay wins over all.

`file:PATH` in a set stands for the prefixes in that file: one a line, `#` starts a comment.

## Overlays

`--site NAME`, or `EGRESSGUARD_SITE=NAME`, reads `sites/NAME/*.yaml` over the rest:

- `site` is changed key by key. A list is replaced as a whole; `null` takes a key away.
- An item of `flows`, `mail`, `limits`, `routes`, `tls` or `devices` takes the place of the item with its name.
- Items with new names go in front of the others, for the first match wins. `enabled: false` in a rule of the same
  name switches it off."""

EXPECTATIONS = (
    Section(
        "## Expectations",
        "",
        """\
Cases beside the rules: given this flow or this message, the rules say that. They stand in `expect/*.yaml`, for a site
also in `sites/NAME/expect/*.yaml` (a case there takes the place of the one with its name); the first line
`# yaml-language-server: $schema=../expect.schema.json` lets editors check them. `egressguard test` runs them,
`egressguard test --mutate` names the rules that no case notices, `egressguard apply` refuses rules that break one.
Only the keys that `expect` has are compared.""",
    ),
    Section("### with", "Stand", "For lists that each site fills itself."),
    Section("### flows: a case", "FlowCase"),
    Section("### flows: given", "FlowGiven"),
    Section("### flows: expect", "FlowExpect"),
    Section("### mail: a case", "MailCase"),
    Section("### mail: given", "MailGiven"),
    Section("### mail: given attachments", "AttachmentGiven"),
    Section("### mail: expect", "MailExpect"),
)
