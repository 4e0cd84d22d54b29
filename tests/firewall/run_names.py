"""A name server that knows one host: run_names.py ADDRESS PORT NAME IPV4 IPV6. Others do not exist."""

from __future__ import annotations

import json
import socket
import sys

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SECONDS = 86_400


def main(address: str, port: int, name: str, four: str, six: str) -> None:
    answers = {"A": four, "AAAA": six}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        print(json.dumps(["ready", sock.getsockname()[1]]), flush=True)
        while True:
            octets, peer = sock.recvfrom(4096)
            question = dns.message.from_wire(octets)
            reply = dns.message.make_response(question)
            asked = question.question[0]
            if asked.name.to_text().rstrip(".") != name:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            elif (kind := dns.rdatatype.to_text(asked.rdtype)) in answers:
                reply.answer.append(dns.rrset.from_text(asked.name, SECONDS, "IN", kind, answers[kind]))
            sock.sendto(reply.to_wire(), peer)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
