"""A health check: does the web server of this container answer? Usage: probe.py PORT."""

import socket
import sys

with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2) as connection:
    connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
    answer = connection.recv(1024)
sys.exit(b" 200 " not in answer)
