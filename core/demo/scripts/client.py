"""Asks the web server for its page through the port published on the host. Usage: client.py PORT."""

import signal
import socket
import sys
import time


def gateway() -> str:
    """The host's address on this network, the default gateway; in /proc in the machine's byte order (proc_net(5))."""
    with open("/proc/net/route", encoding="ascii") as table:
        for fields in map(str.split, table):
            if fields[1] == "00000000":
                return socket.inet_ntoa(int(fields[2], 16).to_bytes(4, sys.byteorder))
    return "127.0.0.1"


def fetch(host: str, port: int) -> tuple[str, int]:
    """The status line and the number of bytes that came."""
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        data = b""
        while part := connection.recv(65536):
            data += part
    return data.partition(b"\r\n")[0].decode("latin-1"), len(data)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
host, port = gateway(), int(sys.argv[1])
while True:
    begun = time.monotonic()
    try:
        status, size = fetch(host, port)
        print(f"INFO {host}:{port} {status}, {size} bytes in {(time.monotonic() - begun) * 1000:.1f} ms", flush=True)
    except OSError as error:
        print(f"WARN {host}:{port} {error}", file=sys.stderr, flush=True)
    time.sleep(0.5)
