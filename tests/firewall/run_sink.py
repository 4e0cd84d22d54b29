"""A mail server on many ports that takes whatever it hears: run_sink.py PORT... One JSON array a line: "ready",
["heard", [PEER, PORT, LINE]]. It waits for words as long as it runs: how busy the machine is says nothing of the
connection."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading

_lock = threading.Lock()


def say(kind: str, fields: object) -> None:
    with _lock:
        print(json.dumps([kind, fields]), flush=True)


def main(ports: list[int]) -> None:
    listeners = [socket.create_server(("::", p), family=socket.AF_INET6, dualstack_ipv6=True) for p in ports]
    for listener in listeners:
        threading.Thread(target=serve, args=(listener,)).start()
    say("ready", ports)


def serve(listener: socket.socket) -> None:
    while True:
        threading.Thread(target=listen, args=listener.accept(), daemon=True).start()


def listen(connection: socket.socket, peer: tuple[str, int]) -> None:
    port = connection.getsockname()[1]
    with connection, contextlib.suppress(OSError):
        connection.sendall(b"220 sink ESMTP\r\n")
        while octets := connection.recv(4096):
            say("heard", [peer[0], port, octets.decode("latin-1")])
            connection.sendall(b"250 sink\r\n")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
