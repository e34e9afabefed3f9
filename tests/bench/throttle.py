"""A slow link: ``python -m tests.bench.throttle TARGET-PORT BYTES-PER-SECOND`` prints the port that it listens on.

What comes back from the target on all connections together is held to the rate. A process of its own, so that its work
is nobody's, and by splice(2), so that it is little.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

_PIECE = 64 * 1024


class Bucket:
    """Lets ``rate`` bytes a second through, whoever asks."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        self._free = time.monotonic()

    def take(self, count: int) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic() - 0.01) + count / self._rate
            wait = self._free - time.monotonic()
        if wait > 0:
            time.sleep(wait)


def _move(source: socket.socket, target: socket.socket, bucket: Bucket | None) -> None:
    read, write = os.pipe()
    try:
        while count := os.splice(source.fileno(), write, _PIECE):
            if bucket:
                bucket.take(count)
            while count:
                count -= os.splice(read, target.fileno(), count)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of them has hung up
    finally:
        os.close(read)
        os.close(write)


def _serve(client: socket.socket, port: int, bucket: Bucket) -> None:
    with client, socket.create_connection(("127.0.0.1", port)) as target:
        up = threading.Thread(target=_move, args=(client, target, None))
        up.start()
        _move(target, client, bucket)
        up.join()


def main() -> None:
    port, rate = int(sys.argv[1]), float(sys.argv[2])
    bucket = Bucket(rate)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, port, bucket), daemon=True).start()


if __name__ == "__main__":
    main()
