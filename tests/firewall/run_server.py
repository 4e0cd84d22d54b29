"""A TCP server that greets and tells who came: run_server.py PORT [GREETING]. One JSON array a line of output."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading

from egressguard.smtp.origin import original_destination


def main(port: int, greeting: str = "220 here") -> None:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        print(json.dumps(["ready", listener.getsockname()[1]]), flush=True)
        while True:
            threading.Thread(target=greet, args=(*listener.accept(), greeting), daemon=True).start()


def greet(connection: socket.socket, peer: tuple[str, int], greeting: str) -> None:
    with connection:
        print(json.dumps(["connection", [peer[0], str(original_destination(connection))]]), flush=True)
        connection.sendall(f"{greeting}\r\n".encode())
        connection.settimeout(30)
        with contextlib.suppress(OSError):
            connection.recv(1000)  # the client closes first, as SMTP clients do


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
