"""Write tests/sites/campus: a site of realistic size, as its administrators would keep it, with its expectations.

`python -m tests.sites.make` writes the files again; a test holds that they are what this writes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

CAMPUS = Path(__file__).parent / "campus"
ZONES = {"staff": 1, "students": 2, "labs": 3, "servers": 4, "guests": 5}
DEPARTMENTS = (
    *("archive", "art", "biology", "botany", "chemistry", "classics", "clinic", "dance", "design", "drama"),
    *("ecology", "economics", "energy", "film", "finance", "forestry", "genetics", "geography", "geology", "german"),
    *("health", "history", "kitchen", "language", "law", "library", "logic", "maths", "media", "music"),
    *("nursing", "optics", "physics", "press", "robotics", "science", "sports", "statistics", "surgery", "theology"),
)
LISTED = 20_000
FLOW_CLIENT = {"staff": "10.1.200.9", "students": "10.2.200.9", "labs": "10.3.200.9", "guests": "10.5.200.9"}
OUTSIDE = "198.51.100.7"

Files = dict[str, str]
Cases = list[str]


def write() -> None:
    for name, text in files().items():
        path = CAMPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def files() -> Files:
    """All files of the site: name -> text."""
    flow_rules, flow_cases = _joined(_flows())
    mail_rules, mail_cases = _joined(_mail())
    return {
        "site.yaml": _site(),
        "devices.yaml": "devices:\n" + "".join(map(_device, enumerate(DEPARTMENTS))),
        "flows.yaml": "# Outbound SMTP, zone by zone. First match wins.\nflows:\n" + "\n".join(flow_rules),
        "limits.yaml": _LIMITS,
        "mail.yaml": "# What the relay does with a message. First match wins.\nmail:\n" + "\n".join(mail_rules),
        "routes.yaml": _ROUTES,
        "lists/bad-networks.txt": "# Networks that nobody here has business with.\n" + "".join(_listed_networks()),
        "lists/trusted-servers.txt": "".join(f"10.4.{n}.25\n" for n in range(len(DEPARTMENTS))),
        "variables/hostname": "gateway.campus.example\n",
        "expect/flows.yaml": "flows:\n" + "".join(flow_cases),
        "expect/mail.yaml": "mail:\n" + "".join(mail_cases) + _ROUTE_CASES,
        "sites/north/site.yaml": _NORTH,
        "sites/north/expect/north.yaml": _NORTH_CASES,
    }


def _site() -> str:
    zones = "".join(
        f'    {name}: {{interfaces: vlan{n}0, networks: [10.{n}.0.0/16, "2001:db8:{n}::/48"]}}\n'
        for name, n in ZONES.items()
    )
    return f"""# A university with {len(DEPARTMENTS)} departments.
variables:
  hostname: "file:variables/hostname"
  postmaster: postmaster@campus.example

site:
  zones:
{zones}
  sets:
    bad-networks: "file:lists/bad-networks.txt" # {LISTED} of them, fetched every night
    trusted-servers: "file:lists/trusted-servers.txt"
    scanners: [10.4.250.0/28]

  domains: [campus.example]
  relay:
    hostname: "${{hostname}}"
    listeners:
      lan: {{kind: smtp, port: 25}}
      submission: {{kind: submission, port: 587}}
      submissions: {{kind: submissions, port: 465}}
    redirect_to: lan
  smart_hosts:
    provider: {{host: smtp.provider.example, port: 2525, auth: {{user: campus, secret: "file:provider.password"}}}}
    bulk: {{host: bulk.provider.example}}
  access: {{imaps_port: 993}}
"""


def _device(numbered: tuple[int, str]) -> str:
    n, department = numbered
    return f"""  - name: printer-{department}
    addresses: [10.1.{n}.70, "2001:db8:1:{n:x}::70"]
    senders: printer@{department}.campus.example
    recipients: "*@campus.example"
    note: second floor, serial {4000 + n}
"""


def _listed_networks() -> Iterator[str]:
    """Networks outside of all that the cases use."""
    chance = random.Random(25)
    four = sorted(chance.sample(range(0x14000000 >> 8, 0xA0000000 >> 8), LISTED * 3 // 4))
    six = sorted(chance.sample(range(1 << 24), LISTED // 4))
    yield from (f"{IPv4Network((n << 8, 24))}\n" for n in four)
    yield from (f"{IPv6Network(((0x2A000000 << 96) | (n << 80), 48))}\n" for n in six)


def bad_address() -> str:
    """An address in the first listed network."""
    return next(_listed_networks()).strip().replace(".0/24", ".9")


Written = Iterator[tuple[str, str]]
"""A rule, and the cases that watch it."""


def _joined(written: Written) -> tuple[list[str], list[str]]:
    pairs = list(written)
    return [rule for rule, _ in pairs], [case for _, case in pairs]


def _flow(name: str, rule: str, given: str, action: str) -> tuple[str, str]:
    case = f"  - name: {name}\n    given: {{{given}}}\n    expect: {{action: {action}, rule: {name}}}\n"
    return f"  - name: {name}\n{rule}", case


def _flows() -> Written:
    for zone, client in FLOW_CLIENT.items():
        name = f"{zone}-to-bad-networks"
        rule = f'    from: {zone}\n    destination: "@bad-networks"\n    port: [25, 465, 587, 2525]\n    action: drop\n'
        yield _flow(name, rule, f"from: {client}, to: {bad_address()}, port: 587", "drop")
    for n, department in enumerate(DEPARTMENTS):
        rule = f"    from: servers\n    source: 10.4.{n}.25\n    port: 25\n    action: allow\n    note: its own MX\n"
        yield _flow(f"mx-of-{department}", rule, f"from: 10.4.{n}.25, to: {OUTSIDE}", "allow")
        name = f"old-devices-of-{department}"
        rule = f"    from: staff\n    source: 10.1.{n}.64/26\n    port: 25\n    action: redirect\n"
        yield _flow(name, rule, f"from: 10.1.{n}.77, to: {OUTSIDE}", "redirect")
        name = f"lab-of-{department}-no-submission"
        rule = f"    from: labs\n    source: 10.3.{n}.0/24\n    port: [465, 587]\n    action: reject\n"
        yield _flow(name, rule, f"from: 10.3.{n}.5, to: {OUTSIDE}, port: 465", "reject")
        name = f"partner-of-{department}"
        rule = f"    from: students\n    destination: 203.0.113.{4 * n}/30\n    port: 587\n    action: allow\n"
        yield _flow(name, rule, f"from: 10.2.0.5, to: 203.0.113.{4 * n + 1}, port: 587", "allow")
    for n in range(22):
        name = f"hall-{n + 1}-submission-by-us"
        rule = f"    from: students\n    source: 10.2.{n + 100}.0/24\n    port: [465, 587, 2525]\n    action: reject\n"
        yield _flow(name, rule, f"from: 10.2.{n + 100}.5, to: {OUTSIDE}, port: 2525", "reject")
    rule = (
        "    from: guests\n    port: [465, 587, 2525]\n    action: reject\n    staged: true\n    note: from term on\n"
    )
    case = f"""  - name: guests-submission-by-us is tried out
    given: {{from: 10.5.0.9, to: {OUTSIDE}, port: 587}}
    expect: {{action: allow, rule: guests-submission, would: [guests-submission-by-us]}}
"""
    yield f"  - name: guests-submission-by-us\n{rule}", case
    rule = "    from: guests\n    port: [465, 587]\n    action: allow\n"
    yield _flow("guests-submission", rule, "from: 10.5.0.9, to: 192.0.2.9, port: 465", "allow")
    rule = '    from: servers\n    source: "@scanners"\n    port: 25\n    action: drop\n    log: false\n'
    yield _flow("scanners-never", rule, f"from: 10.4.250.3, to: {OUTSIDE}", "drop")
    for zone, number in ZONES.items():
        name, client = f"{zone}-no-direct-smtp", f"10.{number}.200.9"
        rule = f"    from: {zone}\n    port: 25\n    action: reject\n"
        yield _flow(name, rule, f"from: {client}, to: {OUTSIDE}, interface: vlan{number}0", "reject")
    for n, protocol in enumerate(("tcp", "udp", "tcp", "udp", "tcp", "udp", "tcp", "udp")[:7]):
        name = f"guests-no-port-{9000 + n}"
        rule = f"    from: guests\n    protocol: {protocol}\n    port: {9000 + n}\n    action: reject\n"
        yield _flow(name, rule, f"from: 10.5.0.9, to: {OUTSIDE}, port: {9000 + n}, protocol: {protocol}", "reject")


def _message(name: str, rule: str, given: str, expect: str) -> tuple[str, str]:
    case = f"  - name: {name}\n    given: {{{given}}}\n    expect: {{{expect}}}\n"
    return f"  - name: {name}\n{rule}", case


_ANNA = "client: 10.1.200.9, user: anna, sender: anna@campus.example"


def _mail() -> Written:
    yield from _content()
    for department in DEPARTMENTS:
        domain = f"{department}.campus.example"
        rule = f"    match: {{sender_domain: [{domain}, .{domain}], recipient_domain: mass.example}}\n"
        name = f"{department}-newsletter"
        given = f"client: 10.1.200.9, user: anna, sender: news@lists.{domain}, recipient: all@mass.example"
        rule += f"    action: accept\n    route: [bulk]\n    limit: newsletters\n    tag: {department}\n"
        expect = f"action: accept, rule: {name}, via: bulk, limits: newsletters, tags: {department}"
        yield _message(name, rule, given, expect)
    for n in range(60):
        rule = f'    match: {{recipient: ["*@typo-{n}.example", "*@typo{n}.example"]}}\n    action: reject\n'
        rule += f"    text: There is no typo-{n}.example; look at the domain again\n"
        given = f"{_ANNA}, recipient: bert@typo{n}.example"
        yield _message(f"typo-{n}", rule, given, f"action: reject, rule: typo-{n}")
    for n in range(50):
        rule = f"    match: {{sender_domain: spammer-{n}.example}}\n    action: reject\n    note: seen in January\n"
        given = f"client: 203.0.113.9, sender: x@spammer-{n}.example, recipient: anna@campus.example"
        yield _message(f"spammer-{n}", rule, given, f"action: reject, rule: spammer-{n}")
    for n, department in enumerate(DEPARTMENTS):
        rule = f'    match: {{device: printer-{department}, hours: "06:00-22:00"}}\n    action: accept\n    limit: devices\n'
        given = f"client: 10.1.{n}.70, sender: printer@{department}.campus.example, recipient: anna@campus.example"
        expect = f"action: accept, rule: printer-of-{department}, limits: devices"
        name = f"printer-of-{department}"
        written, case = _message(name, rule, given, expect)
        world = given.replace("anna@campus.example", "b@x.example")
        case += f"  - name: {name} and not to the world\n    given: {{{world}}}\n    expect: {{action: reject}}\n"
        yield written, case
    for n, department in enumerate(DEPARTMENTS):
        rule = f"    match: {{client: 10.1.{n}.0/24, redirected: true, sender_domain: {department}.campus.example}}\n"
        given = (
            f"client: 10.1.{n}.80, redirected: true, sender: scan@{department}.campus.example, recipient: b@x.example"
        )
        name = f"old-devices-of-{department}"
        yield _message(name, f"{rule}    action: accept\n", given, f"action: accept, rule: {name}")
    for n, department in enumerate(DEPARTMENTS):
        rule = f"    match: {{client: 10.4.{n}.25, sender_domain: {department}.campus.example}}\n    action: accept\n"
        name = f"server-of-{department}"
        given = f"client: 10.4.{n}.25, sender: x@{department}.campus.example, recipient: b@x.example"
        yield _message(name, rule, given, f"action: accept, rule: {name}, via: mx")
    yield from _people()


def _content() -> Written:
    to = "recipient: bert@example.net"
    held = "    action: quarantine\n"
    yield _message(
        "malware",
        f'    match: {{verdict: infected}}\n{held}    folder: Infected\n    notify: "${{postmaster}}"\n',
        f"{_ANNA}, {to}, verdict: infected",
        "action: quarantine, rule: malware, folder: Infected, notify: postmaster@campus.example",
    )
    yield _message(
        "denied",
        f"    match: {{verdict: denied}}\n{held}    folder: Denied\n",
        f"{_ANNA}, {to}, verdict: denied",
        "action: quarantine, rule: denied, folder: Denied",
    )
    yield _message(
        "locked-archives",
        f'    match: {{attachment_encrypted: true, recipient_domain: "@local"}}\n{held}    folder: Locked\n',
        "client: 203.0.113.9, recipient: anna@campus.example, attachments: [{path: [a.zip, b.pdf], encrypted: true}]",
        "action: quarantine, rule: locked-archives, folder: Locked",
    )
    yield _message(
        "macros-from-outside",
        f"    match: {{attachment_macro: true, authenticated: false}}\n{held}    folder: Macros\n",
        "client: 203.0.113.9, recipient: anna@campus.example, attachments: [{path: a.doc, macro: true}]",
        "action: quarantine, rule: macros-from-outside, folder: Macros",
    )
    yield _message(
        "deep-archives",
        f"    match: {{attachment_deeper_than: 3}}\n{held}    folder: Deep\n",
        f"{_ANNA}, {to}, attachments: [{{path: [a.zip, b.zip, c.zip, d.zip, e.txt]}}]",
        "action: quarantine, rule: deep-archives, folder: Deep",
    )
    yield _message(
        "forged-home",
        '    match: {sender_domain: "@local", authenticated: false, spf: [fail, softfail], dmarc: fail}\n    action: reject\n',
        "client: 203.0.113.9, sender: boss@campus.example, recipient: anna@campus.example, spf: fail, dmarc: fail",
        "action: reject, rule: forged-home",
    )
    yield _message(
        "spam",
        "    match: {score_at_least: 12}\n    action: reject\n    text: This looks like spam\n",
        f"{_ANNA}, {to}, score: 12",
        "action: reject, rule: spam, text: This looks like spam",
    )
    yield _message(
        "maybe-spam",
        f"    match: {{score_at_least: 6.5}}\n{held}    folder: Spam\n",
        f"{_ANNA}, {to}, score: 6.5",
        "action: quarantine, rule: maybe-spam, folder: Spam",
    )
    yield _message(
        "huge",
        "    match: {larger_than_octets: 40000000}\n    action: reject\n    text: Larger than 40 MB; use the file service\n",
        f"{_ANNA}, {to}, size_octets: 40000001",
        "action: reject, rule: huge",
    )
    yield _message(
        "many-recipients",
        "    match: {more_than_recipients: 3, header: {Precedence: [bulk, list]}}\n    action: hold\n",
        f"{_ANNA}, recipient: [a@x.example, b@x.example, c@x.example, d@x.example], header: {{Precedence: Bulk}}",
        "action: hold, rule: many-recipients",
    )


def _people() -> Written:
    yield _message(
        "students-at-night",
        '    match: {client: students, hours: "00:00-05:00", weekdays: mon-fri}\n    action: continue\n    limit: nights\n',
        "client: 10.2.0.9, user: eva, sender: eva@campus.example, recipient: b@x.example, when: tue 03:00",
        "action: accept, rule: users, limits: [nights, users]",
    )
    yield _message(
        "outlook-express",
        '    match: {header: {X-Mailer: "*Outlook Express*"}}\n    action: continue\n    tag: old-client\n',
        f"{_ANNA}, recipient: b@x.example, header: {{X-Mailer: Microsoft Outlook Express 6.0}}",
        "action: accept, rule: users, tags: old-client",
    )
    yield _message(
        "name-the-way-in",
        "    match: {client: staff}\n    action: continue\n    add_header: {X-Campus: staff}\n",
        f"{_ANNA}, recipient: b@x.example",
        "action: accept, rule: users, headers: {X-Campus: staff}",
    )
    for n in range(13):
        name = f"locked-out-{n}"
        rule = f"    match: {{user: gone-{n}}}\n    action: reject\n    text: This account is closed\n"
        given = f"client: 10.1.200.9, user: gone-{n}, sender: gone-{n}@campus.example, recipient: b@x.example"
        yield _message(name, rule, given, f"action: reject, rule: {name}")
    yield _message(
        "no-external-tls",
        '    match: {authenticated: true, tls: false, helo: "*.guest.example"}\n    action: defer\n',
        f"{_ANNA}, recipient: b@x.example, helo: pc.guest.example",
        "action: defer, rule: no-external-tls",
    )
    yield _message(
        "users",
        "    match: {authenticated: true}\n    action: accept\n    limit: users\n",
        f"{_ANNA}, recipient: b@x.example",
        "action: accept, rule: users, limits: users",
    )
    yield _message(
        "own-domains",
        '    match: {recipient_domain: "@local"}\n    action: accept\n    limit: hosts\n',
        "client: 203.0.113.9, sender: x@y.example, recipient: anna@campus.example",
        "action: accept, rule: own-domains, limits: hosts",
    )
    yield _message(
        "trusted-servers",
        '    match: {client: "@trusted-servers", listener: lan}\n    action: accept\n',
        "client: 10.4.3.25, sender: x@y.example, recipient: b@x.example",
        "action: accept, rule: trusted-servers",
    )


_LIMITS = """limits:
  - {name: users, per: user, messages_per_hour: 300, distinct_recipients_per_day: 1000, above: defer}
  - {name: devices, per: device, messages_per_minute: 10, octets_per_day: 500000000, above: reject}
  - {name: newsletters, per: sender_domain, recipients_per_hour: 5000, above: defer, note: ask the press office}
  - {name: nights, per: user, new_destinations_per_hour: 20, above: quarantine, folder: Nights}
  - {name: hosts, per: host, refusals_per_hour: 50, above: contain, contain_seconds: 1800}
"""

_ROUTES = """routes:
  - {name: mass-mail, match: {recipient_domain: [mass.example, .mass.example]}, via: bulk}
  - {name: partner, match: {recipient_domain: partner.example}, via: [provider, bulk]}
  - {name: old-clients, match: {tag: old-client}, via: provider}
  - {name: library, match: {sender_domain: library.campus.example}, via: mx}
"""

_ROUTE_CASES = """  - name: the partner's mail goes by the provider
    given: {client: 10.1.200.9, user: anna, sender: anna@campus.example, recipient: x@partner.example}
    expect: {action: accept, route: partner, via: [provider, bulk]}
  - name: mass mail that is no newsletter goes there too
    given: {client: 10.1.200.9, user: anna, sender: anna@campus.example, recipient: x@mass.example}
    expect: {action: accept, route: mass-mail, via: bulk}
  - name: old clients' mail goes by the provider
    given:
      {client: 10.1.200.9, user: anna, sender: anna@campus.example, recipient: b@x.example, header: {X-Mailer: Outlook Express}}
    expect: {route: old-clients, via: provider}
  - name: the library speaks for itself
    given: {client: 10.1.200.9, user: lea, sender: lea@library.campus.example, recipient: b@x.example}
    expect: {route: library, via: mx}
  - name: above the users' limit mail waits
    given: {client: 10.1.200.9, user: anna, sender: anna@campus.example, recipient: b@x.example, over_limit: users}
    expect: {action: defer, limit: users}
  - name: above the devices' limit it is refused
    given: {client: 10.1.0.70, sender: printer@archive.campus.example, recipient: anna@campus.example, over_limit: devices}
    expect: {action: reject, limit: devices}
  - name: newsletters wait
    given: {client: 10.1.200.9, user: a, sender: n@art.campus.example, recipient: x@mass.example, over_limit: newsletters}
    expect: {action: defer, limit: newsletters}
  - name: what a student sends at night to too many new places is looked at
    given: {client: 10.2.0.9, user: eva, sender: eva@campus.example, recipient: b@x.example, when: tue 03:00, over_limit: nights}
    expect: {action: quarantine, limit: nights, folder: Nights}
  - name: by day it is not
    given: {client: 10.2.0.9, user: eva, sender: eva@campus.example, recipient: b@x.example, over_limit: nights}
    expect: {action: accept}
  - name: a host that is refused too often is shut out
    given: {client: 203.0.113.9, sender: x@y.example, recipient: anna@campus.example, over_limit: hosts}
    expect: {action: defer, limit: hosts}
  - name: a stranger may not relay
    given: {client: 10.2.0.9, sender: x@y.example, recipient: b@x.example}
    expect: {action: reject, rule: (none)}
"""

_NORTH = """# The north campus: one network more, another name, and no direct way to the partner.
variables:
  hostname: north.campus.example
site:
  zones:
    labs: {networks: [10.3.0.0/16, "2001:db8:3::/48", 10.33.0.0/16]}
routes:
  - {name: partner, match: {recipient_domain: partner.example}, via: bulk}
flows:
  - {name: north-labs-own-mx, from: labs, source: 10.33.0.25, port: 25, action: allow}
"""

_NORTH_CASES = f"""flows:
  - name: the north labs' server may
    given: {{from: 10.33.0.25, to: {OUTSIDE}}}
    expect: {{action: allow, rule: north-labs-own-mx}}
  - name: its neighbour may not
    given: {{from: 10.33.0.26, to: {OUTSIDE}}}
    expect: {{action: reject, rule: labs-no-direct-smtp}}
mail:
  # In the place of the base's expectation of this name.
  - name: the partner's mail goes by the provider
    given: {{client: 10.1.200.9, user: anna, sender: anna@campus.example, recipient: x@partner.example}}
    expect: {{action: accept, route: partner, via: bulk}}
"""


if __name__ == "__main__":
    write()
