"""No password before TLS, for a client that is not on the same machine: in a network namespace of the test's own.

Dovecot takes a client with the server's own address as secured; two addresses on one namespace's loopback are two
hosts to it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from egressguard.access.model import Ports
from egressguard.access.programs import Programs

pytestmark = [pytest.mark.peers, pytest.mark.system]

SERVER, CLIENT = "192.0.2.1", "192.0.2.2"
PORTS = Ports(imap=1143, imaps=1993, pop3=1110, pop3s=1995)

ASK = """
import imaplib, json, poplib, socket, ssl, sys
server, client = sys.argv[1:]
answer = {}
class FromClient(imaplib.IMAP4):
    def _create_socket(self, timeout):
        return socket.create_connection((self.host, self.port), 20, (client, 0))
imap = FromClient(server, 1143)
answer["capabilities"] = imap.capabilities
try:
    answer["login"] = imap.login("anna", "secret")[0]
except imaplib.IMAP4.error as wrong:
    answer["login"] = str(wrong)
imap = FromClient(server, 1143)
answer["starttls"] = imap.starttls(ssl._create_unverified_context())[0]
answer["login after"] = imap.login("anna", "secret")[0]
pop3 = poplib.POP3.__new__(poplib.POP3)
pop3._create_socket = lambda timeout: socket.create_connection((server, 1110), 20, (client, 0))
poplib.POP3.__init__(pop3, server, 1110)
answer["pop3"] = sorted(pop3.capa())
try:
    pop3.user("anna")
    answer["pop3 login"] = pop3.pass_("secret").decode()
except poplib.error_proto as wrong:
    answer["pop3 login"] = str(wrong)
print(json.dumps(answer))
"""


@pytest.fixture
def namespace():
    """`nsenter` words for a new network namespace with both addresses; gone with the process that holds it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a network namespace")
    for program in ("unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    made = f"ip link set lo up && ip addr add {SERVER}/32 dev lo && ip addr add {CLIENT}/32 dev lo && echo ready && cat"
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", made], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("needs network namespaces: unshare --net does not work here")
        yield f"nsenter --net=/proc/{holder.pid}/ns/net"
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def inside(namespace, programs, directory):
    script = directory / "dovecot-inside"
    script.write_text(f'#!/bin/sh\nexec {namespace} {programs.dovecot} "$@"\n')
    script.chmod(0o755)
    return Programs(script, programs.doveconf, programs.doveadm)


@pytest.fixture
def answer(house, start, system_dovecot, namespace):
    house.add("anna")
    model = house.model(ports=PORTS, addresses=("0.0.0.0", "::"))
    start(inside(namespace, system_dovecot, house.directory), model).wait_running()
    command = [*namespace.split(), sys.executable, "-c", ASK, SERVER, CLIENT]
    answered = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answered.returncode == 0, answered.stderr
    return json.loads(answered.stdout)


def test_no_password_is_taken_before_tls(answer):
    assert "LOGINDISABLED" in answer["capabilities"]
    assert not any(capability.startswith("AUTH=") for capability in answer["capabilities"])
    assert "PRIVACYREQUIRED" in answer["login"]
    assert answer["starttls"] == "OK"
    assert answer["login after"] == "OK"
    assert "STLS" in answer["pop3"]
    assert "USER" not in answer["pop3"]
    assert "disallowed" in answer["pop3 login"] or "AUTH" in answer["pop3 login"]
