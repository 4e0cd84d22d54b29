"""A TCP server that greets and tells who came: run_server.py PORT. One JSON array a line on standard output."""

from __future__ import annotations

import json
import socket
import sys

from egressguard.smtp.origin import original_destination


def main(port: int) -> None:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        print(json.dumps(["ready", listener.getsockname()[1]]), flush=True)
        while True:
            connection, peer = listener.accept()
            with connection:
                meant = original_destination(connection)
                print(json.dumps(["connection", [peer[0], str(meant)]]), flush=True)
                connection.sendall(b"220 here\r\n")
                connection.settimeout(5)
                try:
                    connection.recv(1)  # the client closes first, as SMTP clients do
                except OSError:
                    continue


if __name__ == "__main__":
    main(int(sys.argv[1]))
