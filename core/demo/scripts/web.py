"""A small web server: a page that counts its visitors. Usage: web.py [PORT]."""

import os
import signal
import socketserver
import sys
import threading
import time

PAGE = """<!doctype html><meta charset="utf-8"><title>Wharfinger</title>
<style>
body {{ font: 1.2em/1.5 system-ui; margin: 15vh auto; max-width: 32em; background: #12161b; color: #d5dae0 }}
b {{ color: #4fb3a5 }}
</style>
<h1>It works.</h1><p>This page comes from the container <b>{host}</b>, made from this machine's own shell and Python.
It has been asked for <b>{count}</b> times since it started {age} seconds ago.</p>
"""


class Handler(socketserver.StreamRequestHandler):
    """HTTP/1.0, one answer a connection (RFC 1945)."""

    timeout = 10
    count = 0
    started = time.monotonic()
    lock = threading.Lock()

    def handle(self) -> None:
        try:
            words = self.rfile.readline(65537).decode("latin-1").split()
            while self.rfile.readline(65537).strip():
                pass
            if len(words) >= 2:
                self.answer(words[0], words[1])
        except OSError:
            pass  # the client went away or was silent for ten seconds: there is nobody to tell

    def answer(self, method: str, path: str) -> None:
        begun = time.monotonic()
        status, body = self.page(method, path)
        head = f"HTTP/1.0 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + (b"" if method == "HEAD" else body))
        took = (time.monotonic() - begun) * 1000
        print(f'{self.client_address[0]} "{method} {path}" {status[:3]} {len(body)} {took:.1f}ms', flush=True)

    def page(self, method: str, path: str) -> tuple[str, bytes]:
        if method not in ("GET", "HEAD"):
            return "405 Method Not Allowed", b"<h1>Only GET and HEAD</h1>"
        if path == "/health":
            return "200 OK", b"ok"
        if path != "/":
            return "404 Not Found", b"<h1>Nothing here</h1>"
        with Handler.lock:
            Handler.count += 1
            count = Handler.count
        age = int(time.monotonic() - Handler.started)
        return "200 OK", PAGE.format(host=os.uname().nodename, count=count, age=age).encode()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


port = int(sys.argv[1]) if len(sys.argv) > 1 else 80
# The first process of a container has no default action for signals: without this, stop would wait for its timeout.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
with Server(("", port), Handler) as server:
    print(f"listening on port {port}", flush=True)
    server.serve_forever()
